"""One contract, four kinds of stream: in memory, a real nats-server, a cluster of three, a nats-server in a container.

Import the fixture `logs`.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.nats_cluster import RunningCluster
from support.nats_server import RunningNats, running_nats

from events.log.memory import MemoryStream
from events.log.port import AppendPort, AppendUncertain, FenceExpectation, PubAck, StreamPort
from events.subjects import NODES_STREAM, node_fence, node_log

if TYPE_CHECKING:
    from support.containers import ContainedNats

STREAM_BYTES = 64 << 20


class LogHarness:
    """The stream of the node logs, and each slot's way to write it."""

    def __init__(self, stream: StreamPort, appender: Callable[[str], Awaitable[AppendPort]]) -> None:
        self.stream = stream
        self.appender = appender
        self.server: RunningNats | None = None
        self._ids = itertools.count(1)

    async def put(self, subject: str, payload: bytes) -> PubAck:
        """Store a message as the control plane."""
        ack = await self.stream.publish(subject, payload, msg_id=f"put-{next(self._ids)}", expect=None, timeout_s=5.0)
        assert not ack.duplicate
        return ack

    async def open(self, slot: str = "n1", incarnation: str = "i1") -> tuple[str, FenceExpectation]:
        """Open a fence, as a join does. Returns the log's subject and the expectation."""
        fence = node_fence(slot, incarnation)
        ack = await self.put(fence, b"opened")
        return node_log(slot, incarnation), FenceExpectation(fence, ack.sequence)

    async def all(self) -> list[tuple[str, bytes]]:
        """Everything stored, by a follower from the beginning."""
        last = (await self.stream.state()).last_sequence
        follower = self.stream.read(after=0)
        found: list[tuple[str, bytes]] = []
        while follower.position < last:
            found += [(stored.subject, stored.payload) for stored in await follower.next_batch()]
        await follower.aclose()
        return found


def over_nats(server: RunningNats | RunningCluster, nodes: StreamPort) -> LogHarness:
    async def appender(slot: str) -> AppendPort:
        return (await server.connect(slot)).appender

    return LogHarness(nodes, appender)


@pytest.fixture(params=["memory", "jetstream", "cluster", "container"])
async def logs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogHarness]:
    if request.param == "memory":
        memory = MemoryStream(NODES_STREAM, now_ns=time.time_ns, max_bytes=STREAM_BYTES)

        async def port(_slot: str) -> AppendPort:
            return memory.port()

        yield LogHarness(memory.port(), port)
        return
    if request.param == "cluster":
        shared: RunningCluster = request.getfixturevalue("shared_cluster")
        try:
            yield over_nats(shared, (await shared.streams())[1])
        finally:
            await shared.clear()
        return
    if request.param == "container":
        contained: ContainedNats = request.getfixturevalue("contained_nats")
        try:
            yield over_nats(contained, (await contained.streams())[1])
        finally:
            await contained.clear()
        return
    async with running_nats(tmp_path) as server:
        harness = over_nats(server, (await server.streams())[1])
        harness.server = server
        yield harness


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll until `condition` holds; a test that waits for ever fails here."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


async def insist(publish: Callable[[], Awaitable[PubAck]], timeout_s: float = 10.0) -> PubAck:
    """Publish until the answer decides something."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await publish()
            except AppendUncertain:
                await asyncio.sleep(0.02)
