"""A node that does not read for a while: the server cuts it off, and the feed repairs itself by what is missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from support.log_harness import until
from support.nats_server import RunningNats, nats_server

from dataplane.control import ControlPlane
from dataplane.feed import Feed
from events import subjects
from events.messaging.clock import SystemClock
from events.messaging.port import BusError, Message
from schemas.packed import pack
from schemas.policy import AgentPolicy, FeedDelta
from schemas.rpc import CatchupAsk, SnapshotChunk
from schemas.settings import Timing

__all__ = ["nats_server"]

DELTAS = 60
FILLING = "p" * (2 << 20)


class SmallControl:
    """A feed of agents, one a delta, and answers to who has missed some."""

    def __init__(self, bus) -> None:
        self.bus = bus
        self.seq = 0
        self.catchups: list[int] = []
        self._clock = SystemClock()

    def delta(self, from_seq: int, to_seq: int, filling: str = "") -> FeedDelta:
        records = tuple(AgentPolicy(name=f"a{n}", seq=n, purpose=filling) for n in range(from_seq + 1, to_seq + 1))
        return FeedDelta(epoch=1, from_seq=from_seq, to_seq=to_seq, now_ns=self._clock.wall_ns(), records=records)

    async def record(self, filling: str) -> None:
        self.seq += 1
        with contextlib.suppress(BusError):
            await self.bus.publish(subjects.FEED, msgspec.json.encode(self.delta(self.seq - 1, self.seq, filling)))

    async def beat(self) -> None:
        while True:
            with contextlib.suppress(BusError):
                await self.bus.publish(subjects.FEED, msgspec.json.encode(self.delta(self.seq, self.seq)))
            await asyncio.sleep(0.1)

    async def answer(self, message: Message) -> None:
        if message.subject.endswith(".snapshot"):
            chunk = SnapshotChunk(as_of_seq=0, now_ns=self._clock.wall_ns(), packed=pack([]))
            await self.bus.respond(message.reply, msgspec.json.encode(chunk))
        elif message.subject.endswith(".catchup"):
            after = msgspec.json.decode(message.payload, type=CatchupAsk).after_seq
            self.catchups.append(after)
            await self.bus.respond(message.reply, msgspec.json.encode(self.delta(after, self.seq)))


@pytest.fixture
async def control(nats_server: RunningNats) -> AsyncIterator[SmallControl]:
    small = SmallControl((await nats_server.connect("control")).bus)
    await small.bus.subscribe(subjects.ALL_RPCS, small.answer)
    await small.bus.flush()
    beating = asyncio.create_task(small.beat())
    yield small
    beating.cancel()
    await asyncio.wait({beating})


async def test_a_slow_consumer_is_cut_off_and_catches_up(nats_server: RunningNats, control: SmallControl) -> None:
    node = await nats_server.connect("n1")
    applied: list[int] = []
    clock = SystemClock()
    feed = Feed(node.bus, ControlPlane(node.bus, "n1"), clock, Timing(), lambda _, through: applied.append(through))
    states: list[bool] = []
    node.bus.on_connection(states.append)
    await feed.start()
    running = asyncio.create_task(feed.run())
    await until(lambda: feed.loaded, 20.0)
    await control.record("")
    await until(lambda: feed.snapshot.position == 1, 20.0)
    client = node._link._client
    assert client is not None
    transport = client._transport._io_writer.transport
    transport.pause_reading()  # the node hears nothing, and does not know
    for _ in range(DELTAS):
        await control.record(FILLING)
        await control.bus.flush()
    # Its pings go unanswered, or the server's deadline for writing passes: whoever is first ends the connection.
    await until(lambda: False in states, 30.0)
    await until(lambda: feed.snapshot.position == control.seq, 30.0)
    assert control.catchups, "what was lost was asked for"
    assert set(feed.snapshot.agents) == {f"a{n}" for n in range(1, DELTAS + 2)}, "no hole is left"
    assert applied == sorted(applied)
    assert node.connected
    running.cancel()
    await asyncio.wait({running})
    await feed.stop()
