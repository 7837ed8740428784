"""Real processes that speak TLS on every way between them, and that take new certificates and passwords at SIGHUP.

agents -> proxy -> vendor (which asks for a certificate), proxy and control planes -> NATS (which asks for one, too),
operators and the command line -> control plane, a standby -> the leader, audit and control plane -> ClickHouse.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from support.certificates import Authority
from support.nats_server import RunningNats, running_nats

from controlplane.process_settings import AuditProcess, ClickHouseAccess, ControlProcess
from controlplane.up.datadir import write_private
from controlplane.up.nats.setup import write_config
from dataplane.node_settings import NodeSettings
from events.tls import client_tls, server_tls
from schemas.ids import operator_token, token_sha256
from schemas.settings import Settings, Upstream

READY_S = 120.0
OPERATOR = operator_token(b"1" * 32)
SECOND_OPERATOR = operator_token(b"2" * 32)


@dataclass
class Vendor:
    """A Stripe that serves payment intents to whoever shows our certificate; `seen`: the credentials."""

    url: str = ""
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers["Authorization"])
        intent = {"id": f"pi_{len(self.seen)}", "object": "payment_intent", "amount": 500, "currency": "usd"}
        return web.json_response({**intent, "amount_received": 500, "status": "succeeded"})


@dataclass
class Parts:
    """The running processes, their settings files, and the ports that they told."""

    directory: Path
    authority: Authority
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def start(self, name: str, module: str, role: str, settings: msgspec.Struct) -> dict[str, Any]:
        self.write(name, settings)
        with (self.directory / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-P", "-m", module, role, "--settings", str(self.path(name))]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        mark = self.directory / f"{name}.ready"
        async with asyncio.timeout(READY_S):
            while not mark.exists():
                assert self.processes[name].poll() is None, self.log(name)
                await asyncio.sleep(0.05)
        told: dict[str, Any] = json.loads(mark.read_text())
        return told

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def write(self, name: str, settings: msgspec.Struct) -> None:
        write_private(self.path(name), msgspec.json.encode(settings))

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def hang_up(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGINT)  # a proxy keeps no idle connection then
        for process in self.processes.values():
            process.wait(60)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    found = Parts(tmp_path, Authority(tmp_path / "tls"))
    yield found
    found.stop()


@pytest.fixture
async def vendor(parts: Parts) -> AsyncIterator[Vendor]:
    found = Vendor()
    runner = web.ServerRunner(web.Server(found.handle))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(parts.authority.server(verify=True)).ssl)
    await site.start()
    assert site._server is not None
    found.url = f"https://localhost:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    yield found
    await runner.cleanup()


@dataclass
class Running:
    """All of it. `controls`: the URLs of the two control planes."""

    parts: Parts
    nats: RunningNats
    vendor: Vendor
    settings: dict[str, Any]
    controls: list[str]
    proxy: str
    clickhouse_port: int

    def trusting(self) -> ssl.SSLContext:
        return client_tls(self.parts.authority.client(with_certificate=False)).ssl

    async def ask(self, method: str, url: str, body: Any = None, token: str = OPERATOR) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, json=body, headers=headers, ssl=self.trusting()) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def pay(self, token: str) -> int:
        form = {"amount": "500", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.proxy}/stripe/v1/payment_intents"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=form, headers=headers, ssl=self.trusting()) as answer,
        ):
            await answer.read()
            return answer.status


@pytest.fixture
async def running(parts: Parts, vendor: Vendor) -> AsyncIterator[Running]:
    authority, directory = parts.authority, parts.directory
    async with running_nats(directory, slots=("n1",), tls=authority.nats(), client_tls=authority.client()) as nats:
        stripe = Upstream(adapter="stripe", base_url=vendor.url, credential="sk_live_one", tls=authority.client())
        upstreams = Settings(upstreams={"stripe": stripe})
        access = ClickHouseAccess(
            host="localhost", port=0, user="ringfence", password="pw", tls=authority.client(with_certificate=False)
        )
        sizes: dict[str, Any] = {
            "control_stream_bytes": nats.limits.control_bytes,
            "nodes_stream_bytes": nats.limits.nodes_bytes,
        }
        audit = AuditProcess(
            nats=nats.credentials("control"),
            clickhouse=access,
            embedded_path=str(directory / "chdb"),
            ready_mark=str(directory / "audit.ready"),
            tls=authority.server(),
            **sizes,
        )
        told = await parts.start("audit", "controlplane", "audit", audit)
        access = msgspec.structs.replace(access, port=told["clickhouse_port"])
        settings: dict[str, Any] = {"audit": msgspec.structs.replace(audit, clickhouse=access)}
        controls = []
        for number in (1, 2):
            name = f"control-{number}"
            settings[name] = ControlProcess(
                settings=upstreams,
                nats=nats.credentials("control"),
                clickhouse=access,
                host="127.0.0.1",
                port=0,
                data_dir=str(directory / name),
                ready_mark=str(directory / f"{name}.ready"),
                bootstrap_token_sha256=token_sha256(OPERATOR),
                tls=authority.server(),
                peer_tls=authority.client(with_certificate=False),
                **sizes,
            )
            told = await parts.start(name, "controlplane", "control", settings[name])
            controls.append(f"https://127.0.0.1:{told['port']}")
        settings["proxy"] = NodeSettings(
            settings=upstreams,
            nats=nats.credentials("n1"),
            port=0,
            tls=authority.server(),
            ready_mark=str(directory / "proxy.ready"),
        )
        told = await parts.start("proxy", "dataplane", "proxy", settings["proxy"])
        proxy = f"https://127.0.0.1:{told['port']}"
        yield Running(parts, nats, vendor, settings, controls, proxy, access.port)
        await asyncio.to_thread(parts.stop)  # before NATS and the vendor, whose connections end with it
        await asyncio.sleep(0.2)


async def test_every_way_speaks_tls_and_takes_what_is_new_at_sighup(running: Running) -> None:
    tokens = await keys_by_both_control_planes(running)
    assert [await running.pay(token) for token in tokens] == [200, 200]
    await the_audit_shows(running, 2)
    await nobody_speaks_plainly(running)
    await the_command_line_needs_the_authority(running)
    await everything_is_renewed(running, tokens[0])


async def keys_by_both_control_planes(running: Running) -> list[str]:
    """One leads, the other forwards: both ways are TLS."""
    roles = {(await running.ask("GET", f"{url}/readyz"))[1]["role"] for url in running.controls}
    assert roles == {"leader", "standby"}
    asked = {"agent": "bot", "vendor": "stripe", "total_usd_cap": "100.00"}
    answers = [await running.ask("POST", f"{url}/v1/keys", asked) for url in running.controls]
    assert [status for status, _ in answers] == [201, 201]
    return [key["token"] for _, key in answers]


async def the_audit_shows(running: Running, count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            status, page = await running.ask("GET", f"{running.controls[0]}/v1/requests")
            if status == 200 and [row["outcome"] for row in page["data"]] == ["settled"] * count:
                return
            await asyncio.sleep(0.2)


async def nobody_speaks_plainly(running: Running) -> None:
    clickhouse = f"https://127.0.0.1:{running.clickhouse_port}/ping"
    for url in (*(f"{control}/healthz" for control in running.controls), f"{running.proxy}/healthz", clickhouse):
        assert (await running.ask("GET", url))[0] == 200
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url)
            with pytest.raises(aiohttp.ClientError):
                await session.get(url.replace("https:", "http:"))
            await asyncio.sleep(0.1)  # for the transports of both to end


async def the_command_line_needs_the_authority(running: Running) -> None:
    for ca_file, code, words in ((running.parts.authority.ca_file, 0, '"bot"'), ("", 3, "RINGFENCE_CA_FILE")):
        environment = {"RINGFENCE_CA_FILE": ca_file, "RINGFENCE_URL": running.controls[1], "RINGFENCE_TOKEN": OPERATOR}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "controlplane.cli", "keys", "list", "--json"),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, words in output.decode()) == (code, True), output


async def everything_is_renewed(running: Running, token: str) -> None:
    """New certificates, new NATS passwords, a new vendor's credential and a second operator, without a restart."""
    parts, nats, settings = running.parts, running.nats, running.settings
    ports = [int(url.rpartition(":")[2]) for url in (*running.controls, running.proxy)] + [running.clickhouse_port]
    before = [await certificate(port, running.trusting()) for port in ports]
    pids = {name: process.pid for name, process in parts.processes.items()}
    parts.authority.issue("server")
    (parts.directory / "nats" / "passwords.conf").unlink()
    nats.setup = write_config(
        parts.directory / "nats", limits=nats.limits, slots=nats.setup.slots, tls=parts.authority.nats()
    )
    nats.reload()
    control = nats.credentials("control")
    new = msgspec.structs.replace
    parts.write("audit", new(settings["audit"], nats=control))
    for name in ("control-1", "control-2"):
        digest = token_sha256(SECOND_OPERATOR)
        parts.write(name, new(settings[name], nats=control, bootstrap_token_sha256=digest))
    stripe = new(settings["proxy"].settings.upstreams["stripe"], credential="sk_live_two")
    upstreams = Settings(upstreams={"stripe": stripe})
    parts.write("proxy", new(settings["proxy"], nats=nats.credentials("n1"), settings=upstreams))
    parts.hang_up()
    async with asyncio.timeout(90):
        while not await renewed(running, token, ports, before):
            await asyncio.sleep(0.2)
            parts.hang_up()  # the operator is recorded by whoever leads once its log answers
    assert {name: process.pid for name, process in parts.processes.items() if process.poll() is None} == pids
    written = "".join(parts.log(name) for name in parts.processes)
    for secret in ("sk_live", OPERATOR, SECOND_OPERATOR, token, control.password):
        assert secret not in written


async def renewed(running: Running, token: str, ports: list[int], before: list[bytes]) -> bool:
    shown = [await certificate(port, running.trusting()) for port in ports]
    if any(now == then for now, then in zip(shown, before, strict=True)):
        return False
    if await running.pay(token) != 200 or "sk_live_two" not in running.vendor.seen[-1]:
        return False
    answers = [await running.ask("GET", f"{url}/v1/operators", token=SECOND_OPERATOR) for url in running.controls]
    return [status for status, _ in answers] == [200, 200]


async def certificate(port: int, context: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return found
