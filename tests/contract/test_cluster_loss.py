"""Logs on a cluster of three of which servers die, stand still, or come back with less than they had."""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from support.log_harness import insist, until
from support.nats_cluster import RunningCluster, cluster
from support.nats_server import nats_server

from events.log.port import AppendUncertain, FenceExpectation, FenceMoved, LogUnavailable, StreamPort
from events.log.streams import StreamUnsafe, nodes_stream
from events.log.writer import Fenced, SoleWriterLog
from events.messaging.port import Message
from events.subjects import ALL_RPCS, FEED, NODE_MARK, node_fence, node_log, rpc

__all__ = ["cluster", "nats_server"]

LOST_S = 60.0
"""Two servers elect within some ten seconds; a busy machine gets more before a test gives up."""


class Load:
    """A node that appends one event after the other, and what it was told."""

    def __init__(self, log: SoleWriterLog[int], nodes: StreamPort, fence: FenceExpectation) -> None:
        self.log = log
        self.nodes = nodes
        self.fence = fence
        self.acknowledged: list[int] = []
        self._going = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        event = 0
        while self._going:
            await self.log.append_nowait([event])
            self.acknowledged.append(event)
            event += 1
            await asyncio.sleep(0.001)

    async def more(self, count: int = 20) -> None:
        """Return when that many more are acknowledged."""
        seen = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) > seen + count or self._task.done(), LOST_S)
        assert not self._task.done(), self._task.exception()

    async def check(self) -> None:
        """What was acknowledged is in the log, once, in order; and nothing else."""
        self._going = False
        await asyncio.wait_for(self._task, LOST_S)
        assert self.log.last is not None
        found = await batches(self.nodes, self.log.last.n)
        assert [batch["n"] for batch in found] == list(range(1, len(found) + 1))
        assert [event for batch in found for event in batch["events"]] == self.acknowledged


@pytest.fixture
async def load(cluster: RunningCluster) -> AsyncIterator[Load]:
    _, nodes = await cluster.streams()
    await cluster.leader()
    fence = node_fence("n1", "i1")
    ack = await insist(lambda: nodes.publish(fence, b"opened", msg_id="open", expect=None, timeout_s=1.0))

    def encode(n: int, events: Sequence[int]) -> bytes:
        return json.dumps({"n": n, "events": list(events)}).encode()

    expectation = FenceExpectation(fence, ack.sequence)
    log: SoleWriterLog[int] = SoleWriterLog(
        (await cluster.connect("n1")).appender,
        subject=node_log("n1", "i1"),
        fence=expectation,
        incarnation="i1",
        encode=encode,
        clock_ns=time.monotonic_ns,
        id_salt="5a17",
    )
    log.start()
    found = Load(log, nodes, expectation)
    yield found
    found._task.cancel()
    await asyncio.wait({found._task})
    await log.close(0.0)


async def batches(nodes: StreamPort, count: int) -> list[dict]:
    follower = nodes.read(after=0, subject_filter=node_log("n1", "i1"))
    found: list[dict] = []
    while len(found) < count:
        batch = await follower.next_batch(timeout_s=LOST_S)
        assert batch, f"only {len(found)} of {count} batches are there"
        found += [json.loads(stored.payload) for stored in batch]
    assert await follower.next_batch(timeout_s=0.1) == []
    await follower.aclose()
    return found


@pytest.mark.parametrize("which", [pytest.param("follower", marks=pytest.mark.slow), "leader"])
async def test_one_server_killed_costs_no_append(cluster: RunningCluster, load: Load, which: str) -> None:
    await load.more()
    leader = await cluster.leader()
    victim = leader if which == "leader" else (await cluster.followers())[0]
    victim.kill()
    await load.more()
    await load.check()


@pytest.mark.slow
async def test_a_fence_holds_over_a_change_of_leader(cluster: RunningCluster, load: Load) -> None:
    # The fence is the newest thing that the dying leader has acknowledged; its successor must know it.
    await load.more()
    leader = await cluster.leader()
    port = (await cluster.connect("n1")).appender
    subject = node_log("n1", "i1")
    early = await insist(
        lambda: port.publish(subject, b'{"n": 0, "events": []}', msg_id="early", expect=load.fence, timeout_s=1.0)
    )
    await insist(lambda: load.nodes.publish(load.fence.subject, b"fenced", msg_id="fence", expect=None, timeout_s=1.0))
    leader.kill()
    with pytest.raises(Fenced):
        await asyncio.wait_for(load._task, LOST_S)
    last = (await state(load.nodes)).last_sequence
    with pytest.raises(FenceMoved):
        await insist(lambda: port.publish(subject, b"late", msg_id="late", expect=load.fence, timeout_s=1.0), LOST_S)
    again = await insist(
        lambda: port.publish(subject, b'{"n": 0, "events": []}', msg_id="early", expect=load.fence, timeout_s=1.0)
    )
    assert (again.duplicate, again.sequence) == (True, early.sequence), "stored once, and no proof about now (L4)"
    assert (await state(load.nodes)).last_sequence == last


@pytest.mark.slow
async def test_two_servers_killed_refuse_until_one_is_back(cluster: RunningCluster, load: Load) -> None:
    await load.more()
    first, second = await cluster.followers()
    first.kill()
    second.kill()
    # The message in flight may have been stored before, and its acknowledgement come by the server that is left.
    await until(lambda: load.log.trouble != "" and load.log.stalled_ns() > 1_000_000_000, LOST_S)
    count = len(load.acknowledged)
    for _ in range(3):
        with pytest.raises(AppendUncertain):
            await load.nodes.publish(NODE_MARK, b"nobody", msg_id=None, expect=None, timeout_s=0.2)
    assert len(load.acknowledged) == count, "one of three acknowledges nothing"
    assert load.log.proof_age_ns() > 400_000_000, "and what was proven grows old"
    first.start()
    await load.more()
    await load.check()


async def test_two_servers_that_stand_still_cost_time_only(cluster: RunningCluster, load: Load) -> None:
    await load.more()
    leader = await cluster.leader()
    paused = [leader, (await cluster.followers())[0]]
    for member in paused:
        member.pause()
    await until(lambda: load.log.trouble != "", LOST_S)
    count = len(load.acknowledged)
    await asyncio.sleep(2.0)
    assert len(load.acknowledged) == count
    for member in paused:
        member.resume()
    await load.more()
    await load.check()


@pytest.mark.slow
async def test_a_leader_that_stood_still_wakes_up_to_its_successor(cluster: RunningCluster, load: Load) -> None:
    # It believes in its leadership for a moment, and in a past that has gone on without it.
    await load.more()
    old = await cluster.leader()
    follower = load.nodes.read(after=0)
    await follower.next_batch(timeout_s=LOST_S)
    old.pause()
    await load.more()
    old.resume()
    await load.more()
    while not follower.caught_up or follower.position < (load.log.last.sequence if load.log.last else 0):
        await follower.next_batch(timeout_s=1.0)
    await follower.aclose()
    await load.check()


@pytest.mark.slow
async def test_a_server_that_lost_its_disk_brings_nothing_old_back(cluster: RunningCluster, load: Load) -> None:
    await load.more()
    victim = (await cluster.followers())[0]
    victim.kill()
    shutil.rmtree(victim.setup.directory / "jetstream")
    await load.more()
    victim.start()
    await load.more()
    await cluster.leader()  # waits until all three are current
    # Now the one that came back empty has a say: another goes, and all that was acknowledged is still there.
    next(member for member in cluster.members if member is not victim).kill()
    await load.more()
    await load.check()


@pytest.mark.slow
async def test_a_server_that_lags_behind_catches_up_before_it_counts(cluster: RunningCluster, load: Load) -> None:
    await load.more()
    leader, (lagging, other) = await cluster.leader(), await cluster.followers()
    lagging.kill()
    await load.more(200)
    lagging.start()
    other.kill()  # the majority is now the leader and the one that lags
    await load.more()
    leader.kill()  # nobody but the lagging one is left: nothing may be acknowledged
    await until(lambda: load.log.trouble != "", LOST_S)
    leader.start()
    await load.more()
    await load.check()


@pytest.mark.slow
async def test_a_client_leaves_a_server_that_is_cut_off(cluster: RunningCluster, load: Load) -> None:
    await load.more()
    link = (await cluster.connect("n1"))._link
    first = link._client
    assert first is not None
    where = first._current_server.uri.port
    for _ in range(20):
        link._unserved_since = asyncio.get_running_loop().time() - 60.0
        await link.unserved()
        await until(lambda: link.connected, LOST_S)
        if first._current_server.uri.port != where:
            break
    assert first._current_server.uri.port != where
    await link.flush(5.0)


@pytest.mark.slow
async def test_the_bus_crosses_servers_and_survives_one(cluster: RunningCluster) -> None:
    control, node = (await cluster.connect("control")).bus, (await cluster.connect("n1")).bus
    heard: list[bytes] = []

    async def answer(message: Message) -> None:
        await control.respond(message.reply, message.payload + b"!")

    async def hear(message: Message) -> None:
        heard.append(message.payload)

    await control.subscribe(ALL_RPCS, answer)
    await node.subscribe(FEED, hear)

    async def works(mark: bytes) -> None:
        async with asyncio.timeout(LOST_S):
            while mark not in heard:
                with contextlib.suppress(Exception):
                    assert await node.request(rpc("n1", "ask"), mark, 1.0) == mark + b"!"
                    await control.publish(FEED, mark)
                await asyncio.sleep(0.02)

    await works(b"whole")
    for member in cluster.members:
        member.kill()
        await works(member.url.encode())
        member.start()
        await asyncio.to_thread(member.answers)


@pytest.mark.slow
async def test_a_stream_gets_its_replicas_later_and_keeps_its_messages(cluster: RunningCluster) -> None:
    connection = await cluster.connect("control")
    small = nodes_stream(cluster.limits.nodes_bytes, replicas=1)
    nodes = await eventually(lambda: connection.ensure_stream(small))
    await insist(lambda: nodes.publish(NODE_MARK, b"kept", msg_id="m", expect=None, timeout_s=1.0))
    await eventually(lambda: connection.ensure_stream(nodes_stream(cluster.limits.nodes_bytes, replicas=3)))
    await cluster.leader()
    assert (await state(nodes)).replicas == 3
    (await cluster.leader()).kill()
    found = await eventually(lambda: nodes.get(1))
    assert found is not None
    assert found.payload == b"kept"
    await eventually(lambda: connection.ensure_stream(small))
    assert (await state(nodes)).replicas == 3, "a replica is never taken away"


async def test_replicas_need_a_cluster(nats_server) -> None:
    connection = await nats_server.connect("control")
    with pytest.raises(StreamUnsafe, match="in no cluster"):
        await connection.ensure_stream(nodes_stream(nats_server.limits.nodes_bytes, replicas=3))


async def state(nodes: StreamPort):
    return await eventually(nodes.state)


async def eventually(call):
    """Ask until there is an answer."""
    async with asyncio.timeout(LOST_S):
        while True:
            try:
                return await call()
            except LogUnavailable:
                await asyncio.sleep(0.1)
