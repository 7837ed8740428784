"""A log stream that is full pushes back: nothing is lost, nothing is stored twice, and room is all it takes."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from support.log_harness import over_nats, until
from support.nats_cluster import RunningCluster
from support.nats_server import running_nats

from controlplane.up.nats.limits import MIB
from events.log.port import FenceExpectation, StreamPort
from events.log.streams import nodes_stream
from events.log.writer import SoleWriterLog
from events.subjects import NODE_LOGS, NODE_MARK, node_fence, node_log

BYTES = 2 * MIB


@pytest.fixture(params=["jetstream", "cluster"])
async def small(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[tuple[StreamPort, object]]:
    """A stream of two megabytes, and the way of slot n1 to write it."""
    if request.param == "cluster":
        shared: RunningCluster = request.getfixturevalue("shared_cluster")
        await shared.streams()
        await shared.clear()
        nodes = await (await shared.connect()).ensure_stream(nodes_stream(BYTES, replicas=3))
        yield nodes, await over_nats(shared, nodes).appender("n1")
        await shared.clear()
        return
    async with running_nats(tmp_path) as server:
        nodes = await (await server.connect()).ensure_stream(nodes_stream(BYTES))
        yield nodes, await over_nats(server, nodes).appender("n1")


async def test_a_full_stream_pushes_back_and_goes_on_when_there_is_room(small) -> None:
    nodes, port = small
    fence = node_fence("n1", "i1")
    opened = await nodes.publish(fence, b"opened", msg_id="o", expect=None, timeout_s=5.0)
    log: SoleWriterLog[int] = SoleWriterLog(
        port,
        subject=node_log("n1", "i1"),
        fence=FenceExpectation(fence, opened.sequence),
        incarnation="i1",
        encode=lambda _, events: b"".join(b"%09d" % event + b"." * 40_000 for event in events),
        clock_ns=time.monotonic_ns,
        id_salt="5a17",
    )
    log.start()
    waiting = [log.append_nowait([event]) for event in range(100)]  # four megabytes
    await until(lambda: log.trouble == "stream_full", 30.0)
    assert not all(future.done() for future in waiting)
    assert not any(future.exception() for future in waiting if future.done())
    payloads: dict[int, bytes] = {}

    async def trim() -> None:
        """What a checkpoint has passed goes: read it, then remove it. A fence stays."""
        follower = nodes.read(after=0, accept_trimmed=True)
        while not all(future.done() for future in waiting):
            for stored in await follower.next_batch(timeout_s=0.2):
                payloads[stored.sequence] = stored.payload
            await nodes.trim(NODE_LOGS, follower.position)
            await nodes.trim(NODE_MARK, follower.position)
        while batch := await follower.next_batch(timeout_s=0.5):
            payloads.update((stored.sequence, stored.payload) for stored in batch)
        await follower.aclose()

    await asyncio.wait_for(trim(), 60.0)
    assert log.trouble == ""
    text = b"".join(payloads[sequence] for sequence in sorted(payloads))
    found = [int(part) for part in text.removeprefix(b"opened").replace(b".", b" ").split()]
    assert found == list(range(100)), "every event once, in order"
    assert (await nodes.last_on_subject(fence)) is not None
    assert await log.close()
