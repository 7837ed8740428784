"""The counter-examples behind takeovers, as scenes (docs/PROTOCOL.md).

They are played as tests (test_scenarios), and again with a rule switched off, to see the observer object (test_bites).
"""

import asyncio
from typing import Any

import pytest
from sim.cluster import Cluster
from sim.control import SimControl
from sim.network import DeliveryScript
from sim.scene import Messages, a_key, pay, until

from controlplane.commands.key_stops import resume, suspend
from controlplane.errors import NotLeading
from events.log.faults import PublishFate
from events.subjects import CONTROL_FENCE, CONTROL_STREAM, FEED
from schemas.api import Usd

MS = 1_000_000


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


async def a_snapshot_from_before_a_revocation(cluster: Cluster) -> None:
    """4, without a stale leader: a node joins after a revocation, with a snapshot that was under way all the time."""
    world, node = cluster.world, cluster.nodes[1]
    key = await cluster.issue(agent="bot", per_request_usd_cap=Usd(50))  # which needs no lease
    await asyncio.sleep(10.5)  # until snapshots have it
    node.kill()
    answers = [0.4, 0.001]  # the snapshot, asked for at once; the joining. After that it hears nothing

    def script(sender: str, receiver: str, subject: str) -> tuple[float, ...] | None:
        if receiver == "n2":
            return (answers.pop(0),) if answers and subject != FEED else ()
        return (0.3,) if sender == "n2" and subject.endswith(".join") else None

    world.network.bus_scripts.append(script)
    node.start()
    await asyncio.sleep(0.02)
    assert len(answers) == 1, "the scene needs a snapshot under way"
    await cluster.revoke(key.id)
    assert node.incarnation, "the scene needs a node that has joined"
    assert not answers
    assert node.governor is not None
    feed = node.governor.node.feed
    assert feed.loaded
    assert feed.snapshot.keys[key.id].state == "active"
    assert await node.call(pay(key, 10)) == "policy_unavailable"
    world.network.bus_scripts.clear()
    await until(world, lambda: node.ready)
    assert await node.call(pay(key, 10)) == "key_revoked"


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


async def a_grant_is_not_folded_yet(cluster: Cluster) -> None:
    """10: what the old leader lends while its fence is under way reaches the next one late; it is not lent again."""
    world, node, other = cluster.world, *cluster.nodes
    key = await a_key(cluster, 20)
    before = world.control.state().last_sequence

    def slow_fence(process: str, subject: str, _: str) -> PublishFate | None:
        return PublishFate((0.1,), 0.001) if (process, subject) == ("c2", CONTROL_FENCE) else None

    def lags(process: str, stream: str, sequence: int) -> float | None:
        return 0.5 if (process, stream) == ("c2", CONTROL_STREAM) and sequence > before else None

    world.network.publish_scripts.append(slow_fence)
    world.network.delivery_scripts.append(lags)
    cluster.usurp(cluster.controls[1])
    await asyncio.sleep(0.02)
    assert await node.call(pay(key, 10, 0)) == "sent"  # which leaves 10 lent and free
    await until(world, lambda: cluster.controls[1].leads)
    assert await other.call(pay(key, 20, acts_s=0.2)) == "sent"
    assert await node.call(pay(key, 10)) == "cap_exhausted"


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
