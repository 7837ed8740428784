"""The counter-examples behind the protocol's rules, each as a scene (docs/PROTOCOL.md).

They are played as tests (test_scenarios), and again with a rule switched off, to see the observer object (test_bites).
"""

import asyncio

from sim.cluster import Cluster
from sim.scene import Appends, a_key, chat, fence_ns, leader_of, pay, until

from controlplane.commands.base import Decision
from events.codec import decode_batch
from events.subjects import FEED
from events.types import KeyIssued

MS = 1_000_000


async def a_duplicate_is_no_proof(cluster: Cluster) -> None:
    """1: stored, acknowledgement lost, fenced, barrier done, sent again and answered as a duplicate."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    assert await node.call(pay(key, 10)) == "sent"
    appends = Appends(world, "n1")
    appends.lose_answers()
    world.network.deaf.add("n1")
    admitted = world.observer.counts["RequestAdmitted"]
    record = node.send(pay(key, 10))
    await until(world, lambda: world.observer.counts["RequestAdmitted"] == admitted + 1)
    await cluster.revoke(key.id)
    assert world.now_ns() - fence_ns(cluster, "n1") >= 400 * MS
    appends.work()
    await until(world, lambda: record.end)
    assert record.end != "sent"
    assert max(appends.sent.values()) >= 2, "the intent was never sent again"
    world.network.mend("n1")
    await until(world, lambda: world.observer.books.requests[record.request_ids[0]].ended == "released")


async def a_young_fence_blocks_the_next_barrier(cluster: Cluster) -> None:
    """2: the barrier for one key fences a node that holds an intent for another; its DELETE waits for the fence."""
    world, node = cluster.world, cluster.nodes[0]
    first, second = await a_key(cluster), await a_key(cluster)
    assert await node.call(pay(second, 10)) == "sent"
    world.network.deaf.add("n1")
    appends = Appends(world, "n1")
    record = node.send(pay(second, 10, connects_s=0.6))
    revoking = asyncio.create_task(cluster.revoke(first.id))
    await until(world, lambda: fence_ns(cluster, "n1"))
    appends.lose()  # it does not learn of its fence
    fenced_ns = fence_ns(cluster, "n1")
    await cluster.revoke(second.id)
    confirmed_ns = world.now_ns()
    await until(world, lambda: record.end or record.request_ids[0] in world.observer.calls)
    assert world.observer.calls.get(record.request_ids[0]) == 1, "the scene needs a node that still may send"
    assert confirmed_ns - fenced_ns >= 400 * MS
    await revoking
    appends.work()
    world.network.mend("n1")
    await until(world, lambda: record.end)


async def a_deaf_node_relays(cluster: Cluster) -> None:
    """9: a node whose subscriptions are dead relays a stream; its appends work, so only the fence stops it."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    record = node.send(chat(key, 100))
    await until(world, lambda: world.observer.counts["relayed"] >= 3)
    world.network.deaf.add("n1")
    await cluster.revoke(key.id)
    relayed = world.observer.counts["relayed"]
    await until(world, lambda: record.end)
    assert record.end == "cut"
    assert world.observer.counts["relayed"] == relayed
    world.network.mend("n1")


async def an_unheard_node_relays(cluster: Cluster) -> None:
    """9: nothing that a node appends is acknowledged any more; without young proof it cuts its stream by itself."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    record = node.send(chat(key, 100))
    await until(world, lambda: world.observer.counts["relayed"] >= 3)
    world.network.cut.add("n1")
    cut_ns = world.now_ns()
    await until(world, lambda: record.end)
    assert record.end == "cut"
    assert world.now_ns() - cut_ns <= 500 * MS
    world.network.mend("n1")


async def a_stream_outlives_no_rejoin(cluster: Cluster) -> None:
    """9: a fenced node re-joins at once and has fresh proof; its old stream must not live on that."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    record = node.send(chat(key, 100))
    await until(world, lambda: world.observer.counts["relayed"] >= 3)
    before = node.incarnation
    cluster.controls[0].do(leader_of(cluster).membership.fence(before, "by hand"))
    await until(world, lambda: node.incarnation not in {"", before})
    await until(world, lambda: record.end)
    assert record.end == "cut"
    assert world.now_ns() - fence_ns(cluster, "n1") <= 400 * MS


async def a_push_without_the_one_before(cluster: Cluster) -> None:
    """11: a node hears of the second revocation and not of the first; it must not say "through the second"."""
    world, node = cluster.world, cluster.nodes[0]
    first, second = await a_key(cluster), await a_key(cluster)
    assert await node.call(pay(first, 10)) == "sent"
    record = node.send(pay(first, 10, connects_s=0.3))
    one_delta: list[str] = []

    def only_one_delta(_: str, receiver: str, subject: str) -> tuple[float, ...] | None:
        """Of all that the node could hear, one message of the feed passes, once it is wanted."""
        if receiver != "n1":
            return None
        return (0.001,) if subject == FEED and one_delta and one_delta.pop() else ()

    world.network.bus_scripts.append(only_one_delta)
    revoking = asyncio.create_task(cluster.revoke(first.id))
    await until(world, lambda: world.observer.counts["KeyRevoked"] == 1)
    await asyncio.sleep(0.05)
    revoking_too = asyncio.create_task(cluster.revoke(second.id))
    await until(world, lambda: world.observer.counts["KeyRevoked"] == 2)
    one_delta.append("the second revocation")
    await asyncio.sleep(0.02)
    assert not one_delta
    assert node.governor is not None
    feed = node.governor.node.feed
    done = [revoking.done(), revoking_too.done()]
    state = feed.snapshot.keys[first.id].state
    kept = [delta.records[0].id for delta in feed._kept if delta.records]  # type: ignore[union-attr]
    await revoking
    await revoking_too
    await until(world, lambda: record.end or record.request_ids[0] in world.observer.calls)
    assert (done, state, kept) == ([False, False], "active", [second.id])
    world.network.bus_scripts.clear()
    await until(world, lambda: record.end and node.ready)
    assert await node.call(pay(first, 10)) == "key_revoked"


async def an_old_record_comes_late(cluster: Cluster) -> None:
    """B4: the delta that resumes a key is under way for long, and arrives after the one that revokes it."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    await cluster.suspend(key.id)
    slow: list[float] = [0.5]

    def one_slow_delta(_: str, receiver: str, subject: str) -> tuple[float, ...] | None:
        return (slow.pop(),) if slow and (receiver, subject) == ("n1", FEED) else None

    world.network.bus_scripts.append(one_slow_delta)
    await cluster.resume(key.id)
    await cluster.revoke(key.id)
    assert not slow
    await asyncio.sleep(0.6)
    assert await node.call(pay(key, 10)) == "key_revoked"


async def a_key_is_issued_again_after_its_end(cluster: Cluster) -> None:
    """12: a KeyIssued lands after the KeyRevoked of the same key."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    await cluster.revoke(key.id)
    batches = [decode_batch(stored.payload) for stored in world.control.between(0, world.control.state().last_sequence)]
    issued = next(event for batch in batches for event in batch.events if isinstance(event, KeyIssued))
    await cluster.command(
        lambda _state, _figures, _moment: Decision((issued,), None), cluster.by("again"), lambda _: None
    )
    assert world.observer.counts["KeyIssued"] == 2
    await asyncio.sleep(0.1)
    assert await node.call(pay(key, 10)) == "key_revoked"
    cluster.restart(node)
    await until(world, lambda: node.ready)
    assert await node.call(pay(key, 10)) == "key_revoked"
    cluster.usurp(cluster.controls[0])
    cluster.restart(node)
    await until(world, lambda: cluster.serving and node.ready)
    assert await node.call(pay(key, 10)) == "key_revoked"
