"""`/readyz` tells the truth in every fault: what it says is what a request or a command would find."""

import asyncio
import os
from pathlib import Path

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, Gate, issue
from support.control_rig import Rig as ControlRig
from support.full_log import Product, until
from support.governor_rig import LOST, Rig, code, virtual
from support.governor_rig import until as until_virtual
from support.nats_server import running_nats
from support.registries import STORE, operations_of, presided

from controlplane.audit.observe import AuditObserver
from controlplane.audit.writer import LogWriter
from controlplane.audit_status import LogProgress, encode_status
from controlplane.checkpoints import MemoryCheckpoints, restore
from controlplane.following import Following, Logs
from controlplane.leader import lead
from controlplane.operations import Operations
from controlplane.readiness import Standing, reasons_of
from dataplane.governor import Admission
from dataplane.ready import reasons_of as node_reasons
from events.log.memory import MemoryStream
from events.log.port import LogUnavailable, StreamState
from events.messaging.clock import SystemClock
from events.messaging.memory import MemoryBus
from events.subjects import AUDIT_STATUS, NODES_STREAM
from schemas.readiness import REASONS, Reason, render_reasons
from schemas.settings import Timing


def codes(reasons: list[Reason]) -> list[str]:
    return [reason.code for reason in reasons]


def hindrances(reasons: list[Reason]) -> list[str]:
    return [code for code in codes(reasons) if not REASONS[code].warning]


def of(rig: Rig) -> list[str]:
    return codes(node_reasons(rig.governor.node, connected=True))


async def agrees(rig: Rig) -> None:
    """A node that says it is ready admits, one that says it is not refuses."""
    ready = not hindrances(node_reasons(rig.governor.node, connected=True))
    assert isinstance(await rig.admit(), Admission) == ready


# ---------------------------------------------------------------- nodes


@virtual
async def test_a_node_before_it_has_joined_and_loaded() -> None:
    rig = Rig()
    rig.control.silent = {"join", "snapshot"}
    await rig.control.start()
    await rig.governor.start()
    assert of(rig) == ["not_joined", "no_policy"]
    rig.control.silent = {"snapshot"}
    await until_virtual(lambda: of(rig) == ["no_policy"])
    rig.control.silent = set()
    await until_virtual(lambda: of(rig) == [])
    await rig.stop()


@virtual
async def test_a_fenced_node_says_that_it_asks_to_join_again() -> None:
    rig = Rig()
    await rig.start()
    await agrees(rig)
    rig.control.silent = {"join"}
    await rig.control.fence(rig.control.joined[0])
    await until_virtual(lambda: rig.governor.node.incarnation is None)
    reasons = node_reasons(rig.governor.node, connected=True)
    assert codes(reasons) == ["not_joined"]
    assert "fenced" in reasons[0].message
    rig.control.silent = set()
    await rig.rejoined(2)
    assert of(rig) == []
    await agrees(rig)
    await rig.stop()


@virtual
async def test_a_node_whose_feed_is_silent() -> None:
    rig = Rig()
    await rig.start()
    rig.control.feeding = False
    rig.control.silent = {"catchup", "snapshot"}
    await asyncio.sleep(rig.timing.leader_timeout_ms / 1000 - 0.5)
    assert of(rig) == []
    await asyncio.sleep(2)
    assert of(rig) == ["feed_silent", "asks_unanswered"]
    await agrees(rig)  # it serves with what it holds
    await asyncio.sleep(rig.timing.feed_max_age_ms / 1000)
    assert of(rig) == ["feed_stale", "asks_unanswered"]
    await agrees(rig)
    rig.control.feeding = True
    rig.control.silent = set()
    await until_virtual(lambda: of(rig) == [])
    await rig.stop()


@virtual
async def test_a_node_whose_appends_time_out() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.rest = LOST
    await until_virtual(lambda: of(rig) == ["log_stalled"])
    reasons = node_reasons(rig.governor.node, connected=True)
    assert "timeout" in reasons[0].message
    assert code(await rig.admit()) == "log_unavailable"
    rig.faults.rest = type(LOST)()
    await until_virtual(lambda: of(rig) == [])
    await agrees(rig)
    await rig.stop()


@virtual
async def test_a_node_that_drains_or_has_lost_nats_or_whose_clock_is_wrong() -> None:
    rig = Rig()
    await rig.start()
    node = rig.governor.node
    assert codes(node_reasons(node, connected=False)) == ["nats_unreachable"]
    node.feed.heard(99, rig.control.clock.wall_ns() + 3_600 * 10**9, log_full=False)
    reasons = node_reasons(node, connected=True)
    assert codes(reasons) == ["clock_offset"]
    assert render_reasons(reasons).ready
    await agrees(rig)
    node.draining = True
    assert codes(node_reasons(node, connected=True))[0] == "draining"
    await agrees(rig)
    node.draining = False
    await rig.stop()


# ---------------------------------------------------------------- control plane


@pytest.mark.parametrize(
    ("standing", "hindered", "warned"),
    [
        (Standing(), [], []),
        (Standing(connected=False), ["nats_unreachable"], []),
        (Standing(draining=True, place="closing"), ["draining"], []),
        (Standing(place="standby: no leader is known"), ["not_ready"], []),
        (Standing(place="no appends", stalled_s=2.0, trouble="timeout"), ["log_stalled"], []),
        (Standing(streams_silent_s={"RF_NODES": 6.0}), ["stream_silent"], []),
        (Standing(streams_silent_s={"RF_NODES": 1.0}), [], []),
        (Standing(log_full=True), [], ["admission_stopped"]),
        (Standing(clock_offset_s=-3_600.0), [], ["clock_offset"]),
        (Standing(checkpoint_failing=True), [], ["checkpoint_failing"]),
        (Standing(audit_silent_s=60.0), [], ["audit_silent"]),
        (Standing(audit_lag_s={"nodes": 70.0}), [], ["audit_behind"]),
    ],
)
def test_a_control_planes_reasons(standing: Standing, hindered: list[str], warned: list[str]) -> None:
    found = reasons_of(standing)
    assert hindrances(found) == hindered
    assert [code for code in codes(found) if REASONS[code].warning] == warned
    assert render_reasons(found).ready == (not hindered)


def test_a_leader_without_appends_and_with_a_late_audit() -> None:
    async def main() -> None:
        rig = ControlRig()
        gate = Gate()
        leader = await rig.lead(control=gate)
        async with presided(rig, leader) as operations:
            audit = rig.bus.client("audit")
            assert codes(list(operations.reasons())) == []
            await audit.publish(AUDIT_STATUS, encode_status({"nodes": LogProgress(1, 1, 70.0, "ClickHouse is away")}))
            await asyncio.sleep(0.1)
            assert codes(list(operations.reasons())) == ["audit_behind"]
            await asyncio.sleep(16)
            assert codes(list(operations.reasons())) == ["audit_silent", "audit_behind"]
            await audit.publish(AUDIT_STATUS, encode_status({"nodes": LogProgress(9)}))
            await asyncio.sleep(0.1)
            assert codes(list(operations.reasons())) == []
            gate.close()
            command = asyncio.ensure_future(leader.execute(issue(), BY))
            await asyncio.sleep(2)
            assert codes(list(operations.reasons())) == ["log_stalled"]
            gate.reopen()
            await command
            assert codes(list(operations.reasons())) == []
            operations.draining = True
            assert codes(list(operations.reasons())) == ["draining"]
        assert codes(list(operations_of(rig, None).reasons())) == ["not_ready"]
        await rig.close()

    run_virtual(main())


def test_a_stream_that_does_not_answer_and_a_clock_that_is_wrong() -> None:
    async def main() -> None:
        rig = ControlRig()
        leader = await rig.lead()
        await rig.node("n1")
        async with presided(rig, leader) as operations:
            await asyncio.sleep(8)
            assert operations.clock_offset_s == pytest.approx(0, abs=1)
            port = operations.watch.ports.nodes
            answered, port.state = port.state, _silent  # type: ignore[method-assign]  # a fault
            await asyncio.sleep(12)
            assert hindrances(list(operations.reasons())) == ["stream_silent"]
            port.state = answered  # type: ignore[method-assign]
            await asyncio.sleep(12)
            assert hindrances(list(operations.reasons())) == []
            rig.nodes._now_ns = lambda: rig.clock.wall_ns() - 3_600 * 10**9
            await asyncio.sleep(12)
            assert "clock_offset" in codes(list(operations.reasons()))
        await rig.close()

    run_virtual(main())


async def _silent() -> StreamState:
    raise LogUnavailable("no quorum")


def test_the_audits_reasons() -> None:
    async def main() -> None:
        rig = ControlRig()
        writer = LogWriter("nodes", MemoryStream(NODES_STREAM, now_ns=rig.clock.wall_ns).port(), STORE)
        observer = AuditObserver({"nodes": writer}, MemoryBus().client("audit"))
        assert observer.reasons() == []
        writing = asyncio.ensure_future(writer.run())
        await until(lambda: bool(writer.progress.trouble))
        assert codes(observer.reasons()) == ["audit_blocked"]
        assert "nobody" not in observer.reasons()[0].message
        writing.cancel()

    asyncio.run(main())


# ---------------------------------------------------------------- a real server that is away


async def test_nats_away_and_back(tmp_path: Path) -> None:
    async with running_nats(tmp_path, slots=("n1",)) as server:
        logs = Logs(*(await server.streams()))
        clock, checkpoints = SystemClock(), MemoryCheckpoints()
        following = Following(logs, await restore(checkpoints, *logs), checkpoints, clock)
        bus = (await server.connect()).bus
        leader = await lead(logs, following, bus, clock, os.urandom, Timing())
        connection = await server.connect("n1")
        product = Product(leader, connection.bus, connection.appender, clock)
        operations = Operations(
            logs, STORE, bus, clock, Timing(), replica=lambda: leader.replica, place=leader.readiness
        )
        await operations.ear.start()
        duty = asyncio.ensure_future(operations.meanwhile(leader))
        node = product.governor.node

        def both() -> list[str]:
            found = [*operations.reasons(), *node_reasons(node, connected=node.control.connected)]
            return hindrances(found)

        try:
            await product.governor.start()
            await until(lambda: not both())
            await server.kill()
            await until(lambda: both().count("nats_unreachable") == 2)
            await server.start()
            await until(lambda: not both())
            await product.issue("vk_1")
            product.settle(await product.dispatched("vk_1"))
        finally:
            duty.cancel()
            await operations.ear.stop()
            await product.governor.close()
            await leader.close()
