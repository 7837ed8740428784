"""A full log (rule L6): nothing is admitted, what was admitted ends, commands work, nothing is lost.

The whole product, leader and node: over streams in memory, and over a real nats-server.
"""

import asyncio
import os
from pathlib import Path

from sim.loop import run_virtual
from support.control_rig import Rig, day
from support.full_log import Product, fill, make_room, until, watch_over
from support.nats_server import running_nats

from controlplane.checkpoints import MemoryCheckpoints, restore
from controlplane.following import Following, Logs
from controlplane.leader import lead
from controlplane.up.nats.limits import MIB, StreamLimits
from dataplane.governor import Admission
from dataplane.ready import reasons_of
from events.messaging.clock import SystemClock
from events.types import RequestRefused, RequestReleased, RequestSettled
from schemas.policy import Who
from schemas.refusals import Refusal
from schemas.rpc import LeaseAnswer, LeaseAsk
from schemas.settings import Timing

CAP = 1_000
STREAM_BYTES = 400_000


async def _refused(product: Product, key: str) -> None:
    refusal = await product.admit(key)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.code == "log_unavailable"
    assert refusal.retry_after_s is not None
    assert "nearly full" in refusal.message


def _codes(product: Product) -> list[str]:
    node = product.governor.node
    return [reason.code for reason in reasons_of(node, connected=True)]


async def _rejects_then_ends_then_serves(product: Product, logs: Logs, size_bytes: int) -> None:
    """The story of both tests: full, refused, settled, revoked, trimmed, served."""
    watch = watch_over(product.leader, logs)
    await product.issue("vk_capped", CAP)
    await product.issue("vk_open")
    await product.issue("vk_doomed")
    await until(lambda: product.governor.ready)
    capped, free = await product.dispatched("vk_capped"), await product.dispatched("vk_open")
    await watch.look()
    assert isinstance(await product.admit("vk_open"), Admission)

    await fill(logs.nodes, 0.91, size_bytes)
    await watch.look()
    await until(lambda: product.governor.node.closed() is not None)
    assert "log_full" in _codes(product)
    for key in ("vk_capped", "vk_open"):
        await _refused(product, key)

    product.settle(capped)
    product.settle(free)
    budget = product.leader.budget
    await until(lambda: len(budget.open) == 1)  # the one that was admitted and not sent
    await product.revoke("vk_doomed")
    refusal = await product.admit("vk_doomed")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "key_revoked"

    await make_room(logs.nodes)
    await watch.look()
    await until(lambda: product.governor.ready)
    product.settle(await product.dispatched("vk_open"))
    product.settle(await product.dispatched("vk_capped"))
    await until(lambda: len(budget.open) == 1)
    figure = budget.figure("key", "vk_capped", "usd", "day", product.clock.wall_ns(), "UTC")
    assert (figure.settled, figure.held) == (10, 0)


def test_above_90_percent_nothing_is_admitted_and_all_else_goes_on_in_memory() -> None:
    async def main() -> None:
        rig = Rig()
        rig.nodes.max_bytes = STREAM_BYTES
        leader = await rig.lead()
        product = Product(leader, rig.bus.client("n1"), rig.nodes.port(), rig.clock)
        await product.governor.start()
        await _rejects_then_ends_then_serves(product, Logs(rig.control.port(), rig.nodes.port()), 2_000)
        assert len(rig.events(rig.nodes, RequestSettled)) == 4
        await product.governor.close()
        await rig.close()

    run_virtual(main())


async def test_above_90_percent_nothing_is_admitted_and_all_else_goes_on_over_nats(tmp_path: Path) -> None:
    limits = StreamLimits(control_bytes=8 * MIB, nodes_bytes=8 * MIB)
    async with running_nats(tmp_path, slots=("n1",), limits=limits) as server:
        logs = Logs(*(await server.streams()))
        clock, checkpoints = SystemClock(), MemoryCheckpoints()
        following = Following(logs, await restore(checkpoints, *logs), checkpoints, clock)
        bus = (await server.connect()).bus
        leader = await lead(logs, following, bus, clock, os.urandom, Timing())
        connection = await server.connect("n1")
        product = Product(leader, connection.bus, connection.appender, clock)
        try:
            await product.governor.start()
            await _rejects_then_ends_then_serves(product, logs, 128 * 1024)
        finally:
            await product.governor.close()
            await leader.close()


def test_refusals_of_a_full_log_are_counted_and_recorded_when_there_is_room() -> None:
    async def main() -> None:
        rig = Rig()
        rig.nodes.max_bytes = STREAM_BYTES
        leader = await rig.lead()
        product = Product(leader, rig.bus.client("n1"), rig.nodes.port(), rig.clock)
        await product.governor.start()
        await product.issue("vk_open")
        await until(lambda: product.governor.ready)
        leader.close_budget(full=True)
        await until(lambda: not product.governor.ready)
        for n in range(50):
            refused = RequestRefused(f"req_r{n}", "log_unavailable", n, n, Who())
            product.governor.refused(refused)
        await asyncio.sleep(5)
        assert rig.events(rig.nodes, RequestRefused) == []
        leader.close_budget(full=False)
        await asyncio.sleep(5)
        assert sum(event.count for event in rig.events(rig.nodes, RequestRefused)) == 50
        await product.governor.close()
        await rig.close()

    run_virtual(main())


def test_a_stream_that_is_full_to_the_brim_loses_nothing() -> None:
    """No leader watches: the node's own appends find the stream full."""

    async def main() -> None:
        rig = Rig()
        rig.nodes.max_bytes = STREAM_BYTES
        leader = await rig.lead()
        product = Product(leader, rig.bus.client("n1"), rig.nodes.port(), rig.clock)
        await product.governor.start()
        await product.issue("vk_capped", CAP)
        await product.issue("vk_open")
        await until(lambda: product.governor.ready)
        sent = [await product.dispatched("vk_capped"), await product.dispatched("vk_open")]
        port = rig.nodes.port()
        await fill(port, 1, 2_000)
        await fill(port, 1, 1)
        for admission in sent:
            product.settle(admission)
        await until(lambda: product.governor.node.closed() is not None)
        await _refused(product, "vk_open")
        await asyncio.sleep(20)
        assert leader.budget.figure("key", "vk_capped", "usd", "day", rig.clock.wall_ns(), "UTC").held == 5
        assert not leader.ended.done()
        await make_room(port)
        await until(lambda: product.governor.ready)
        await until(lambda: not leader.budget.open)
        ends = [event.request_id for event in rig.events(rig.nodes, RequestSettled)]
        assert {admission.request_id for admission in sent} <= set(ends)
        assert rig.events(rig.nodes, RequestReleased) == []
        figure = leader.budget.figure("key", "vk_capped", "usd", "day", rig.clock.wall_ns(), "UTC")
        assert (figure.settled, figure.held) == (5, 0)
        product.settle(await product.dispatched("vk_capped"))
        await product.governor.close()
        await rig.close()

    run_virtual(main())


def test_the_ledger_lends_nothing_and_lets_nobody_wait() -> None:
    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        fake = await rig.node("n1")
        product = Product(leader, rig.bus.client("n2"), rig.nodes.port(), rig.clock)
        await product.issue("vk_1", CAP)
        fake.gate.close()  # its leases cannot come back, so who comes next has to wait
        assert (await fake.ask("a", {day(): CAP})).outcome == "granted"
        waiting = asyncio.ensure_future(fake.call("ask", LeaseAsk("b", fake.incarnation, {day(): 10}), LeaseAnswer))
        await asyncio.sleep(0.05)
        leader.close_budget(full=True)
        answer = await waiting
        assert (answer.outcome, answer.log_full) == ("unavailable", True)
        again = await fake.ask("c", {day(): 10})
        assert (again.outcome, again.log_full) == ("unavailable", True)
        leader.close_budget(full=False)
        fake.gate.reopen()
        assert (await fake.ask("d", {day(): 10})).outcome in {"granted", "unavailable"}
        await rig.close()

    run_virtual(main())


def test_a_node_that_joins_learns_it_with_the_answer() -> None:
    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        leader.close_budget(full=True)
        fake = await rig.node("n1")
        assert fake.joined is not None
        assert fake.joined.log_full
        leader.close_budget(full=False)
        await fake.stop()
        again = await rig.node("n1")
        assert again.joined is not None
        assert again.joined.log_full is False
        await rig.close()

    run_virtual(main())


def test_a_new_leader_that_has_not_looked_yet_opens_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        leader = await rig.lead("cp1")
        product = Product(leader, rig.bus.client("n1"), rig.nodes.port(), rig.clock)
        await product.governor.start()
        await product.issue("vk_open")
        await until(lambda: product.governor.ready)
        leader.close_budget(full=True)
        await until(lambda: not product.governor.ready)
        product.leader = await rig.lead("cp2")
        await asyncio.sleep(5)
        await _refused(product, "vk_open")
        product.leader.close_budget(full=False)
        await until(lambda: product.governor.ready)
        assert isinstance(await product.admit("vk_open"), Admission)
        await product.governor.close()
        await rig.close()

    run_virtual(main())
