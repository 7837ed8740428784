"""The counter-examples behind the protocol's rules, each as a scene (docs/PROTOCOL.md).

They are played as tests (test_scenarios), and again with a rule switched off, to see the observer object (test_bites).
"""

import asyncio
from typing import Any

import pytest
from sim.cluster import Cluster
from sim.control import SimControl
from sim.network import DeliveryScript
from sim.scene import Appends, Messages, a_key, chat, pay, until

from controlplane.commands.base import Decision
from controlplane.commands.key_stops import resume, suspend
from controlplane.commands.keys import IssuedKey
from controlplane.errors import NotLeading
from controlplane.leader import Leader
from events.codec import decode_batch
from events.subjects import FEED
from events.types import KeyIssued

MS = 1_000_000


def fence_ns(cluster: Cluster, slot: str) -> int:
    """When the first incarnation of a slot was fenced; 0: it was not."""
    fenced = cluster.world.observer.fenced
    return next((at for name, at in fenced.items() if name.startswith(f"{slot}-")), 0)


def leader_of(cluster: Cluster) -> Leader:
    leading = cluster.leading
    assert leading is not None
    assert leading.leader is not None
    return leading.leader


def total_of(key: IssuedKey) -> str:
    """The line of a key's total cap."""
    return f"key:{key.id}:usd:total:0"


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
    assert world.observer.calls.get(record.request_ids[0]) == 1, "the scene needs a node that still may send"
    assert world.now_ns() - fenced_ns >= 400 * MS
    await revoking
    appends.work()
    world.network.mend("n1")
    await until(world, lambda: record.end)


async def a_leader_dies_in_the_barrier(cluster: Cluster) -> None:
    """3: it dies between KeyRevoked and the barrier's end; DELETE again at the next one."""
    world, node = cluster.world, cluster.nodes[0]
    one, two = cluster.controls
    key = await a_key(cluster)
    assert await node.call(pay(key, 10)) == "sent"
    world.network.deaf.add("n1")
    record = node.send(pay(key, 10, connects_s=0.3))
    revoking = asyncio.create_task(cluster.revoke(key.id))
    await until(world, lambda: world.observer.counts["KeyRevoked"])
    one.kill()
    cluster.usurp(two)
    took_over_ns = world.now_ns()
    await revoking
    assert world.now_ns() - took_over_ns >= 400 * MS
    assert world.observer.counts["KeyRevoked"] == 1
    world.network.mend("n1")
    await until(world, lambda: record.end)


async def a_stale_leader_feeds_a_new_node(cluster: Cluster) -> None:
    """4: a deposed leader's snapshot reaches a node that joins after a revocation."""
    world, node = cluster.world, cluster.nodes[1]
    one, two = cluster.controls
    key = await a_key(cluster)
    one.pause()
    cluster.usurp(two)
    await until(world, lambda: two.leads)
    await cluster.revoke(key.id)
    world.network.delivery_scripts.append(lambda process, _, __: 5.0 if process == "c1" else None)
    slow = Messages(world, "c2", "n2")
    slow.delay_s = 0.2
    one.resume()
    cluster.restart(node)
    ends = set()
    while not node.ready:
        ends.add(await node.call(pay(key, 10)))
        await asyncio.sleep(0.01)
    ends.add(await node.call(pay(key, 10)))
    assert "sent" not in ends
    assert await node.call(pay(key, 10)) == "key_revoked"


async def a_late_append(cluster: Cluster, lands_s: float) -> str:
    """5: an append times out, and lands when the node would long have spent its reservation again."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 20)
    assert await node.call(pay(key, 10)) == "sent"
    appends = Appends(world, "n1")
    appends.delay_first(lands_s)
    record = node.send(pay(key, 10))
    await asyncio.sleep(0.05)
    assert await other.call(pay(key, 10)) == "budget_unavailable"
    await asyncio.sleep(lands_s)
    appends.work()
    await until(world, lambda: record.end)
    left = 20 - sum(world.vendor.moved.values())
    if left:
        assert await other.call(pay(key, left)) == "sent"
    assert await other.call(pay(key, 1)) == "cap_exhausted"
    return record.end


async def a_late_append_lands(cluster: Cluster) -> None:
    assert await a_late_append(cluster, 1.8) == "sent"


async def a_late_append_meets_its_fence(cluster: Cluster) -> None:
    assert await a_late_append(cluster, 3.8) != "sent"
    assert fence_ns(cluster, "n1")


async def both_hold_half(cluster: Cluster) -> None:
    """6: two nodes hold half each, and each needs the whole."""
    node, other = cluster.nodes
    key = await a_key(cluster, 10)
    for each in (node, other):
        assert await each.call(pay(key, 5, 0)) == "sent"
    await until(cluster.world, lambda: leader_of(cluster).budget.line(total_of(key), "UTC").leased == 10)
    ends = await asyncio.gather(node.call(pay(key, 10, 0)), other.call(pay(key, 10, 0)))
    # Who comes second finds either that it fits again, or that the first one's hold is truly in the log.
    assert sorted(ends) in (["sent", "sent"], ["cap_exhausted", "sent"])
    await asyncio.sleep(0.2)
    assert await node.call(pay(key, 10, 0)) == "sent"


async def what_is_freed_belongs_to_who_asked_first(cluster: Cluster) -> None:
    """7: a node returns nothing while it holds all, frees most of it a moment later, and has a use for it."""
    world, node, other, silent = cluster.world, *cluster.nodes
    key = await a_key(cluster, 200)
    assert await silent.call(pay(key, 100, 0)) == "sent"  # its lease of 100 is free now
    world.network.deaf.add(silent.name)
    first = node.send(pay(key, 60, 1, acts_s=0.05))
    await asyncio.sleep(0.02)
    second = other.send(pay(key, 100))
    await until(world, lambda: first.end)
    third = node.send(pay(key, 59))
    await asyncio.sleep(0.2)
    assert [second.end, third.end] == ["", ""], "the scene needs requests that wait"
    world.network.mend(silent.name)
    await until(world, lambda: second.end and third.end)
    assert [first.end, second.end, third.end] == ["sent", "sent", "sent"]
    admitted = world.observer.books.requests
    assert admitted[second.request_ids[0]].stored_ns < admitted[third.request_ids[0]].stored_ns


async def a_grant_comes_after_its_recall(cluster: Cluster) -> None:
    """8: the grant's answer is late; the recall, which knows of it, comes first, and the money is lent elsewhere."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 10)
    answers = Messages(world, "c1", "n1")
    answers.delay_s = 0.9
    assert await node.call(pay(key, 10)) == "budget_unavailable"
    answers.work()
    assert await other.call(pay(key, 10)) == "sent"
    await asyncio.sleep(1.0)  # the late answer arrives: the same cumulative figure as in the recall
    assert await node.call(pay(key, 1)) == "cap_exhausted"
    assert node.governor is not None
    assert node.governor.node.incarnation is not None
    assert node.governor.node.incarnation.desk.book.free(total_of(key)) == 0


async def a_lost_grant_is_asked_for_again(cluster: Cluster) -> None:
    """8: recorded, its answer lost; the next request asks under another id and gets the same money."""
    world, node, _ = cluster.world, *cluster.nodes
    key = await a_key(cluster, 10)
    answers = Messages(world, "c1", "n1")
    answers.lose()
    assert await node.call(pay(key, 10)) == "budget_unavailable"
    answers.work()
    assert await node.call(pay(key, 10)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


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


async def two_standbys_at_once(cluster: Cluster) -> None:
    """10: two take over together while the third is paused between fold and append."""
    world = cluster.world
    one, two, three = cluster.controls
    key = await a_key(cluster)
    one.pause()
    cluster.usurp(two)
    cluster.usurp(three)
    revoking = asyncio.create_task(cluster.revoke(key.id))
    await asyncio.sleep(1.0)
    one.resume()
    await revoking
    await until(world, lambda: sum(control.leads for control in cluster.controls) == 1)
    assert await cluster.nodes[0].call(pay(key, 10)) == "key_revoked"


async def a_takeover_while_the_fold_lags(cluster: Cluster) -> None:
    """10: what the old leader recorded, and what nodes spent, reaches the new one late."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 20)
    world.network.delivery_scripts.append(lambda process, _, __: 0.3 if process == "c2" else None)
    assert await node.call(pay(key, 10)) == "sent"
    cluster.usurp(cluster.controls[1])
    ends = await asyncio.gather(*(each.call(pay(key, 10)) for each in (node, other) for _ in range(2)))
    assert ends.count("sent") <= 1
    await until(world, lambda: cluster.serving)
    world.network.delivery_scripts.clear()
    await asyncio.sleep(1.0)
    left = 10 - 10 * ends.count("sent")
    assert await other.call(pay(key, left + 1)) == "cap_exhausted"


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
    assert not revoking.done()
    assert not revoking_too.done()
    assert feed.snapshot.keys[first.id].state == "active"
    assert [delta.records[0].id for delta in feed._kept if delta.records] == [second.id]  # type: ignore[union-attr]
    await revoking
    await revoking_too
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


async def an_idle_leader_is_deposed(cluster: Cluster) -> None:
    """A leader that was deposed while it stood still, and has nothing to append, must not go on answering."""
    world, node = cluster.world, cluster.nodes[0]
    one, two = cluster.controls
    await a_key(cluster)
    one.pause()
    cluster.usurp(two)
    await until(world, lambda: two.leads)
    # Policy that only the new leader knows: the old one would say of these lines that they do not exist.
    key = await a_key(cluster, 10)
    one.resume()
    await until(world, lambda: one.leader is None)
    assert await node.call(pay(key, 10)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


async def a_stale_leader_has_nothing_to_record(cluster: Cluster) -> None:
    """A command that is done already, by a state that is over: the answer needs proof as much as a change does."""
    world, node = cluster.world, cluster.nodes[0]
    one, two = cluster.controls
    key = await a_key(cluster)
    await cluster.suspend(key.id)
    await asyncio.sleep(0.1)
    world.network.delivery_scripts.append(_unheard("c1", "RF_CONTROL"))
    cluster.usurp(two)
    await until(world, lambda: two.leads)
    await _at(cluster, two, resume(key.id))
    assert one.leader is not None
    with pytest.raises(NotLeading):
        await _at(cluster, one, suspend(key.id))
    assert await node.call(pay(key, 10)) == "sent"


def _unheard(process: str, stream: str) -> DeliveryScript:
    """Nothing of a stream reaches a process for a long time."""
    return lambda who, which, _: 60.0 if (who, which) == (process, stream) else None


async def _at(cluster: Cluster, control: SimControl, decide: Any) -> Any:
    """Send a command to one control plane, once."""
    return await control.execute(decide, cluster.by("at"), lambda _: None, 5.0)
