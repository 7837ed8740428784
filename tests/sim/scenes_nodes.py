"""Nodes that are paused, deaf, half cut off, or whose machine's clock is wrong; leaders whose clock is."""

import asyncio
import math

from sim.cluster import Cluster
from sim.scene import Messages, a_key, chat, fence_ns, leader_of, pay, until

from events.subjects import FEED
from schemas.api import Span, Usd

HOUR_NS = 3_600 * 1_000_000_000
S = 1_000_000_000


async def a_node_is_paused_for_a_minute(cluster: Cluster) -> None:
    """It wakes with requests and a stream under way, and a key that has been revoked for a minute."""
    world, (node, other) = cluster.world, cluster.nodes
    doomed, kept = await a_key(cluster, 100), await a_key(cluster, 100)
    assert await node.call(pay(doomed, 10)) == "sent"
    assert await node.call(pay(kept, 10)) == "sent"
    stream = node.send(chat(doomed, chunks=40))
    waiting = [node.send(pay(key, 5, connects_s=0.3)) for key in (doomed, kept)]
    await asyncio.sleep(0.2)
    node.pause()
    began_ns = world.now_ns()
    await cluster.revoke(doomed.id)
    assert world.now_ns() - began_ns < S, "a paused node must not hold up a revocation"
    assert await other.call(pay(kept, 50)) == "sent"
    await asyncio.sleep(60)
    calls = dict(world.observer.calls)
    node.resume()
    late = node.send(pay(doomed, 1))
    await until(world, lambda: stream.end and late.end and all(record.end for record in waiting))
    assert stream.end != "sent"
    assert late.end == "key_revoked"
    assert waiting[0].end != "sent"
    sent_since = set(world.observer.calls) - set(calls)
    assert not sent_since & set(waiting[0].request_ids)
    await until(world, lambda: node.ready)
    assert await node.call(pay(kept, 10)) == "sent"


async def a_deaf_node_stops_by_itself(cluster: Cluster) -> None:
    """Nothing reaches it, its appends are acknowledged: it serves what it holds leases for, but not for ever."""
    world, node = cluster.world, cluster.nodes[0]
    key, other = await a_key(cluster, 1_000), await a_key(cluster, 1_000)
    assert await node.call(pay(key, 1)) == "sent"
    world.network.deaf.add("n1")
    assert await node.call(pay(key, 1)) == "sent"
    await asyncio.sleep(world.timing.feed_max_age_ms / 1000 + 1)
    assert not fence_ns(cluster, "n1"), "its log says that it lives"
    assert await node.call(pay(key, 1)) == "policy_unavailable"
    began_ns = world.now_ns()
    await cluster.revoke(other.id)
    assert world.now_ns() - began_ns < 1.5 * S
    assert fence_ns(cluster, "n1")
    world.network.mend("n1")
    await until(world, lambda: node.ready)
    assert await node.call(pay(other, 1)) == "key_revoked"
    assert await node.call(pay(key, 1)) == "sent"


async def a_node_hears_no_feed_and_asks(cluster: Cluster) -> None:
    """Only its subscription to the feed is dead: it notices the silence and asks for what it missed."""
    world, node = cluster.world, cluster.nodes[0]
    key = await a_key(cluster)
    assert await node.call(pay(key, 1)) == "sent"
    world.network.bus_scripts.append(lambda _, receiver, subject: () if (receiver, subject) == ("n1", FEED) else None)
    began_ns = world.now_ns()
    await cluster.revoke(key.id)
    assert world.now_ns() - began_ns < 1.5 * S
    fresh = await a_key(cluster)
    await asyncio.sleep(2)
    assert await node.call(pay(key, 1)) == "key_revoked"
    assert await node.call(pay(fresh, 1)) == "sent"
    await asyncio.sleep(2 * world.timing.feed_max_age_ms / 1000)
    assert await node.call(pay(fresh, 1)) == "sent"


async def a_node_gets_no_answers(cluster: Cluster) -> None:
    """It hears the feed and appends, but what it asks is never answered: it refuses, and is no danger to others."""
    world, (node, other) = cluster.world, cluster.nodes
    key = await a_key(cluster, 20)
    assert await other.call(pay(key, 5)) == "sent"

    def no_answers(_: str, receiver: str, subject: str) -> tuple[float, ...] | None:
        return () if receiver == "n1" and subject.startswith("_INBOX") else None

    world.network.bus_scripts.append(no_answers)
    assert await node.call(pay(key, 5)) == "budget_unavailable"
    assert await other.call(pay(key, 10)) == "sent"
    assert not fence_ns(cluster, "n1")
    world.network.bus_scripts.remove(no_answers)
    assert await node.call(pay(key, 5)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


async def a_node_cannot_ask(cluster: Cluster) -> None:
    """The other half: what it sends over the bus is lost, and its log still works."""
    world, (node, other) = cluster.world, cluster.nodes
    key = await a_key(cluster, 20)
    asking = Messages(world, "n1", "c1")
    asking.lose()
    assert await node.call(pay(key, 5)) == "budget_unavailable"
    assert await other.call(pay(key, 20)) == "sent"
    await cluster.revoke(key.id)
    assert asking.delay_s == math.inf
    assert await node.call(pay(key, 1)) == "key_revoked"
    assert not fence_ns(cluster, "n1"), "it hears, applies and says so"


async def clocks_of_nodes_are_wrong(cluster: Cluster) -> None:
    """An hour ahead, an hour behind, and stepped under way: expiry and caps follow the control plane."""
    world, (ahead, behind) = cluster.world, cluster.nodes
    ahead.clock.step(HOUR_NS)
    behind.clock.step(-HOUR_NS)
    short = await cluster.issue(agent="bot", expires_in=Span(30), hourly_usd_cap=Usd(10))
    assert await ahead.call(pay(short, 4)) == "sent"
    assert await behind.call(pay(short, 4)) == "sent"
    ahead.clock.step(-2 * HOUR_NS)
    behind.clock.step(2 * HOUR_NS)
    assert await ahead.call(pay(short, 1)) == "sent"
    assert await behind.call(pay(short, 1)) == "sent"
    for node in cluster.nodes:
        assert await node.call(pay(short, 1)) == "cap_exhausted"
    await asyncio.sleep(31)
    for node in cluster.nodes:
        node.clock.step(-HOUR_NS)
        assert await node.call(pay(short, 1)) == "key_expired"
    assert not fence_ns(cluster, "n1")
    assert not fence_ns(cluster, "n2")
    await cluster.revoke((await a_key(cluster)).id)
    assert world.errors == []


async def the_leaders_clock_is_set_back(cluster: Cluster) -> None:
    """By an hour, under way: what has expired stays expired, an hour's cap that was spent stays spent."""
    (node, other), control = cluster.nodes, cluster.controls[0]
    spent = await cluster.issue(agent="bot", hourly_usd_cap=Usd(10))
    short = await cluster.issue(agent="bot", expires_in=Span(10), hourly_usd_cap=Usd(10))
    assert await node.call(pay(short, 1)) == "sent"
    assert await node.call(pay(spent, 10)) == "sent"
    await asyncio.sleep(11)
    assert await node.call(pay(short, 1)) == "key_expired"
    before_ns = node.governor.now_ns() if node.governor is not None else 0
    control.clock.step(-HOUR_NS)
    for _ in range(10):
        await asyncio.sleep(2)
        for asked in (node, other):
            assert await asked.call(pay(short, 1)) == "key_expired"
            assert await asked.call(pay(spent, 1)) == "cap_exhausted"
            assert asked.governor is not None
            assert asked.governor.now_ns() > before_ns
    assert leader_of(cluster).state.keys[short.id].state == "active"


async def a_standby_with_a_clock_behind_takes_over(cluster: Cluster) -> None:
    """Its clock is an hour behind the dead leader's: time goes on where the log has seen it."""
    world, (node, other) = cluster.world, cluster.nodes
    leader, standby = cluster.controls
    standby.clock.step(-HOUR_NS)
    short = await cluster.issue(agent="bot", expires_in=Span(10), hourly_usd_cap=Usd(10))
    spent = await cluster.issue(agent="bot", hourly_usd_cap=Usd(10))
    assert await node.call(pay(spent, 10)) == "sent"
    # Long enough for the idle leader to mark the time.
    await asyncio.sleep(130)
    assert await node.call(pay(short, 1)) == "key_expired"
    leader.kill()
    await until(world, lambda: standby.leads, 30)
    other.kill()
    cluster.restart(other)  # a fresh node knows no time but the new leader's
    await until(world, lambda: other.ready, 30)
    for asked in (node, other):
        assert await asked.call(pay(short, 1)) == "key_expired"
        assert await asked.call(pay(spent, 1)) == "cap_exhausted"
