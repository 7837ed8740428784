"""Every registry of the product with something in each family, as `/metrics` would show it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from support.control_rig import Rig
from support.full_log import Product, until

from controlplane.audit.observe import AuditObserver
from controlplane.audit.store import Store
from controlplane.audit.writer import LogWriter
from controlplane.audit_status import LogProgress, encode_status
from controlplane.following import Logs
from controlplane.leader import Leader
from controlplane.operations import Operations
from controlplane.process_settings import ClickHouseAccess
from dataplane.intake import Bodies
from dataplane.metrics import Metrics, exposition
from dataplane.metrics_node import edge_metrics
from dataplane.upstreams import Destinations
from events.subjects import AUDIT_STATUS
from schemas.fx import build_fx
from schemas.price_file import packaged_text, parse_prices
from schemas.settings import Settings, Upstream

STORE = Store(ClickHouseAccess(host="127.0.0.1", port=1, user="nobody", password=""))
"""Nothing listens there."""


def operations_of(rig: Rig, leader: Leader | None) -> Operations:
    """What an operator sees of a control plane in the rig; a leader's duties are `meanwhile`'s."""
    bus = rig.bus.client("operations")
    logs = Logs(rig.control.port(), rig.nodes.port())
    return Operations(
        logs,
        STORE,
        bus,
        rig.clock,
        rig.timing,
        replica=lambda: leader.replica if leader is not None else rig.leaders[0].replica,
        place=lambda: leader.readiness() if leader is not None else "standby: no leader is known",
    )


@asynccontextmanager
async def presided(rig: Rig, leader: Leader) -> AsyncIterator[Operations]:
    """Operations with the leader's duties under way, after a first look."""
    operations = operations_of(rig, leader)
    await operations.ear.start()
    duty = asyncio.ensure_future(operations.meanwhile(leader))
    try:
        await until(lambda: bool(operations.watch.states))
        yield operations
    finally:
        duty.cancel()
        await operations.ear.stop()


async def control_text(rig: Rig, leader: Leader, operations: Operations) -> str:
    """A control plane's metrics, with an audit that was heard and an answer of the API."""
    await rig.bus.client("audit").publish(AUDIT_STATUS, encode_status({"nodes": LogProgress(5, 1, 0.5)}))
    await until(lambda: bool(operations.ear.logs))
    await leader.recorder.save()
    operations.metrics.observe("GET", "/v1/keys", 200, 0.01)
    return operations.metrics.render().decode()


def node_text(product: Product) -> str:
    metrics = Metrics()
    prices, fx = parse_prices(packaged_text()), build_fx(Settings().fx)
    upstreams = {"stripe": Upstream(adapter="stripe", base_url="https://api.stripe.com", credential="sk_x")}
    destinations = Destinations(upstreams, prices, fx)
    metrics.sources.append(lambda: edge_metrics(Bodies(), destinations))
    metrics.requests["stripe", "relayed"] += 1
    metrics.refusals["overloaded"] += 1
    metrics.overhead_us.observe(300)
    return exposition(metrics, product.governor).decode()


def audit_text(rig: Rig) -> str:
    writers: dict[Any, LogWriter] = {
        "control": LogWriter("control", rig.control.port(), STORE),
        "nodes": LogWriter("nodes", rig.nodes.port(), STORE),
    }
    writers["nodes"].progress.oldest_unwritten_ns = 1
    return AuditObserver(writers, rig.bus.client("audit")).metrics().decode()


def families(text: str) -> dict[str, Any]:
    """By name as it is scraped (counters with `_total`), each once; without the client library's own (`process_*`)."""
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("process_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in found, name
        found[name] = family
    return found
