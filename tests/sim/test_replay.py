"""P5: replaying a day's log gives the same ledger, byte for byte.

The logs are those of a day with everything in it (sim.day). Whatever way they are folded (in one go, in batches of any
size through the very reader that a control plane has, from a checkpoint on, in any interleaving of the two logs, in a
process in which strings hash differently), the canonical bytes of the state are those that the leader had in the end.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
from sim.day import HOUR_NS, Day, play_a_day
from sim.fold import digest_of, fold, write_logs
from sim.loop import run_virtual
from sim.test_seeds import finish, start
from sim.world import SimClock

from controlplane import following
from controlplane.checkpoints import MemoryCheckpoints, Position, read_checkpoint, restore, write_checkpoint
from controlplane.following import Following, Logs
from events.codec import decode_batch
from events.log.memory import MemoryStream
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM

SEEDS = (4, 6)

MUST_HAPPEN = (
    "LeaseGranted",
    "LeaseReturned",
    "RequestAdmitted",
    "RequestReleased",
    "RequestSettled",
    "RequestReconciled",
    "LeaderStarted",
    "NodeFenced",
    "KeyRevoked",
    "BudgetSet",
    "refused",
    "read objects",
)
"""In these days. A log in which nothing happens is replayed by anything."""

a_day = lru_cache(play_a_day)


@pytest.fixture(scope="module", params=SEEDS)
def day(request: pytest.FixtureRequest) -> Day:
    return a_day(request.param)


def test_these_days_have_everything_in_them() -> None:
    days = [a_day(seed) for seed in SEEDS]
    assert [day.violations for day in days] == [[] for _ in SEEDS]
    assert [what for what in MUST_HAPPEN if sum(day.counts.get(what, 0) for day in days) < 3] == []
    for day in days:
        assert Replica.load(day.folded).budget.open, "nothing is of unknown outcome"
        begin, end = (decode_batch(message.payload).at_ns for message in (day.control[0], day.control[-1]))
        assert end - begin > 24 * HOUR_NS


def test_in_one_go(day: Day) -> None:
    assert fold(day.control, day.nodes).dump() == day.folded


@pytest.mark.parametrize("batch", [1, 7, 100, 5_000])
def test_in_batches_of_any_size(day: Day, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "BATCH", batch)
    monkeypatch.setattr(following, "EVENTS_A_STEP", 2 * batch)
    assert follow(day, MemoryCheckpoints()) == day.folded


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_any_interleaving(day: Day, seed: int) -> None:
    replica = Replica()
    for control, message in interleaved(day, Random(seed)):
        take(replica, control, message)
    assert replica.dump() == day.folded


def test_from_each_checkpoint_on(day: Day) -> None:
    """A checkpoint is taken after every few messages, and what it gives goes on through the next few: if each step ends
    where the fold in one go is, so does the way from any checkpoint to the end.
    """
    replica, checkpoint = Replica(), write_checkpoint(Replica(), Position(), Position())
    last = {True: Position(), False: Position()}
    for messages in by(40, list(interleaved(day, Random(4)))):
        restored = read_checkpoint(checkpoint)[1]
        for control, message in messages:
            take(replica, control, message)
            take(restored, control, message)
            last[control] = Position.of(message)
        whole = write_checkpoint(replica, last[True], last[False])
        checkpoint = write_checkpoint(restored, last[True], last[False])
        assert checkpoint == whole
    assert replica.dump() == day.folded


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_control_plane_starts_from_a_checkpoint(day: Day, share: float) -> None:
    """With the real start: the checkpoint is held against the streams, and what came after it is read and folded."""
    messages = list(interleaved(day, Random(5)))
    replica, last = Replica(), {True: Position(), False: Position()}
    for control, message in messages[: int(len(messages) * share)]:
        take(replica, control, message)
        last[control] = Position.of(message)
    store = MemoryCheckpoints()
    asyncio.run(store.save(write_checkpoint(replica, last[True], last[False])))
    assert follow(day, store) == day.folded


def test_where_strings_hash_differently(day: Day, tmp_path: Path) -> None:
    """Nothing depends on the order of a set."""
    write_logs(tmp_path / "logs", day.control, day.nodes)
    running = [start(str(tmp_path / "logs"), module="sim.fold", hash_seed=seed) for seed in ("1", "2")]
    assert [finish(each) for each in running] == [[digest_of(day.folded)]] * 2


def test_another_log_gives_another_ledger(day: Day) -> None:
    """The bytes are not alike because nothing is in them: without one settlement, or one grant, they differ."""
    spent = next(index for index, message in enumerate(day.nodes) if b"RequestSettled" in message.payload)
    lent = next(message for message in reversed(day.control) if b"LeaseGranted" in message.payload)
    short = Replica.load(fold(day.control, day.nodes[:spent]).dump())
    longer = fold(day.control, day.nodes[: spent + 1])
    assert short.dump() != longer.dump()
    assert b"granted" in lent.payload
    before = fold(day.control[: lent.sequence - 1], day.nodes)
    after = fold(day.control[: lent.sequence], day.nodes)
    assert before.budget.leases.rows() != after.budget.leases.rows()


def take(replica: Replica, control: bool, message: Stored) -> None:
    if control:
        replica.apply_control(message)
    else:
        replica.apply_node(message)


def interleaved(day: Day, random: Random) -> Iterator[tuple[bool, Stored]]:
    """Both logs, each in its order; (whether it is the control log's, message)."""
    ways = [True] * len(day.control) + [False] * len(day.nodes)
    random.shuffle(ways)
    control, nodes = iter(day.control), iter(day.nodes)
    for of_control in ways:
        yield of_control, next(control if of_control else nodes)


def by(size: int, messages: Sequence[tuple[bool, Stored]]) -> Iterator[Sequence[tuple[bool, Stored]]]:
    for begin in range(0, len(messages), size):
        yield messages[begin : begin + size]


def follow(day: Day, checkpoints: MemoryCheckpoints) -> bytes:
    """What a control plane knows that starts now and reads both streams to their ends."""

    async def main() -> bytes:
        clock = SimClock(lambda: 0, 0, 0)
        logs = Logs(stream_of(CONTROL_STREAM, day.control).port(), stream_of(NODES_STREAM, day.nodes).port())
        restored = await restore(checkpoints, logs.control, logs.nodes)
        reading = Following(logs, restored, checkpoints, clock)
        await reading.to_ends()
        await reading.close()
        return reading.replica.dump()

    folded: bytes = run_virtual(main())
    return folded


def stream_of(name: str, messages: Sequence[Stored]) -> MemoryStream:
    stream = MemoryStream(name, now_ns=lambda: 0)
    for message in messages:
        assert stream.store(message.subject, message.payload, None, None).sequence == message.sequence
    return stream
