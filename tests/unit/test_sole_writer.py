"""The sole writer when the way to the log loses, doubles and delays; in virtual time."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from sim.loop import VirtualLoop, run_virtual

from events.log.faults import ACK_LOST, LOST, SOUND, PublishFate
from events.log.memory import MemoryStream
from events.log.port import AppendUncertain, FenceExpectation, FenceMoved, PayloadTooLarge, PubAck
from events.log.writer import (
    NO_PROOF_NS,
    Fenced,
    LogClosed,
    LogOverloaded,
    SoleWriterLog,
    WriterSettings,
)

SUBJECT, FENCE = "rf.node.log.n1.i1", "rf.node.fence.n1.i1"
MS = 1_000_000


def encode(n: int, events: Sequence[Any]) -> bytes:
    return json.dumps({"n": n, "events": list(events)}).encode()


class Script:
    """Fates in order; sound when it is over. Records when each publish was sent, and under which id."""

    def __init__(self, *fates: PublishFate) -> None:
        self.fates = list(fates)
        self.sent: list[tuple[float, str | None]] = []

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        self.sent.append((round(asyncio.get_running_loop().time(), 4), msg_id))
        return self.fates.pop(0) if self.fates else SOUND

    def delivery_delay_s(self, sequence: int) -> float:
        return 0.0


class World:
    """A stream with an open fence, and a writer on it."""

    def __init__(self, *fates: PublishFate, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.script = Script(*fates)
        self.stream = MemoryStream("RF_NODES", now_ns=loop.time_ns, max_payload_bytes=100_000)
        fence = self.stream.store(FENCE, b"opened", None, None)
        options = {"encode": encode, "clock_ns": loop.time_ns, "incarnation": "i1", **options}
        self.writer: SoleWriterLog[Any] = SoleWriterLog(
            options.pop("port", None) or self.stream.port(self.script),
            subject=SUBJECT,
            fence=FenceExpectation(FENCE, fence.sequence),
            **options,
        )
        self.writer.start()

    def fence(self) -> None:
        self.stream.store(FENCE, b"fenced", None, None)

    def log(self) -> list[list[Any]]:
        """The batches stored, after checking that their numbers have no gap and no repeat."""
        found = [
            json.loads(stored.payload)
            for stored in self.stream.between(0, self.stream.state().last_sequence)
            if stored.subject == SUBJECT
        ]
        assert [batch["n"] for batch in found] == list(range(1, len(found) + 1))
        return [batch["events"] for batch in found]


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtual
async def test_a_lost_message_is_sent_again_under_its_id() -> None:
    world = World(LOST, LOST)
    appended = await world.writer.append_nowait(["a"])
    assert not appended.duplicate
    assert appended.first_sent_ns == 0
    assert world.script.sent == [(0.0, "i1.1"), (0.505, "i1.1"), (1.015, "i1.1")]
    assert world.writer.proof_age_ns() == 1_015 * MS, "proof counts from the first send (A1)"
    assert world.log() == [["a"]]


@virtual
async def test_a_lost_acknowledgement_ends_as_duplicate_and_proves_nothing() -> None:
    world = World(ACK_LOST)
    appended = await world.writer.append_nowait(["a"])
    assert appended.duplicate
    assert world.writer.proof_age_ns() == NO_PROOF_NS
    fresh = await world.writer.append_nowait(["again, under a new id"])
    assert not fresh.duplicate
    assert world.writer.proof_age_ns() == 0
    assert world.log() == [["a"], ["again, under a new id"]]


@virtual
async def test_the_next_message_waits_until_the_fate_of_the_last_is_known() -> None:
    world = World(LOST, LOST, LOST)
    first = world.writer.append_nowait([1])
    await asyncio.sleep(0)
    rest = [world.writer.append_nowait([n]) for n in range(2, 30)]
    await asyncio.gather(first, *rest)
    assert [msg_id for _, msg_id in world.script.sent] == ["i1.1"] * 4 + ["i1.2"]
    assert world.log() == [[1], list(range(2, 30))]


@virtual
async def test_a_message_that_lands_late_lands_once() -> None:
    late = PublishFate(arrivals_s=(3.0,))
    world = World(late, LOST, LOST, PublishFate(arrivals_s=(0.0, 0.4)))
    appended = await world.writer.append_nowait(["a"])
    await world.writer.append_nowait(["b"])
    await asyncio.sleep(5.0)
    assert world.log() == [["a"], ["b"]]
    assert not appended.duplicate


@virtual
async def test_scenario_1_a_duplicate_after_the_fence_is_no_proof() -> None:
    # Intent stored, acknowledgement lost, fenced, resend answered "duplicate": must not dispatch.
    world = World(ACK_LOST)
    waiting = world.writer.append_nowait(["intent"])
    await asyncio.sleep(0.1)
    world.fence()
    appended = await waiting
    assert appended.duplicate
    assert world.writer.proof_age_ns() == NO_PROOF_NS
    with pytest.raises(Fenced):
        await world.writer.append_nowait(["revalidated"])
    assert world.log() == [["intent"]]


@virtual
async def test_a_message_that_arrives_behind_the_fence_is_refused() -> None:
    told: list[str] = []
    world = World(PublishFate(arrivals_s=(0.2,)), on_fenced=lambda: told.append("fenced"))
    waiting = [world.writer.append_nowait(["a"])]
    await asyncio.sleep(0.1)
    world.fence()
    waiting.append(world.writer.append_nowait(["queued behind it"]))
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [Fenced, Fenced]
    assert told == ["fenced"]
    assert world.writer.fenced
    assert world.log() == []


@virtual
async def test_heartbeats_come_when_and_only_when_nothing_else_proves() -> None:
    world = World()
    world.writer.heartbeat(0.1, lambda: "beat")
    await asyncio.sleep(1.05)
    assert [at for at, _ in world.script.sent] == pytest.approx([n / 10 for n in range(11)], abs=0.002)
    for _ in range(20):
        await world.writer.append_nowait(["work"])
        await asyncio.sleep(0.05)
    assert len([batch for batch in world.log() if batch == ["beat"]]) == 11
    await asyncio.sleep(0.5)
    assert world.log()[-4:] == [["beat"]] * 4


@virtual
async def test_after_a_duplicate_a_heartbeat_restores_the_proof_at_once() -> None:
    world = World(SOUND, ACK_LOST)
    world.writer.heartbeat(0.1, lambda: "beat")
    await asyncio.sleep(0.01)
    await world.writer.append_nowait(["work"])
    await asyncio.sleep(0.01)
    assert world.log() == [["beat"], ["work"], ["beat"]]
    assert world.writer.proof_age_ns() <= 10 * MS


@virtual
async def test_proof_ages_through_a_suspension_of_the_machine() -> None:
    asleep_ns = 0
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    world = World(clock_ns=lambda: loop.time_ns() + asleep_ns)
    await world.writer.append_nowait(["a"])
    asleep_ns = 3_600 * 10**9
    assert world.writer.proof_age_ns() == asleep_ns


@virtual
async def test_the_queue_is_bounded_and_keeps_room_for_the_essential() -> None:
    settings = WriterSettings(queue_events=10, essential_events=5)
    world = World(LOST, settings=settings)
    in_flight = world.writer.append_nowait([0])
    await asyncio.sleep(0)
    world.writer.append(list(range(1, 11)))
    assert world.writer.queued_events == 10
    with pytest.raises(LogOverloaded):
        world.writer.append_nowait([11])
    settled = world.writer.append_nowait(list(range(11, 16)), essential=True)
    with pytest.raises(LogOverloaded):
        world.writer.append([16], essential=True)
    await asyncio.gather(in_flight, settled)
    assert world.log() == [[0], list(range(1, 16))]
    world.writer.append([16])


@virtual
async def test_one_call_that_cannot_be_written_harms_no_other() -> None:
    world = World()
    bad: set[int] = {1, 2}
    waiting = [world.writer.append_nowait([bad if n == 5 else n]) for n in range(10)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, TypeError)] == [5]
    assert [event for batch in world.log() for event in batch] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@virtual
async def test_a_call_too_large_for_any_message_is_refused_unsent() -> None:
    world = World(settings=WriterSettings(batch_bytes=2_000))
    waiting = [world.writer.append_nowait([text]) for text in ("a", "x" * 3_000, "b")]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[1], PayloadTooLarge)
    assert [event for batch in world.log() for event in batch] == ["a", "b"]


def test_an_event_that_nobody_waits_for_and_cannot_be_written_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        world.writer.append([{"a set"}])
        await world.writer.append_nowait(["sound"])
        assert world.log() == [["sound"]]

    with caplog.at_level(logging.ERROR):
        run_virtual(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a set" not in caplog.text, "the event's content stays out of the log file"


class SmallServer:
    """A port whose server takes less than it says."""

    max_payload_bytes = 100_000

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.stored: list[bytes] = []

    async def publish(
        self, subject: str, payload: bytes, *, msg_id: str | None, expect: Any, timeout_s: float
    ) -> PubAck:
        await asyncio.sleep(0.001)
        if len(payload) > self.limit:
            raise PayloadTooLarge(len(payload), self.limit)
        self.stored.append(payload)
        return PubAck(len(self.stored))


@virtual
async def test_batches_shrink_to_what_the_server_takes() -> None:
    server = SmallServer(500)
    world = World(port=server)
    waiting = [world.writer.append_nowait(["x" * 50 + str(n)]) for n in range(40)]
    waiting.append(world.writer.append_nowait(["y" * 600]))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [40]
    found = [json.loads(payload) for payload in server.stored]
    assert [batch["n"] for batch in found] == list(range(1, len(found) + 1))
    assert [event[50:] for batch in found for event in batch["events"]] == [str(n) for n in range(40)]


@virtual
async def test_a_waiter_that_gives_up_takes_nothing_back() -> None:
    world = World(LOST)
    gone, stays = world.writer.append_nowait(["a"]), world.writer.append_nowait(["b"])
    await asyncio.sleep(0.1)
    gone.cancel()
    assert (await stays).n == 1
    assert world.log() == [["a", "b"]]


@virtual
async def test_closing_during_an_outage_says_that_the_fate_is_unknown() -> None:
    world = World(*[LOST] * 100)
    in_flight = world.writer.append_nowait(["in flight"])
    await asyncio.sleep(0.01)
    queued = world.writer.append_nowait(["queued"])
    assert world.writer.stalled_ns() == 10 * MS
    assert not await world.writer.close(timeout_s=2.0)
    assert [type(end) for end in await asyncio.gather(in_flight, queued, return_exceptions=True)] == [
        LogClosed,
        LogClosed,
    ]
    assert world.writer.proof_age_ns() == NO_PROOF_NS


def test_a_bug_in_what_was_passed_in_ends_the_writer_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World(LOST)

        def broken() -> str:
            raise ZeroDivisionError

        waiting = world.writer.append_nowait(["a"])
        world.writer.heartbeat(0.1, broken)
        assert (await waiting).n == 1
        await asyncio.sleep(1.0)
        with pytest.raises(LogClosed):
            world.writer.append(["b"])

    run_virtual(main())
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


@virtual
async def test_every_uncertain_answer_means_again() -> None:
    reasons = [
        AppendUncertain("stream_full", 10077),
        AppendUncertain("server", 10164),
        AppendUncertain("no_responders"),
    ]

    class Moody(SmallServer):
        async def publish(self, *args: Any, **kwargs: Any) -> PubAck:
            if reasons:
                raise reasons.pop(0)
            return await super().publish(*args, **kwargs)

    server = Moody(1_000)
    world = World(port=server)
    appended = await world.writer.append_nowait(["a"])
    assert appended.n == 1
    assert len(server.stored) == 1
    assert reasons == []


@virtual
async def test_a_fence_must_have_been_opened() -> None:
    stream = MemoryStream("S", now_ns=lambda: 0)
    with pytest.raises(ValueError, match="asserts nothing"):
        SoleWriterLog(
            stream.port(),
            subject=SUBJECT,
            fence=FenceExpectation(FENCE, 0),
            incarnation="i1",
            encode=encode,
            clock_ns=lambda: 0,
        )
    with pytest.raises(FenceMoved):
        stream.store(SUBJECT, b"", None, FenceExpectation(FENCE, 1))
