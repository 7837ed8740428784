"""A node's own port: health, readiness and metrics of this one process, from its start to its end."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.proxy_rig import ProxyRig

from dataplane.node_settings import NodeSettings
from dataplane.own_port import own_port
from events.messaging.clock import SystemClock
from events.messaging.credentials import NatsCredentials
from schemas.settings import Settings

NATS = NatsCredentials(servers=("nats://127.0.0.1:1",), user="n1", password="x", inbox_prefix="_INBOX_n1", slot="n1")


@pytest.fixture
async def rig() -> AsyncIterator[ProxyRig]:
    found = await ProxyRig().start()
    yield found
    await found.stop()


async def _get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_it_answers_for_this_node_alone(rig: ProxyRig) -> None:
    node = NodeSettings(settings=Settings(), nats=NATS, own_port=0)
    async with own_port(rig.proxy.own, SystemClock(), node, None) as port:
        assert port > 0
        assert await _get(port, "/healthz") == (200, '{"status":"ok","node":"n1"}')
        assert (await _get(port, "/readyz"))[0] == 200
        names = {family.name for family in text_string_to_metric_families((await _get(port, "/metrics"))[1])}
        assert {"ringfence_node_ready", "ringfence_requests", "process_resident_memory_bytes"} <= names
        for path in ("/stripe/v1/charges", "/v1/usage", "/", "/healthz/x"):
            status, text = await _get(port, path)
            assert (status, "/healthz" in text) == (404, True), path
        assert (await _get(port, "/readyz", "POST"))[0] == 400
        rig.governor.node.draining = True
        status, text = await _get(port, "/readyz?view=text")
        assert (status, text.splitlines()[0]) == (503, "not ready")
        rig.governor.node.draining = False


async def test_there_is_none_unless_it_is_wanted(rig: ProxyRig) -> None:
    async with own_port(rig.proxy.own, SystemClock(), NodeSettings(settings=Settings(), nats=NATS), None) as port:
        assert port == 0


async def test_a_port_that_is_taken_is_an_error(rig: ProxyRig) -> None:
    node = NodeSettings(settings=Settings(), nats=NATS, own_port=0)
    async with own_port(rig.proxy.own, SystemClock(), node, None) as port:
        again = NodeSettings(settings=Settings(), nats=NATS, own_port=port)
        with pytest.raises(OSError, match="in use"):
            async with own_port(rig.proxy.own, SystemClock(), again, None):
                pass
