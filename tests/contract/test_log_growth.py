"""Both logs stay within their limits however much is written, and what was trimmed away is forgotten by nobody."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, FakeNode, Rig, day, issue, record, settle

from controlplane import log_watch
from controlplane.checkpoints import Unsafe
from controlplane.following import Logs
from controlplane.leader import Leader
from controlplane.log_watch import STOP_SHARE, LogWatch
from events.log.memory import MemoryStream
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, node_fence
from events.types import KeyRevoked

STREAM_BYTES = 96 << 10
ROUNDS = 40
KEYS_A_ROUND = 12
CAP = 1_000


class Reader:
    """Folds everything that was ever written, before any of it is trimmed."""

    def __init__(self, rig: Rig) -> None:
        self.replica = Replica()
        self.bytes = {rig.control.name: 0, rig.nodes.name: 0}
        self._rig = rig

    def read(self) -> None:
        for stream, after, fold in (
            (self._rig.control, self.replica.control_seq, self.replica.apply_control),
            (self._rig.nodes, self.replica.nodes.seq, self.replica.apply_node),
        ):
            for message in stream.between(after, stream.state().last_sequence):
                assert message.sequence > after
                fold(message)
                self.bytes[stream.name] += len(message.payload)


class World:
    """A leader, a node, a watch over streams of 96 KiB. `audited_through`: how far the audit says it is; None: all."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.reader = Reader(rig)
        self.highest: dict[str, float] = {}
        self.audited_through: int | None = None
        self._written = 0

    async def audited(self) -> dict[str, int]:
        streams = (self.rig.control, self.rig.nodes)
        newest = {stream.name: stream.state().last_sequence for stream in streams}
        return {name: newest[name] if self.audited_through is None else self.audited_through for name in newest}

    def watch(self, leader: Leader) -> LogWatch:
        logs = Logs(self.rig.control.port(), self.rig.nodes.port())
        return LogWatch(logs, leader.recorder, self.audited, leader.close_budget)

    async def round(self, leader: Leader, node: FakeNode, watch: LogWatch) -> None:
        """Keys that come and go, each with a request; then a look at the logs."""
        first, self._written = self._written, self._written + KEYS_A_ROUND
        for number in range(first, self._written):
            key = f"vk_{number}"
            await leader.execute(issue(key, CAP, metadata={"run_id": "r" * 100}), BY)
            line = day(f"key:{key}")
            assert (await node.ask(f"ask_{key}", {line: 10})).outcome == "granted"
            node.admit(f"req_{key}", 10, line, key=key)
            if number % 3:
                node.settle(f"req_{key}", 7)
            if number % 2:
                await leader.execute(record(KeyRevoked(key, BY)), BY)
        await asyncio.sleep(log_watch.TRIM_EVERY_S)
        self.reader.read()
        await watch.look()
        for name, share in watch.shares.items():
            self.highest[name] = max(share, self.highest.get(name, 0.0))


def scenario(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[pytest.MonkeyPatch], None]:
    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_watch, "TRIM_EVERY_S", 1.0)

        async def main() -> None:
            rig = Rig()
            rig.control.max_bytes = rig.nodes.max_bytes = STREAM_BYTES
            await test(World(rig))
            await rig.close()

        run_virtual(main())

    run.__name__ = test.__name__
    return run


@scenario
async def test_logs_are_trimmed_below_checkpoints_and_a_restart_knows_everything(world: World) -> None:
    rig = world.rig
    leader = await rig.lead("cp1")
    node = await rig.node("n1")
    watch = world.watch(leader)
    for _ in range(ROUNDS):
        await world.round(leader, node, watch)
        assert not leader.ledger.core.closed
    assert min(world.reader.bytes.values()) > 2 * STREAM_BYTES, "too little was written to show anything"
    assert max(world.highest.values()) < STOP_SHARE
    for stream, fence in ((rig.control, CONTROL_FENCE), (rig.nodes, node_fence("n1", node.incarnation))):
        assert stream.last_on_subject(fence) is not None
        assert trimmed(stream) > 0

    await leader.close(checkpoint=False)  # as killed: it starts from what the trims had written
    rig.leaders.clear()
    again = await rig.lead("cp2")
    await caught_up(again, rig.nodes)
    world.reader.read()
    assert again.replica.dump() == world.reader.replica.dump()

    # What only trimmed messages had said still holds: revoked stays revoked, spent stays spent.
    assert (again.state.keys["vk_1"].state, again.state.keys["vk_2"].state) == ("revoked", "active")
    await again.execute(issue("vk_1", CAP), BY)
    assert again.state.keys["vk_1"].state == "revoked"
    figure = again.budget.figure("key", "vk_2", "usd", "day", rig.clock.wall_ns(), "UTC")
    assert (figure.settled, figure.held) == (7, 0)
    figure = again.budget.figure("key", "vk_0", "usd", "day", rig.clock.wall_ns(), "UTC")
    assert (figure.settled, figure.held) == (0, 10)


@scenario
async def test_without_its_checkpoints_a_trimmed_log_is_refused(world: World) -> None:
    leader = await world.rig.lead("cp1")
    node = await world.rig.node("n1")
    watch = world.watch(leader)
    while not trimmed(world.rig.control):
        await world.round(leader, node, watch)
    await leader.close(checkpoint=False)
    world.rig.leaders.clear()
    world.rig.checkpoints.data = world.rig.checkpoints.older = b"damaged"
    with pytest.raises(Unsafe, match="Restore the checkpoint"):
        await world.rig.lead("cp2")


@scenario
async def test_an_audit_that_stands_still_fills_the_log_and_loses_nothing(world: World) -> None:
    rig = world.rig
    leader = await rig.lead("cp1")
    node = await rig.node("n1")
    watch = world.watch(leader)
    world.audited_through = 3
    while not leader.ledger.core.closed:
        await settle()
        first = world._written
        await leader.execute(issue(f"vk_{first}", CAP, metadata={"run_id": "r" * 2_000}), BY)
        world._written += 1
        await watch.look()
    assert trimmed(rig.control) <= 3
    world.audited_through = None
    await asyncio.sleep(log_watch.TRIM_EVERY_S)
    await watch.look()
    await asyncio.sleep(log_watch.TRIM_EVERY_S)
    await watch.look()
    assert not leader.ledger.core.closed
    assert (await node.ask("a", {day("key:vk_0"): 10})).outcome == "granted"


def trimmed(stream: MemoryStream) -> int:
    """How many messages are gone."""
    return stream.state().last_sequence - stream.state().messages


async def caught_up(leader: Leader, nodes: MemoryStream) -> None:
    while leader.replica.nodes.seq < nodes.state().last_sequence:
        await settle()
