"""Logs on a nats-server that dies, stands still, or loses a message on the way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from support.log_harness import until
from support.nats_server import RunningNats, nats_server

from events.log.jetstream import JetStreamStream
from events.log.jetstream_follower import JetStreamFollower
from events.log.port import FenceExpectation, StreamPort
from events.log.writer import SoleWriterLog
from events.subjects import NODE_MARK, node_fence, node_log

__all__ = ["nats_server"]


@pytest.fixture
async def nodes(nats_server: RunningNats) -> JetStreamStream:
    return (await nats_server.streams())[1]


@pytest.fixture
async def writer(nats_server: RunningNats, nodes: JetStreamStream) -> AsyncIterator[SoleWriterLog[int]]:
    fence = node_fence("n1", "i1")
    ack = await nodes.publish(fence, b"opened", msg_id=None, expect=None, timeout_s=5.0)

    def encode(n: int, events: Sequence[int]) -> bytes:
        return json.dumps({"n": n, "events": list(events)}).encode()

    log: SoleWriterLog[int] = SoleWriterLog(
        (await nats_server.connect("n1")).appender,
        subject=node_log("n1", "i1"),
        fence=FenceExpectation(fence, ack.sequence),
        incarnation="i1",
        encode=encode,
        clock_ns=time.monotonic_ns,
    )
    log.start()
    yield log
    await log.close()


async def written(nodes: StreamPort, batches: int) -> list[dict]:
    follower = nodes.read(after=0, subject_filter=node_log("n1", "i1"))
    found: list[dict] = []
    while len(found) < batches:
        batch = await follower.next_batch(timeout_s=10.0)
        assert batch, f"only {len(found)} of {batches} batches are there"
        found += [json.loads(stored.payload) for stored in batch]
    assert await follower.next_batch(timeout_s=0.1) == []
    await follower.aclose()
    return found


async def test_appends_made_during_an_outage_land_once_and_in_order(
    nats_server: RunningNats, nodes: JetStreamStream, writer: SoleWriterLog[int]
) -> None:
    waiting = [writer.append_nowait([0])]
    await waiting[0]
    await nats_server.kill()
    waiting += [writer.append_nowait([n]) for n in range(1, 50)]
    await until(lambda: writer.trouble != "")
    assert writer.stalled_ns() > 0
    assert not any(future.done() for future in waiting[1:])
    waiting += [writer.append_nowait([n]) for n in range(50, 100)]
    await nats_server.start()
    done = await asyncio.wait_for(asyncio.gather(*waiting), 20.0)
    found = await written(nodes, done[-1].n)
    assert [batch["n"] for batch in found] == list(range(1, done[-1].n + 1))
    assert [event for batch in found for event in batch["events"]] == list(range(100))
    assert writer.trouble == ""


async def test_nothing_acknowledged_is_lost_by_kill_9_under_load(
    nats_server: RunningNats, nodes: JetStreamStream, writer: SoleWriterLog[int]
) -> None:
    acknowledged: list[int] = []
    going = True

    async def load() -> None:
        event = 0
        while going:
            await writer.append_nowait([event])
            acknowledged.append(event)
            event += 1

    loading = asyncio.create_task(load())
    for _ in range(2):
        seen = len(acknowledged)
        await until(lambda seen=seen: len(acknowledged) > seen + 30)
        await nats_server.restart()
    seen = len(acknowledged)
    await until(lambda: len(acknowledged) > seen + 30, 20.0)
    going = False
    await loading
    assert writer.last is not None
    found = await written(nodes, writer.last.n)
    assert [batch["n"] for batch in found] == list(range(1, len(found) + 1))
    assert [event for batch in found for event in batch["events"]] == acknowledged


async def test_a_server_that_stands_still_costs_time_only(
    nats_server: RunningNats, nodes: JetStreamStream, writer: SoleWriterLog[int]
) -> None:
    await writer.append_nowait([0])
    nats_server.pause()
    waiting = writer.append_nowait([1])
    await until(lambda: writer.trouble == "timeout")
    nats_server.resume()
    appended = await asyncio.wait_for(waiting, 20.0)
    assert appended.n == 2
    # It was sent more than once, and whichever send was answered, it is there once.
    assert [batch["events"] for batch in await written(nodes, 2)] == [[0], [1]]


async def test_a_follower_survives_a_restart_of_the_server(nats_server: RunningNats, nodes: JetStreamStream) -> None:
    follower = nodes.read(after=0)
    await put(nodes, b"1")
    assert [stored.payload for stored in await follower.next_batch()] == [b"1"]
    waiting = asyncio.ensure_future(follower.next_batch())
    for n in range(2, 4):
        await nats_server.restart()
        await put(nodes, b"%d" % n)
        batch = await asyncio.wait_for(waiting, 15.0)
        assert [(stored.sequence, stored.payload) for stored in batch] == [(n, b"%d" % n)]
        waiting = asyncio.ensure_future(follower.next_batch())
    waiting.cancel()
    await follower.aclose()


async def test_a_follower_whose_consumer_vanishes_makes_another(
    nats_server: RunningNats, nodes: JetStreamStream
) -> None:
    await put(nodes, b"1")
    follower = nodes.read(after=0)
    assert len(await follower.next_batch()) == 1
    waiting = asyncio.ensure_future(follower.next_batch())
    await asyncio.sleep(0)
    admin = await nats_server.connect()
    await admin.bus.request(f"$JS.API.CONSUMER.DELETE.{nodes.name}.{follower._consumer}", b"", 5.0)
    await put(nodes, b"2")
    assert [stored.payload for stored in await asyncio.wait_for(waiting, 10.0)] == [b"2"]
    await follower.aclose()


class LossyFollower(JetStreamFollower):
    """Loses the messages with the given sequences, each once."""

    to_lose: set[int]

    def _on_data(self, msg) -> None:
        sequence = int(msg.reply.split(".")[5])
        if sequence in self.to_lose:
            self.to_lose.remove(sequence)
        else:
            super()._on_data(msg)


@pytest.mark.parametrize("lost", [{1}, {3}, {5}, {2, 4}, {1, 2, 3, 4, 5}], ids=str)
async def test_a_message_lost_on_its_way_is_fetched_again(
    nats_server: RunningNats, nodes: JetStreamStream, lost: set[int]
) -> None:
    # Also the last one (5), which nothing follows: the heartbeat reveals it.
    for n in range(1, 6):
        await put(nodes, b"%d" % n)
    follower = LossyFollower(nodes._link, nodes.name, after=0, filters=(), accept_trimmed=False)
    follower.to_lose = set(lost)
    found: list[int] = []
    while len(found) < 5:
        batch = await follower.next_batch(timeout_s=10.0)
        assert batch, f"stuck after {found}"
        found += [stored.sequence for stored in batch]
    assert found == [1, 2, 3, 4, 5]
    assert follower.to_lose == set()
    await follower.aclose()


async def test_a_follower_reads_more_than_its_buffer_holds(nats_server: RunningNats, nodes: JetStreamStream) -> None:
    payload = b"p" * (1 << 20)
    for _ in range(40):
        await put(nodes, payload)
    follower = nodes.read(after=0)
    first = await follower.next_batch(max_messages=1)
    await until(lambda: follower.lag == 39)
    sequences = [stored.sequence for stored in first]
    while len(sequences) < 40:
        batch = await follower.next_batch(max_messages=3, timeout_s=10.0)
        assert batch
        assert follower._buffer_bytes < (48 << 20)
        sequences += [stored.sequence for stored in batch]
    assert sequences == list(range(1, 41))
    assert follower.caught_up
    await follower.aclose()


async def put(nodes: StreamPort, payload: bytes) -> None:
    async with asyncio.timeout(15.0):
        while True:
            try:
                await nodes.publish(
                    NODE_MARK,
                    payload,
                    msg_id=str(payload[:32]) if len(payload) < 32 else None,
                    expect=None,
                    timeout_s=1.0,
                )
            except Exception as error:
                if type(error).__name__ != "AppendUncertain":
                    raise
                await asyncio.sleep(0.02)
            else:
                return
