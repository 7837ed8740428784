"""Random outages, many seeds: whatever happens on the way, the log is the sequence of batches, once each."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from sim.loop import VirtualLoop, run_virtual

from events.log.faults import PublishFate
from events.log.memory import MemoryStream
from events.log.port import FenceExpectation
from events.log.writer import Appended, Fenced, SoleWriterLog, WriterSettings

SUBJECT, FENCE = "rf.node.log.n1.i1", "rf.node.fence.n1.i1"
SEEDS = 150


class Weather:
    """Loses, doubles and delays at random; fair enough that everything lands in the end."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        rng = self._rng
        copies = rng.choices((0, 1, 2, 3), (3, 6, 2, 1))[0]
        arrivals = tuple(rng.choice((0.0, 0.001, 0.1, 0.6, 2.5)) for _ in range(copies))
        return PublishFate(arrivals, rng.choice((0.0, 0.001, 0.3, 0.7, math.inf)))

    def delivery_delay_s(self, sequence: int) -> float:
        return self._rng.choice((0.0, 0.0, 0.01, 1.0, math.inf))


async def scenario(seed: int, *, duplicate_before_fence: bool) -> tuple[list[bytes], list[Any]]:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    stream = MemoryStream("RF_NODES", now_ns=loop.time_ns, duplicate_before_fence=duplicate_before_fence)
    opened = stream.store(FENCE, b"opened", None, None)

    def encode(n: int, events: Sequence[int]) -> bytes:
        return json.dumps([n, list(events)]).encode()

    weather = Weather(rng)
    writer: SoleWriterLog[int] = SoleWriterLog(
        stream.port(weather),
        subject=SUBJECT,
        fence=FenceExpectation(FENCE, opened.sequence),
        incarnation="i1",
        encode=encode,
        clock_ns=loop.time_ns,
        settings=WriterSettings(batch_events=rng.choice((1, 3, 100))),
    )
    writer.start()
    follower = stream.port(weather).read(after=0)
    waiting: list[asyncio.Future[Appended]] = []
    fence_at = rng.choice((None, rng.randrange(60)))
    for event in range(60):
        if event == fence_at:
            stream.store(FENCE, b"fenced", None, None)
        try:
            waiting.append(writer.append_nowait([event]))
        except Fenced:
            break
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.2)))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    await writer.close(timeout_s=60.0)
    await asyncio.sleep(10.0)  # copies that are still on their way land, or are refused

    check(stream, outcomes, fenced=fence_at is not None)
    stream.store(FENCE, b"the end", None, None)
    await check_follower(stream, follower)
    return [stored.payload for stored in stream.between(0, 10_000)], outcomes


def check(stream: MemoryStream, outcomes: list[Any], *, fenced: bool) -> None:
    stored = list(stream.between(0, stream.state().last_sequence))
    batches = {message.sequence: json.loads(message.payload) for message in stored if message.subject == SUBJECT}
    assert [n for n, _ in batches.values()] == list(range(1, len(batches) + 1))
    events = [event for _, group in batches.values() for event in group]
    assert events == list(range(len(events)))
    acknowledged = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    for event, appended in enumerate(acknowledged):
        assert batches[appended.sequence][0] == appended.n
        assert event in batches[appended.sequence][1]
    assert all(isinstance(outcome, Appended | Fenced) for outcome in outcomes)
    if fenced:
        fence_sequence = next(message.sequence for message in stored if message.payload == b"fenced")
        assert max(batches, default=0) < fence_sequence, "nothing lands behind a fence"
    else:
        assert len(acknowledged) == 60


async def check_follower(stream: MemoryStream, follower: Any) -> None:
    stream_end = stream.state().last_sequence
    seen: list[int] = []
    while follower.position < stream_end:
        batch = await follower.next_batch(timeout_s=60.0)
        if not batch:
            stream.store(FENCE, b"nudge", None, None)  # invisible messages show with the next visible one
            continue
        seen += [message.sequence for message in batch]
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.parametrize("duplicate_before_fence", [True, False])
def test_whatever_the_weather(duplicate_before_fence: bool) -> None:
    for seed in range(SEEDS):
        try:
            run_virtual(scenario(seed, duplicate_before_fence=duplicate_before_fence))
        except BaseException as error:
            raise AssertionError(f"seed {seed}, duplicate_before_fence={duplicate_before_fence}") from error


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(5):
        runs = [run_virtual(scenario(seed, duplicate_before_fence=True)) for _ in range(2)]
        assert runs[0][0] == runs[1][0]
        assert [repr(outcome) for outcome in runs[0][1]] == [repr(outcome) for outcome in runs[1][1]]
