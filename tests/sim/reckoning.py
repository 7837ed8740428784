"""The reckoning after a story, when nothing goes wrong any more: is all the money where the logs say?

| check | how |
|---|---|
| the books | the leader's fold and the observer's have the same figures for every capped line |
| the leases | the ledger thinks at least as much lent as nodes have free; what remains can be spent to the last unit |
| the refusal | one unit more than what remains is refused, with 402 |
| the objects | each is read once more, and then counts for exactly what it is (S2) |
| replay (P5) | folding the logs anew, in two interleavings, gives the leader's state byte for byte |
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from sim.books import QUARTER_S
from sim.cluster import Cluster
from sim.node import SimNode
from sim.traffic import Call
from sim.vendor import Plan

from events.log.port import Stored
from events.state.budget_image import dump_budget
from events.state.replica import Replica

RECKONING_S = 15
"""The reckoning's own time, at most."""

SETTLING_S = 1.5
"""Longer than a line stays tight, so that the probes meet an ordinary state."""


class Probe(NamedTuple):
    """A living key, and who uses it."""

    key: str
    token: str
    agent: str
    identity: str


async def reckon(cluster: Cluster, probes: Sequence[Probe]) -> None:
    await asyncio.sleep(SETTLING_S)
    await _away_from_turns(cluster)
    await _figures(cluster)
    for number, probe in enumerate(probes):
        await _probe(cluster, probe, cluster.nodes[number % len(cluster.nodes)])
    await _figures(cluster)
    for number, ref in enumerate(sorted(cluster.world.vendor.things)):
        await _read(cluster, ref, probes, cluster.nodes[number % len(cluster.nodes)])
    await _figures(cluster)
    await _replay(cluster)


async def _away_from_turns(cluster: Cluster) -> None:
    """No window turns in the middle of the reckoning. Every one turns at some quarter of an hour."""
    left_s = QUARTER_S - _now_ns(cluster) // 10**9 % QUARTER_S
    if left_s < RECKONING_S:
        await asyncio.sleep(left_s + SETTLING_S)
    elif left_s > QUARTER_S - SETTLING_S:
        await asyncio.sleep(SETTLING_S)


def _now_ns(cluster: Cluster) -> int:
    """The control plane's time, as nodes have it: it names the windows. No machine's clock does."""
    governor = cluster.nodes[0].governor
    assert governor is not None
    return governor.now_ns()


async def _read(cluster: Cluster, ref: str, probes: Sequence[Probe], node: SimNode) -> None:
    """Ask for an object with any key that still can; what it says overlaps with nothing."""
    for probe in probes:
        plan = Plan(0, ref=ref, reads=True, acts_s=0.001, answers_s=0.001)
        if await node.call(Call(probe.token, 0, plan, identity=probe.identity)) == "sent":
            await until_folded(cluster)
            cluster.world.observer.check_read_object(ref)
            return


async def _probe(cluster: Cluster, probe: Probe, node: SimNode) -> None:
    """Everything that remains fits, one unit more does not. Of a key that a refusal has suspended there is no saying."""
    observer = cluster.world.observer
    # A node may repeat the last probe's refusal for a moment (rule G7).
    await asyncio.sleep(1.5 * cluster.world.timing.exhausted_ttl_ms / 1000)
    await until_folded(cluster)
    assert node.governor is not None
    room = _room(cluster, probe, node.governor.now_ns())
    if room is None or _suspended(cluster, probe.key):
        return
    plan = Plan(0, acts_s=0.001, answers_s=0.001)
    if room > 0:
        end = await node.call(Call(probe.token, room, plan, identity=probe.identity))
        if end != "sent":
            observer.blame(f"P2: {room} remain for {probe.key}, a request for them ended with {end} at {node.name}")
    end = await node.call(Call(probe.token, max(0, room) + 1, plan, identity=probe.identity))
    if end not in {"cap_exhausted", "key_spent"}:
        observer.blame(f"P1: {room} remain for {probe.key}, a request for one more ended with {end} at {node.name}")


def _suspended(cluster: Cluster, key_id: str) -> bool:
    leading = cluster.leading
    assert leading is not None
    assert leading.leader is not None
    key = leading.leader.state.keys.get(key_id)
    assert key is not None, f"the leader has forgotten {key_id}"
    return key.state != "active"


def _room(cluster: Cluster, probe: Probe, at_ns: int) -> int | None:
    """Dollars that a request of this key could still take; 0 or less if none. None: nothing limits them.

    `at_ns`: the node's time, which names the windows. It follows the leader's, and turns back for nobody.
    """
    world = cluster.world
    leader = cluster.leading
    assert leader is not None
    assert leader.leader is not None
    owner = leader.leader.state.agents[probe.agent].owner
    accounts = {f"key:{probe.key}", f"agent:{probe.agent}", f"team:{owner}", "org:default"}
    rooms: list[int] = []
    for line, cap in world.observer.capped_lines(at_ns):
        account, meter, _, _ = line.rsplit(":", 3)
        if account not in accounts:
            continue
        settled, held = world.observer.line(line)
        if meter == "usd":
            rooms.append(cap - settled - held)
        elif meter == "requests" and cap - settled - held < 1:
            rooms.append(0)
    singles = [
        single
        for (account, meter, window), history in world.observer.caps.items()
        if account in accounts and (meter, window) == ("usd", "request")
        if (single := history.versions[-1][1]) is not None
    ]
    return min((*rooms, *singles), default=None)


async def _figures(cluster: Cluster) -> None:
    """The fold and the observer agree, and no node has more than the ledger has lent it."""
    await until_folded(cluster)
    leading = cluster.leading
    assert leading is not None
    assert leading.leader is not None
    leader, observer = leading.leader, cluster.world.observer
    for line, _ in observer.capped_lines(_now_ns(cluster)):
        figure = leader.budget.line(line, observer.zone(":".join(line.split(":")[:2])))
        if (figure.settled, figure.held) != observer.line(line):
            observer.blame(f"P5: the fold says {figure} of {line}, the logs say {observer.line(line)}")
        free = sum(
            incarnation.desk.book.free(line)
            for node in cluster.nodes
            if node.governor is not None and (incarnation := node.governor.node.incarnation) is not None
        )
        if free > figure.leased:
            observer.blame(f"P1: nodes have {free} of {line}, the ledger has lent {figure.leased}")


async def until_folded(cluster: Cluster) -> None:
    """Until nodes have written all they have to say, and the leader has folded it; heartbeats leave such moments."""
    world = cluster.world
    for _ in range(20_000):
        leading = cluster.leading
        written = all(node.governor is not None and node.governor.node.journal.settled for node in cluster.nodes)
        if written and leading is not None and leading.leader is not None:
            replica = leading.leader.replica
            at = (replica.control_seq, replica.nodes.seq)
            if at == (world.control.state().last_sequence, world.nodes.state().last_sequence):
                return
        await asyncio.sleep(0.001)
    world.observer.blame("stuck: the leader's fold never catches up")


async def _replay(cluster: Cluster) -> None:
    await until_folded(cluster)
    leading = cluster.leading
    assert leading is not None
    assert leading.leader is not None
    replica = leading.leader.replica
    control, nodes = _messages(cluster)
    forward, backward = Replica(), Replica()
    for message in control:
        forward.apply_control(message)
    for message in nodes:
        forward.apply_node(message)
        backward.apply_node(message)
    for message in control:
        backward.apply_control(message)
    observer = cluster.world.observer
    if forward.dump() != replica.dump():
        observer.blame(f"P5: replaying the logs gives another state than the leader's: {_difference(forward, replica)}")
    if dump_budget(forward.budget) != dump_budget(backward.budget):
        observer.blame("P5: the ledger depends on how the two logs are interleaved")


def _messages(cluster: Cluster) -> tuple[list[Stored], list[Stored]]:
    world = cluster.world
    return tuple(  # type: ignore[return-value]  # two of them
        list(stream.between(0, stream.state().last_sequence)) for stream in (world.control, world.nodes)
    )


def _difference(a: Replica, b: Replica) -> str:
    """Where two images begin to differ, to look at."""
    left, right = a.dump().decode(), b.dump().decode()
    at = next((index for index, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), len(left))
    return f"...{left[max(0, at - 80) : at + 80]} | ...{right[max(0, at - 80) : at + 80]}"
