"""The counter-examples behind the rules of leases, as scenes (docs/PROTOCOL.md).

They are played as tests (test_scenarios), and again with a rule switched off, to see the observer object (test_bites).
"""

import asyncio
import math

from sim.cluster import Cluster
from sim.scene import Appends, Messages, a_key, fence_ns, leader_of, pay, total_of, until

from events.log.faults import PublishFate
from events.subjects import CONTROL_LOG, NODE_MARK, NODES_STREAM
from schemas.api import Usd


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


async def a_lowered_cap_meets_a_long_request(cluster: Cluster) -> None:
    """G8: a cap is lowered while a request holds most of it; what that leaves over later is above the new cap."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster, 100)
    long = node.send(pay(key, 80, 10, acts_s=2.0, patience_s=5.0))
    await asyncio.sleep(0.2)
    await cluster.change_key(key.id, total_usd_cap=Usd(50))
    await until(world, lambda: long.end)
    assert await node.call(pay(key, 41, 0)) == "cap_exhausted"
    await asyncio.sleep(0.2)
    assert await node.call(pay(key, 40, 0)) == "sent"


async def an_overrun_is_not_forgotten(cluster: Cluster) -> None:
    """G8: below zero, with nothing free at the moment; what the next request leaves over must not be spent either."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster, 15)
    overruns = node.send(pay(key, 10, 12, acts_s=0.1))
    long = node.send(pay(key, 5, 2, acts_s=0.6))
    await until(world, lambda: overruns.end and long.end)
    await asyncio.sleep(0.2)
    assert await node.call(pay(key, 2, 0)) == "cap_exhausted"
    await asyncio.sleep(0.2)
    assert await node.call(pay(key, 1, 0)) == "sent"


async def a_refusal_shows_one_instant(cluster: Cluster) -> None:
    """G4: while an ask is judged, an operator frees money, and a node spends some of it; neither both nor none of it."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 100)
    unknown = node.send(pay(key, 50, acts_s=math.inf, patience_s=0.1))
    await until(world, lambda: unknown.end)
    assert await other.call(pay(key, 30, 0)) == "sent"  # its lease of 30 is free now, and is not given back
    await asyncio.sleep(0.1)
    world.network.deaf.add(other.name)
    marks, unheard = world.observer.counts["Marked"], [PublishFate((0.001,), math.inf)]

    def script(process: str, subject: str, _: str) -> PublishFate | None:
        if subject == NODE_MARK:
            return PublishFate((0.2,), 0.001)
        if subject == CONTROL_LOG and world.observer.counts["Marked"] > marks and unheard:
            return unheard.pop()
        return None

    world.network.publish_scripts.append(script)
    waits = node.send(pay(key, 45, 0))
    await until(world, lambda: world.observer.counts["Marked"] > marks)
    reconciling = asyncio.create_task(cluster.reconcile(unknown.request_ids[0], 0))
    await until(world, lambda: world.observer.counts["RequestReconciled"])
    assert await other.call(pay(key, 30, 30)) == "sent"
    await reconciling
    await until(world, lambda: waits.end)
    assert waits.end == "sent"


async def a_refusal_waits_for_the_fold(cluster: Cluster) -> None:
    """G4: what a request left over is in the log, and the leader has not read it yet when it is asked."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 100)
    assert await node.call(pay(key, 1)) == "sent"
    await asyncio.sleep(0.1)
    long = node.send(pay(key, 99, 0, acts_s=0.3))
    await until(world, lambda: leader_of(cluster).budget.line(total_of(key), "UTC").held == 99)
    world.network.delivery_scripts.append(lambda _, stream, __: 0.4 if stream == NODES_STREAM else None)
    await until(world, lambda: long.end)
    await asyncio.sleep(0.15)  # longer than a node may repeat a refusal
    assert world.observer.line(total_of(key)) == (1, 0)
    assert leader_of(cluster).budget.line(total_of(key), "UTC").held == 99, "the scene needs a fold that lags"
    assert await other.call(pay(key, 50)) == "sent"


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
