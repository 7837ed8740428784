"""The leader with its ledger, barrier, membership and feed over logs and bus in memory, in virtual time.

Nodes are scripted (tests/support/control_rig.py). Times are exact: nothing here waits for real.
"""

import asyncio
import contextlib

import msgspec
import pytest
from support.control_rig import BY, Gate, Refused, Rig, day, issue, process, record, revoke, scenario, set_cap, settle

from controlplane.checkpoints import Unsafe
from controlplane.commands.base import CommandRefusal
from controlplane.errors import BarrierOpen, CommandRefused, LogUnavailable, NotLeading
from controlplane.leader import Leader
from events import subjects
from events.codec import encode_batch
from events.log.faults import ACK_LOST, LOST
from events.state.replica import Replica
from events.types import (
    AgentSuspended,
    Fenced,
    KeyRevoked,
    KeySuspended,
    LeaderStarted,
    LeaseGranted,
    Marked,
    NodeFenced,
    NodeJoined,
    NodeStopped,
    ObjectExposure,
    RequestSettled,
)
from schemas.amounts import Amounts
from schemas.packed import unpack
from schemas.policy import AgentPolicy, FeedDelta, KeyPolicy
from schemas.rpc import (
    CatchupAsk,
    JoinAnswer,
    JoinAsk,
    LeaseAnswer,
    LeaseAsk,
    ObjectAnswer,
    ObjectAsk,
    RegisterAnswer,
    RegisterAsk,
    UsageAnswer,
    UsageAsk,
)


async def timed(rig: Rig, coroutine) -> int:
    """How many milliseconds it took."""
    before = rig.now_ms()
    await coroutine
    return rig.now_ms() - before


def assert_replays(rig: Rig, leader: Leader) -> None:
    """P5: the state is the fold of the logs, byte for byte."""
    replica = Replica()
    for stored in rig.nodes.between(0, leader.replica.nodes.seq):
        replica.apply_node(stored)
    for stored in rig.control.between(0, leader.replica.control_seq):
        replica.apply_control(stored)
    assert replica.dump() == leader.replica.dump()


# ---------------------------------------------------------------- commands and the barrier


@scenario
async def test_a_revocation_waits_for_every_node_and_no_longer(rig: Rig) -> None:
    leader = await rig.lead()
    await rig.node("n1")
    slow = await rig.node("n2")
    await leader.execute(issue(), BY)
    slow.applies = False
    revocation = asyncio.create_task(leader.execute(revoke(), BY))
    await asyncio.sleep(0.2)
    assert not revocation.done()
    slow.applies = True
    slow.position = leader.state.seq
    slow.apply()
    await settle()
    assert revocation.done()
    assert rig.events(rig.nodes, Fenced) == []
    assert_replays(rig, leader)


@scenario
async def test_with_healthy_nodes_a_revocation_takes_no_time(rig: Rig) -> None:
    leader = await rig.lead()
    for slot in ("n1", "n2", "n3"):
        await rig.node(slot)
    await leader.execute(issue(), BY)
    assert await timed(rig, leader.execute(revoke(), BY)) <= 1


@scenario
async def test_a_lost_push_is_repeated(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(), BY)
    rig.deaf.add("n1")
    revocation = asyncio.create_task(leader.execute(revoke(), BY))
    await asyncio.sleep(0.05)
    rig.deaf.clear()
    await asyncio.sleep(0.06)  # the next push comes after a quarter of the time-out
    assert revocation.done()
    assert node.records["key:vk_1"].state == "revoked"
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_a_deaf_node_is_fenced_and_the_answer_takes_less_than_a_second(rig: Rig) -> None:
    leader = await rig.lead()
    await rig.node("n1")
    deaf = await rig.node("n2")
    await leader.execute(issue(), BY)
    rig.deaf.add("n2")
    took_ms = await timed(rig, leader.execute(revoke(), BY))
    assert 800 <= took_ms < 900  # its time-out, and then its proof's
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [deaf.incarnation]
    assert deaf.log.fenced or not deaf.log.queued_events
    await settle()
    assert [fence.incarnation for fence in rig.events(rig.control, NodeFenced)] == [deaf.incarnation]
    assert_replays(rig, leader)


@scenario
async def test_of_twenty_nodes_one_stands_still_and_holds_up_only_the_first_revocation(rig: Rig) -> None:
    leader = await rig.lead()
    box = process("n20")
    for number in range(1, 20):
        await rig.node(f"n{number}")
    stopped = await box.run(rig.node("n20"))
    for key in ("vk_1", "vk_2", "vk_3"):
        await leader.execute(issue(key), BY)
    assert await timed(rig, leader.execute(revoke("vk_1"), BY)) <= 1
    box.pause()
    assert await timed(rig, leader.execute(revoke("vk_2"), BY)) < 1_000
    assert await timed(rig, leader.execute(revoke("vk_3"), BY)) <= 1
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [stopped.incarnation]
    box.resume()
    await settle()
    assert stopped.log is not None
    assert stopped.log.fenced


@scenario
async def test_scenario_2_a_fence_counts_only_once_it_is_old_enough(rig: Rig) -> None:
    """A barrier for K1 fences a node; a barrier for K2 straight after must wait for that fence's age too."""
    leader = await rig.lead()
    await rig.node("n1")
    await rig.node("n2")
    await leader.execute(issue("vk_1"), BY)
    await leader.execute(issue("vk_2"), BY)
    rig.deaf.add("n2")
    first = asyncio.create_task(leader.execute(revoke("vk_1"), BY))
    while not rig.events(rig.nodes, Fenced):
        await asyncio.sleep(0.01)
    fenced_ms = rig.now_ms()
    await leader.execute(revoke("vk_2"), BY)
    assert rig.now_ms() - fenced_ms >= rig.timing.proof_ttl_ms - 10
    await asyncio.wait_for(first, 0.01)


@scenario
async def test_a_fence_of_another_node_does_not_restart_the_wait(rig: Rig) -> None:
    leader = await rig.lead()
    await rig.node("n1")
    await leader.execute(issue(), BY)
    crashing = [await rig.node(f"n{number}") for number in range(2, 6)]
    rig.deaf.update(("n2", "n3", "n4", "n5"))

    async def crash_on() -> None:
        for fake in crashing:
            await asyncio.sleep(0.15)
            await leader.membership.fence(fake.incarnation, "test")

    crashes = asyncio.create_task(crash_on())
    assert await timed(rig, leader.execute(revoke(), BY)) < 1_000
    await crashes


@scenario
async def test_scenario_3_the_leader_dies_between_the_revocation_and_its_barrier(rig: Rig) -> None:
    gate = Gate()
    old = await rig.lead("cp1", control=gate)
    node = await rig.node("n1")
    await old.execute(issue(), BY)
    node.applies = False
    dying = asyncio.create_task(old.execute(revoke(), BY))
    while not rig.events(rig.control, KeyRevoked):
        await asyncio.sleep(0.001)
    rig.deaf.add("cp1")  # it is as good as dead
    new = await rig.lead("cp2")
    again = asyncio.create_task(new.execute(revoke(), BY))
    await asyncio.sleep(0.1)
    assert not again.done()
    assert len(rig.events(rig.control, KeyRevoked)) == 1
    node.applies = True
    node.position = new.state.seq
    node.apply()
    await settle()
    assert again.done()
    with contextlib.suppress(NotLeading, BarrierOpen):  # if it answers, then because the barrier is complete
        await asyncio.wait_for(dying, 15)
    assert_replays(rig, new)


@scenario
async def test_a_new_leader_counts_old_fences_from_its_takeover(rig: Rig) -> None:
    old = await rig.lead("cp1")
    node = await rig.node("n1")
    await old.execute(issue(), BY)
    node.applies = False
    await old.membership.fence(node.incarnation, "test")
    await asyncio.sleep(5)
    new = await rig.lead("cp2")
    assert await timed(rig, new.execute(revoke(), BY)) >= rig.timing.proof_ttl_ms - 1


@scenario
async def test_a_barrier_does_not_fence_nodes_while_the_log_cannot_be_written(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(control=gate, nodes=gate)
    node = await rig.node("n1")
    await leader.execute(issue(), BY)
    node.applies = False
    revocation = asyncio.create_task(leader.execute(revoke(), BY))
    await settle()
    gate.close()  # for the leader, and so (as an outage is) for the node
    node.gate.close()
    await asyncio.sleep(3)
    gate.reopen()
    await asyncio.sleep(0.3)  # the node's connection takes a little longer to come back
    node.gate.reopen()
    node.applies = True
    node.position = leader.state.seq
    node.apply()
    await asyncio.sleep(0.5)
    assert revocation.done()
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_a_paused_control_plane_fences_nobody(rig: Rig) -> None:
    """Scenario 10, and A2: what piled up is folded before anybody is judged."""
    box = process("cp")
    started = box.run(rig.lead())
    leader = await started
    nodes = [await rig.node(slot) for slot in ("n1", "n2")]
    box.run(leader.execute(issue(), BY))
    await asyncio.sleep(0.1)
    revocation = box.run(leader.execute(revoke(), BY))
    box.pause()
    await asyncio.sleep(20)
    box.resume()
    await asyncio.sleep(1)
    assert revocation.done()
    assert rig.events(rig.nodes, Fenced) == []
    assert set(leader.replica.nodes.living) == {node.incarnation for node in nodes}


@scenario
async def test_a_control_plane_that_stood_still_asks_again_before_it_fences(rig: Rig) -> None:
    box = process("cp")
    leader = await box.run(rig.lead())
    node = await rig.node("n1")
    await box.run(leader.execute(issue(), BY))
    rig.deaf.add("n1")
    revocation = box.run(leader.execute(revoke(), BY))
    await asyncio.sleep(0.05)
    box.pause()
    await asyncio.sleep(5)
    rig.deaf.clear()
    box.resume()
    await asyncio.sleep(0.3)
    assert revocation.done()
    assert node.records["key:vk_1"].state == "revoked"
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_after_the_whole_machine_slept_nodes_get_time_to_wake(rig: Rig) -> None:
    machine = [process("cp"), process("n1")]
    await machine[0].run(rig.lead())
    await machine[1].run(rig.node("n1"))
    await settle()
    for box in machine:
        box.pause()
    await asyncio.sleep(3_600)
    for box in machine:
        box.resume()
        await asyncio.sleep(1)
    await asyncio.sleep(4)
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_a_lagging_follower_fences_nobody(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    await rig.node("n1")
    gate.blind = True
    await asyncio.sleep(10)
    gate.blind = False
    await asyncio.sleep(5)
    assert rig.events(rig.nodes, Fenced) == []
    assert leader.readiness() is None


@scenario
async def test_a_command_that_loosens_waits_for_the_nodes_but_not_for_long(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    assert await timed(rig, leader.execute(issue("vk_1"), BY)) <= 1
    assert "key:vk_1" in node.records  # it works at once
    node.applies = False
    took_ms = await timed(rig, leader.execute(issue("vk_2"), BY))
    assert took_ms == rig.timing.barrier_timeout_ms
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_a_refused_command_records_nothing(rig: Rig) -> None:
    leader = await rig.lead()
    before = msgspec.structs.replace(leader.state.image(), seq=0)

    def decide(*_):
        return CommandRefusal(409, "conflict", "no")

    with pytest.raises(CommandRefused) as caught:
        await leader.execute(decide, BY)
    assert caught.value.refusal.code == "conflict"
    assert msgspec.structs.replace(leader.state.image(), seq=0) == before


@scenario
async def test_a_command_during_an_outage_is_answered_and_still_lands(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(control=gate)
    await leader.execute(issue(), BY)
    gate.close()
    with pytest.raises(LogUnavailable):
        await leader.execute(revoke(), BY)
    assert leader.state.keys["vk_1"].state == "active"
    assert leader.readiness() is not None
    gate.reopen()
    await leader.execute(revoke(), BY)  # repeated: finds the first one recorded
    assert len(rig.events(rig.control, KeyRevoked)) == 1
    assert leader.readiness() is None


@scenario
async def test_an_open_barrier_is_told_and_may_be_repeated(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    node = await rig.node("n1")
    await leader.execute(issue(), BY)
    node.applies = False
    gate.close()  # fences cannot be written either
    with pytest.raises(BarrierOpen):
        await leader.execute(revoke(), BY)
    gate.reopen()
    await leader.execute(revoke(), BY)
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [node.incarnation]


@scenario
async def test_many_events_are_recorded_in_several_messages(rig: Rig) -> None:
    leader = await rig.lead()
    await rig.node("n1")
    for number in range(1_200):
        await leader.execute(issue(f"vk_{number}"), BY)
    revocations = tuple(KeyRevoked(f"vk_{number}", BY) for number in range(1_200))
    before = leader.state.seq
    await leader.execute(record(*revocations), BY)
    assert leader.state.seq - before == 3
    assert all(key.state == "revoked" for key in leader.state.keys.values())
    assert_replays(rig, leader)


# ---------------------------------------------------------------- leadership


@scenario
async def test_two_standbys_at_once_the_last_fence_wins(rig: Rig) -> None:
    first, second = await asyncio.gather(rig.lead("cp1"), rig.lead("cp2"), return_exceptions=True)
    leaders = [one for one in (first, second) if isinstance(one, Leader)]
    assert any(isinstance(one, NotLeading) for one in (first, second))
    assert len(leaders) == 1
    await leaders[0].execute(issue(), BY)
    assert len(rig.events(rig.control, LeaderStarted)) == 1


@scenario
async def test_a_stale_leader_cannot_record_and_says_so(rig: Rig) -> None:
    old = await rig.lead("cp1")
    await old.execute(issue(), BY)
    new = await rig.lead("cp2")
    with pytest.raises(NotLeading):
        await old.execute(revoke(), BY)
    assert "taken over" in await old.ended or old.ended.done()
    assert old.readiness() is not None
    assert new.state.keys["vk_1"].state == "active"
    await new.execute(revoke(), BY)


@scenario
async def test_a_stale_leader_lends_and_refuses_nothing(rig: Rig) -> None:
    old = await rig.lead("cp1")
    node = await rig.node("n1")
    await old.execute(issue(cap=100), BY)
    await rig.lead("cp2")
    rig.deaf.add("cp2")  # only the stale one hears the node
    with pytest.raises(Exception, match=r".") as caught:
        await node.ask("r1", {day(): 10})
    assert not isinstance(caught.value, AssertionError)
    assert rig.events(rig.control, LeaseGranted) == []
    with pytest.raises(Exception, match=r"."):
        await node.ask("r2", {day(): 1_000})


@scenario
async def test_scenario_10_paused_between_fold_and_append(rig: Rig) -> None:
    """A grant that was decided before a takeover, and sent after it, is not recorded."""
    gate = Gate()
    old = await rig.lead("cp1", control=gate)
    node = await rig.node("n1")
    await old.execute(issue(cap=100), BY)
    gate.close()
    asked = asyncio.create_task(node.ask("r1", {day(): 60}))
    await settle()
    new = await rig.lead("cp2")
    gate.reopen()
    await asyncio.sleep(0.5)
    assert rig.events(rig.control, LeaseGranted) == []
    assert new.budget.leases.leased(day()) == 0
    asked.cancel()
    rig.deaf.add("cp1")
    assert (await node.ask("r2", {day(): 60})).outcome == "granted"


@scenario
async def test_a_takeover_sees_everything_that_nodes_have_done(rig: Rig) -> None:
    """Scenario 10: the new leader's fold must not lag when it decides."""
    old = await rig.lead("cp1")
    node = await rig.node("n1")
    await old.execute(issue(cap=100), BY)
    await node.ask("r1", {day(): 100})
    node.admit("r1", 100, day())
    await settle()
    control, nodes = Gate(), Gate()
    nodes.delay_s = 0.2  # the new leader's fold lags
    control.on_fence = lambda: node.settle("r1", 90)  # and the node goes on until the last moment
    rig.deaf.add("cp1")
    new = await rig.lead("cp2", control=control, nodes=nodes)
    assert new.budget.line(day(), "UTC") == (90, 0, 10)
    other = await rig.node("n2")
    assert (await other.ask("r2", {day(): 11})).outcome == "refused"
    assert_replays(rig, new)


@scenario
async def test_scenario_12_a_late_key_issued_revives_nothing(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(), BY)
    await leader.execute(revoke(), BY)
    await leader.execute(issue(), BY)
    assert leader.state.keys["vk_1"].state == "revoked"
    fresh = await rig.node("n2")
    for fake in (node, fresh):
        assert fake.records["key:vk_1"].state == "revoked"


@scenario
async def test_scenario_4_a_snapshot_holds_tombstones_newer_than_any_late_delta(rig: Rig) -> None:
    """A node that loads the snapshot after the revocation cannot take a stale leader's record for news."""
    old = await rig.lead("cp1")
    await old.execute(issue(), BY)
    stale = old.feed.catchup(0)
    new = await rig.lead("cp2")
    await new.execute(revoke(), BY)
    rig.deaf.add("cp1")
    node = await rig.node("n1")
    tombstone = node.records["key:vk_1"]
    assert tombstone.state == "revoked"
    late = [r for r in stale.records if isinstance(r, KeyPolicy)] or [
        r for r in unpack(old.feed.snapshot("").packed) if isinstance(r, KeyPolicy)
    ]
    assert late
    assert all(r.seq < tombstone.seq for r in late)
    assert stale.epoch < new.epoch


# ---------------------------------------------------------------- membership


@scenario
async def test_joining(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    assert node.joined is not None
    joined = rig.events(rig.control, NodeJoined)
    assert [(j.slot, j.incarnation, j.fence_seq) for j in joined] == [("n1", node.incarnation, node.joined.fence_seq)]
    assert node.joined.joined_seq == leader.state.nodes[node.incarnation].joined_seq
    assert rig.nodes.last_on_subject(node.joined.fence_subject).sequence == node.joined.fence_seq
    assert leader.node_statuses()[node.incarnation].applied >= node.joined.joined_seq


@scenario
async def test_the_same_nonce_gets_the_same_answer(rig: Rig) -> None:
    await rig.lead()
    node = await rig.node("n1")
    ask = JoinAsk("nonce", 1, "x")
    first, second = await asyncio.gather(node.call("join", ask, JoinAnswer), node.call("join", ask, JoinAnswer))
    third = await node.call("join", ask, JoinAnswer)
    assert first.incarnation == second.incarnation == third.incarnation
    assert len(rig.events(rig.control, NodeJoined)) == 2  # the rig's own, and this one


@scenario
async def test_of_two_that_join_one_slot_at_once_the_later_stays(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    asks = [node.call("join", JoinAsk(nonce), JoinAnswer) for nonce in ("one", "two", "three")]
    answers = await asyncio.gather(*asks)
    newest = max(answers, key=lambda answer: answer.fence_seq)
    assert set(leader.replica.nodes.living) == {newest.incarnation}


@scenario
async def test_a_new_incarnation_fences_the_slots_earlier_ones(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    other = await rig.node("n2")
    first = node.incarnation
    again = await rig.node("n1")
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [first]
    assert set(leader.replica.nodes.living) == {again.incarnation, other.incarnation}
    await settle()
    assert [fence.incarnation for fence in rig.events(rig.control, NodeFenced)] == [first]


@scenario
async def test_a_dead_node_is_fenced_after_node_timeout(rig: Rig) -> None:
    leader = await rig.lead()
    await rig.node("n1")
    dead = await rig.node("n2")
    await dead.stop()
    died_ms = rig.now_ms()
    while not rig.events(rig.nodes, Fenced):
        await asyncio.sleep(0.01)
        assert rig.now_ms() - died_ms < 4_000
    assert rig.now_ms() - died_ms >= rig.timing.node_timeout_ms - rig.timing.heartbeat_ms
    assert rig.events(rig.nodes, Fenced)[0].actor == dead.incarnation
    await settle()
    assert dead.incarnation not in leader.replica.nodes.living


@scenario
async def test_a_node_that_drained_is_fenced_at_once(rig: Rig) -> None:
    await rig.lead()
    node = await rig.node("n1")
    node.write(NodeStopped(0))
    await settle()
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [node.incarnation]


@scenario
async def test_after_an_outage_nodes_get_time_to_come_back(rig: Rig) -> None:
    gate = Gate()
    await rig.lead(control=gate, nodes=gate)
    node = await rig.node("n1")
    gate.close()
    node.gate.close()
    await asyncio.sleep(30)
    gate.reopen()
    await asyncio.sleep(2)  # the node's connection takes longer to come back
    node.gate.reopen()
    await asyncio.sleep(2)
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_after_a_takeover_nodes_get_time_to_be_heard(rig: Rig) -> None:
    await rig.lead("cp1")
    node = await rig.node("n1")
    node.gate.close()
    await asyncio.sleep(2.9)
    await rig.lead("cp2")
    await asyncio.sleep(1)
    node.gate.reopen()
    await asyncio.sleep(3)
    assert rig.events(rig.nodes, Fenced) == []


@scenario
async def test_a_fence_that_the_old_leader_wrote_is_recorded_by_the_new_one(rig: Rig) -> None:
    old = await rig.lead("cp1")
    node = await rig.node("n1")
    await old.close()
    rig.leaders.clear()
    payload = encode_batch("elsewhere", 0, 0, (Fenced(node.incarnation, "by hand"),))
    rig.nodes.store(subjects.node_fence("n1", node.incarnation), payload, None, None)
    await settle()
    new = await rig.lead("cp2")
    await settle()
    assert [fence.incarnation for fence in rig.events(rig.control, NodeFenced)] == [node.incarnation]
    assert new.state.nodes[node.incarnation].fenced_seq > 0
    new.membership.record_fences()
    await new.membership.fence(node.incarnation, "again")
    await settle()
    assert len(rig.events(rig.control, NodeFenced)) == 1


@scenario
async def test_a_fence_is_folded_when_it_is_confirmed(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    node = await rig.node("n1")
    gate.delay_s = 0.2
    await asyncio.gather(*(leader.membership.fence(node.incarnation, "test") for _ in range(3)))
    assert node.incarnation not in leader.replica.nodes.living
    assert len(rig.events(rig.nodes, Fenced)) == 1
    await leader.membership.fence(node.incarnation, "test")
    await settle()
    assert len(rig.events(rig.nodes, Fenced)) == len(rig.events(rig.control, NodeFenced)) == 1


@scenario
async def test_a_joining_node_whose_fence_is_not_folded_yet_blocks_the_barrier(rig: Rig) -> None:
    """It may load a snapshot of before the revocation, although the fold does not know its log yet."""
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    await leader.execute(issue(), BY)
    gate.blind = True
    node = await rig.node("n1", applies=False, beats=False)
    revocation = asyncio.create_task(leader.execute(revoke(), BY))
    await asyncio.sleep(0.3)
    assert not revocation.done()
    gate.blind = False
    node.applies = True
    await node.load()
    await asyncio.sleep(0.2)
    assert revocation.done()


# ---------------------------------------------------------------- leases


@scenario
async def test_a_lease_and_its_way_back(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=1_000), BY)
    answer = await node.ask("r1", {day(): 10})
    assert (answer.outcome, answer.granted) == ("granted", {day(): 40})
    node.admit("r1", 10, day())
    node.settle("r1", 7)
    await settle()
    assert leader.budget.line(day(), "UTC") == (7, 0, 33)
    node.taken[day()] = 7
    node.give_back([day()])
    await settle()
    assert leader.budget.line(day(), "UTC") == (7, 0, 0)
    assert_replays(rig, leader)


@scenario
async def test_asks_that_come_together_share_one_append(rig: Rig) -> None:
    leader = await rig.lead()
    nodes = [await rig.node(f"n{number}") for number in (1, 2, 3, 4)]
    await leader.execute(issue(cap=10**9), BY)
    before = rig.control.state().last_sequence
    asks = [node.ask(f"{node.slot}.{n}", {day(): 10}) for node in nodes for n in range(100)]
    answers = await asyncio.gather(*asks)
    assert {answer.outcome for answer in answers} == {"granted"}
    assert rig.control.state().last_sequence - before <= 3


@scenario
async def test_scenario_6_two_nodes_hold_5_each_and_need_10_each(rig: Rig) -> None:
    leader = await rig.lead()
    a, b = await rig.node("n1"), await rig.node("n2")
    await leader.execute(issue(cap=10), BY)
    await a.ask("a5", {day(): 5})
    await b.ask("b5", {day(): 5})
    first, second = await asyncio.gather(a.ask("a10", {day(): 10}), b.ask("b10", {day(): 10}))
    # Whoever was served gave it back when the other one's ask recalled it.
    assert {first.outcome, second.outcome} == {"granted"}
    assert leader.budget.leases.leased(day()) <= 10


@scenario
async def test_scenario_7_money_freed_later_goes_to_who_asked_first(rig: Rig) -> None:
    leader = await rig.lead()
    a, b, c = [await rig.node(slot) for slot in ("n1", "n2", "n3")]
    await leader.execute(issue(cap=60), BY)
    await a.ask("a", {day(): 60})
    a.taken[day()] = 60  # reserved for a request whose intent is on its way
    asked_b = asyncio.create_task(b.ask("b", {day(): 30}))
    await asyncio.sleep(0.05)
    assert a.recalls
    assert leader.budget.leases.leased(day()) == 60  # it returned nothing
    asked_c = asyncio.create_task(c.ask("c", {day(): 50}))
    await asyncio.sleep(0.01)
    a.taken[day()] = 1
    a.give_back([day()])
    await settle()
    assert asked_b.done()
    assert asked_b.result().outcome == "granted"
    b.admit("b", 30, day())
    await asyncio.sleep(0.1)
    assert asked_c.result().outcome == "refused"


@scenario
async def test_scenario_8_the_answer_is_lost_and_the_recall_brings_the_grant(rig: Rig) -> None:
    leader = await rig.lead()
    a, b = await rig.node("n1"), await rig.node("n2")
    await leader.execute(issue(cap=60), BY)
    ask = LeaseAsk("a1", a.incarnation, {day(): 60})
    await a.call("ask", ask, LeaseAnswer)  # recorded; the node behaves as if it never came
    assert a.granted == {}
    answer = await b.ask("b1", {day(): 60})
    assert answer.outcome == "granted"
    assert a.granted == {day(): 60}  # credited by the recall, and returned
    assert a.returned == {day(): 60}
    late = await a.call("ask", ask, LeaseAnswer)
    assert late.granted == {day(): 60}  # cumulative: nothing new
    b.give_back([day()])
    await settle()
    again = await a.ask("a2", {day(): 60})
    assert again.granted == {day(): 120}
    assert a.free(day()) == 60
    assert leader.budget.leases.leased(day()) == 60


@scenario
async def test_a_402_within_milliseconds_and_exact(rig: Rig) -> None:
    leader = await rig.lead()
    a, b = await rig.node("n1"), await rig.node("n2")
    await leader.execute(issue(cap=100), BY)
    await a.ask("a", {day(): 90})
    a.admit("a", 90, day())
    await settle()
    before = rig.now_ms()
    answer = await b.ask("b", {day(): 20})
    assert rig.now_ms() - before <= 2
    assert answer.outcome == "refused"
    assert answer.refusal is not None
    assert (answer.refusal.cap, answer.refusal.held, answer.refusal.settled) == (100, 90, 0)


@scenario
async def test_a_holder_that_never_answers_costs_a_503_then_its_lease(rig: Rig) -> None:
    leader = await rig.lead()
    a, b = await rig.node("n1"), await rig.node("n2")
    await leader.execute(issue(cap=100), BY)
    await a.ask("a", {day(): 100})
    await a.stop()
    before = rig.now_ms()
    answer = await b.ask("b", {day(): 50})
    assert answer.outcome == "unavailable"
    assert 600 <= rig.now_ms() - before <= 900
    await asyncio.sleep(3)
    assert (await b.ask("b2", {day(): 50})).outcome == "granted"
    assert rig.events(rig.nodes, Fenced)[0].actor == a.incarnation


@scenario
async def test_who_is_fenced_is_told_and_who_is_unknown_is_not(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=100), BY)
    await leader.membership.fence(node.incarnation, "test")
    assert (await node.ask("r1", {day(): 1})).outcome == "fenced"
    node.incarnation = "n1-unheard"
    with pytest.raises(Refused, match="unavailable"):
        await node.ask("r2", {day(): 1})
    other = await rig.node("n2")
    node.incarnation = other.incarnation
    with pytest.raises(Refused, match="another slot"):
        await node.ask("r3", {day(): 1})


@scenario
async def test_who_has_just_joined_is_not_told_that_it_is_fenced(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    await leader.execute(issue(cap=100), BY)
    gate.blind = True  # the fold has not seen its log opened
    node = await rig.node("n1")
    assert (await node.ask("r1", {day(): 10})).outcome == "granted"


@scenario
async def test_an_ask_waiting_when_its_node_is_fenced_is_told(rig: Rig) -> None:
    leader = await rig.lead()
    a, b = await rig.node("n1"), await rig.node("n2", returns=False)
    await leader.execute(issue(cap=100), BY)
    await b.ask("b", {day(): 100})
    waiting = asyncio.create_task(a.ask("a", {day(): 50}))
    await asyncio.sleep(0.1)
    await leader.membership.fence(a.incarnation, "test")
    assert (await waiting).outcome == "fenced"


@scenario
async def test_a_lowered_cap_is_confirmed_when_nothing_above_it_is_lent_out(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1", returns=False)
    await leader.execute(issue(cap=100), BY)
    await node.ask("r1", {day(): 80})
    lowering = asyncio.create_task(leader.execute(set_cap("key:vk_1", 50), BY))
    await asyncio.sleep(0.2)
    assert not lowering.done()  # it has applied the cap, but may still spend 80
    assert node.recalls
    node.give_back([day()])
    await settle()
    assert lowering.done()
    assert rig.events(rig.nodes, Fenced) == []
    assert (await node.ask("r2", {day(): 60})).outcome == "refused"


@scenario
async def test_a_node_that_keeps_too_much_after_a_lowered_cap_is_fenced(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1", returns=False)
    await leader.execute(issue(cap=100), BY)
    await node.ask("r1", {day(): 80})
    took_ms = await timed(rig, leader.execute(set_cap("key:vk_1", 50), BY))
    assert took_ms < 1_000
    assert [fence.actor for fence in rig.events(rig.nodes, Fenced)] == [node.incarnation]


@scenario
async def test_a_new_leader_keeps_a_lowered_caps_barrier_open(rig: Rig) -> None:
    old = await rig.lead("cp1")
    node = await rig.node("n1", returns=False)
    await old.execute(issue(cap=100), BY)
    await node.ask("r1", {day(): 80})
    lowering = asyncio.create_task(old.execute(set_cap("key:vk_1", 50), BY))
    await asyncio.sleep(0.1)
    rig.deaf.add("cp1")
    new = await rig.lead("cp2")
    seq = new.state.budget_seqs["key:vk_1"]
    again = asyncio.create_task(new.execute(record(barrier_seq=seq), BY))
    await asyncio.sleep(0.1)
    assert not again.done()
    node.give_back([day()])
    await asyncio.sleep(0.1)
    assert again.done()
    lowering.cancel()


@scenario
async def test_a_change_is_watched_no_longer_than_until_all_nodes_act_on_it(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=100), BY)
    for cap in (200, 150, 300):
        await leader.execute(set_cap("key:vk_1", cap), BY)
    await settle()
    assert not leader.ledger.core.lowered.watching
    node.applies = False
    await leader.execute(set_cap("key:vk_1", 400), BY)
    assert leader.ledger.core.lowered.watching


@scenario
async def test_exhausted_and_suspended(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=100, on_exhausted="suspend"), BY)
    answer = await node.ask("r1", {day(): 200})
    assert answer.outcome == "refused"
    await asyncio.sleep(0.05)
    suspended = rig.events(rig.control, KeySuspended)
    assert [(s.id, s.by.name) for s in suspended] == [("vk_1", "ringfence")]
    assert "exhausted" in suspended[0].by.reason
    assert node.records["key:vk_1"].state == "suspended"
    await node.ask("r2", {day(): 200})
    await asyncio.sleep(0.05)
    assert len(rig.events(rig.control, KeySuspended)) == 1


@scenario
async def test_exhausted_without_the_wish_is_not_suspended(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=100), BY)
    await node.ask("r1", {day(): 200})
    await asyncio.sleep(0.05)
    assert rig.events(rig.control, KeySuspended) == []
    assert rig.events(rig.control, AgentSuspended) == []


# ---------------------------------------------------------------- the feed and the other questions


@scenario
async def test_scenario_11_deltas_form_a_chain_without_gaps(rig: Rig) -> None:
    await rig.watch_feed()
    leader = await rig.lead()
    for number in range(5):
        await leader.execute(issue(f"vk_{number}"), BY)
    await asyncio.sleep(1)
    position = rig.feed[0].from_seq
    for delta in rig.feed:
        assert delta.from_seq <= position, "a gap"
        assert delta.epoch == leader.epoch
        position = max(position, delta.to_seq)
    assert position == leader.state.seq
    told = {record.id for delta in rig.feed for record in delta.records if isinstance(record, KeyPolicy)}
    assert told == {f"vk_{number}" for number in range(5)}
    # A push for who is behind begins where that node is, so "through" has no holes.
    assert leader.feed.catchup(3).from_seq == 3
    assert {r.id for r in leader.feed.catchup(leader.epoch).records if isinstance(r, KeyPolicy)} == told


@scenario
async def test_an_idle_feed_beats(rig: Rig) -> None:
    await rig.watch_feed()
    await rig.lead()
    await asyncio.sleep(2)
    assert 7 <= len(rig.feed) <= 10
    assert all(not delta.records for delta in rig.feed)


@scenario
async def test_who_is_too_far_behind_is_sent_to_the_snapshot(rig: Rig) -> None:
    leader = await rig.lead("cp1")
    await leader.execute(issue(), BY)
    leader = await rig.lead("cp2")
    rig.deaf.add("cp1")
    node = await rig.node("n1")
    delta = await node.call("catchup", CatchupAsk(1), FeedDelta)
    assert delta.resnapshot
    current = await node.call("catchup", CatchupAsk(node.position), FeedDelta)
    assert not current.resnapshot
    assert current.to_seq == leader.state.seq


@scenario
async def test_a_snapshot_in_chunks_while_the_state_changes(rig: Rig) -> None:
    leader = await rig.lead()
    for number in range(3_000):
        await leader.execute(issue(f"vk_{number:04}", metadata={"user": "x" * 200}), BY)
    node = await rig.node("n1")
    assert sum(1 for name in node.records if name.startswith("key:")) == 3_000
    assert node.position >= node.joined.joined_seq


@scenario
async def test_objects_are_answered_by_a_current_fold(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(nodes=gate)
    node = await rig.node("n1")
    await leader.execute(issue(), BY)
    assert (await node.call("object", ObjectAsk("stripe/-/pi_1"), ObjectAnswer)).counted_usd_nanos is None
    node.admit("r1", 10)
    exposure = ObjectExposure("stripe/-/pi_1", 10, "usd", 1, "eur")
    gate.delay_s = 0.1  # the fold lags
    node.write(RequestSettled("r1", "settled", 0, Amounts(requests=1), exposure))
    await settle()
    answer = await node.call("object", ObjectAsk("stripe/-/pi_1"), ObjectAnswer)
    assert (answer.counted_usd_nanos, answer.amount_minor, answer.currency, answer.key) == (10, 1, "eur", "vk_1")
    assert not answer.earlier_unknown


@scenario
async def test_a_replayed_answer_resolves_an_attempt_of_a_node_that_died(rig: Rig) -> None:
    leader = await rig.lead()
    first, second = await rig.node("n1"), await rig.node("n2")
    await leader.execute(issue(), BY)
    first.admit("r1", 10, idempotency="d1")
    second.admit("r2", 10, idempotency="d1")
    ask = ObjectAsk("stripe/-/pi_1", "d1", "r2")
    assert (await second.call("object", ask, ObjectAnswer)).earlier_unknown
    await first.stop()
    exposure = ObjectExposure("stripe/-/pi_1", 10)
    at_ns = rig.clock.wall_ns()
    second.write(RequestSettled("r2", "settled", at_ns, Amounts(requests=1), exposure, resolves="d1"))
    answer = await second.call("object", ask, ObjectAnswer)
    assert (answer.counted_usd_nanos, answer.earlier_unknown) == (10, False)
    assert leader.budget.line(day(), "UTC")[:2] == (10, 10)  # held, until it is certain that the node is no more
    await asyncio.sleep(rig.timing.node_timeout_ms / 1000 + 1)
    assert leader.budget.line(day(), "UTC")[:2] == (10, 0)


@scenario
async def test_registering_a_declared_agent(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue("vk_1", identity="declared", allow_unknown_agents=True), BY)
    await leader.execute(issue("vk_2", identity="declared"), BY)
    answer = await node.call("register", RegisterAsk("vk_1", "newcomer", "growth", "mail"), RegisterAnswer)
    assert [r.name for r in answer.records if isinstance(r, AgentPolicy)] == ["newcomer"]
    assert leader.state.agents["newcomer"].owner == "growth"
    again = await node.call("register", RegisterAsk("vk_1", "newcomer", "other"), RegisterAnswer)
    assert again.records == answer.records
    for key, name in (("vk_2", "stranger"), ("vk_none", "stranger"), ("vk_1", "not a name")):
        assert (await node.call("register", RegisterAsk(key, name), RegisterAnswer)).error
    assert "stranger" not in leader.state.agents


@scenario
async def test_usage(rig: Rig) -> None:
    leader = await rig.lead()
    node = await rig.node("n1")
    await leader.execute(issue(cap=100), BY)
    node.admit("r1", 10, day())
    node.settle("r1", 7)
    node.admit("r2", 20, day())
    await settle()
    usage = await node.call("usage", UsageAsk("vk_1"), UsageAnswer)
    assert (usage.known, usage.total_requests, usage.total_usd_nanos) == (True, 1, 7)
    assert [(agent.agent, agent.requests, agent.usd_nanos) for agent in usage.by_agent] == [("bot", 1, 7)]
    assert [(cap.cap, cap.settled, cap.held) for cap in usage.caps] == [(100, 7, 20)]
    assert not (await node.call("usage", UsageAsk("vk_other"), UsageAnswer)).known


@scenario
async def test_what_cannot_be_read_is_answered(rig: Rig) -> None:
    await rig.lead()
    node = await rig.node("n1")
    for method in ("join", "snapshot", "catchup", "ask", "object", "register", "usage"):
        for payload in (b"", b"[]", b"x" * 70_000):
            raw = await node.bus.request(subjects.rpc("n1", method), payload, 2.0)
            assert b'"code":"bad_request"' in raw, (method, payload[:20], raw)
    with pytest.raises(Refused, match="bad_request"):
        await node.call("ask", LeaseAsk("r", node.incarnation, {"no line": 1}), LeaseAnswer)


# ---------------------------------------------------------------- checkpoints (L7)


@scenario
async def test_a_checkpoint_and_what_came_after_give_the_same_state(rig: Rig) -> None:
    old = await rig.lead("cp1")
    node = await rig.node("n1")
    await old.execute(issue(cap=1_000), BY)
    await node.ask("r1", {day(): 10})
    node.admit("r1", 10, day())
    await settle()
    await old.close()
    assert rig.checkpoints.data is not None
    node.settle("r1", 7)
    await settle()
    new = await rig.lead("cp2")
    assert new.budget.figure("key", "vk_1", "usd", "day", rig.clock.wall_ns(), "UTC") == (7, 0)
    assert_replays(rig, new)
    rig.leaders.remove(old)


@scenario
async def test_a_stream_that_begins_above_the_checkpoint_is_refused(rig: Rig) -> None:
    leader = await rig.lead("cp1")
    await leader.execute(issue(), BY)
    await leader.close()
    rig.leaders.clear()
    rig.control.trim("rf.control.>", rig.control.state().last_sequence)
    with pytest.raises(Unsafe, match="does not hold message"):
        await rig.lead("cp2")


@scenario
async def test_another_deployments_stream_is_refused(rig: Rig) -> None:
    leader = await rig.lead("cp1")
    await leader.execute(issue(), BY)
    await leader.close()
    rig.leaders.clear()
    other = Rig()
    await other.lead("cp1")
    for number in range(5):
        await other.leaders[0].execute(issue(f"vk_other_{number}"), BY)
    other.checkpoints = rig.checkpoints
    with pytest.raises(Unsafe, match="another message"):
        await other.lead("cp2")
    await other.close()


@scenario
async def test_a_damaged_checkpoint_is_passed_over_only_if_the_streams_are_whole(rig: Rig) -> None:
    leader = await rig.lead("cp1")
    await leader.execute(issue(), BY)
    await leader.close()
    rig.leaders.clear()
    sound = rig.checkpoints.data
    assert sound is not None
    for damaged in (sound[:-10], b"", b"{}\n{}", sound[:-1] + bytes([sound[-1] ^ 1])):
        rig.checkpoints.data = damaged
        again = await rig.lead("cp2")
        assert set(again.state.keys) == {"vk_1"}
        await again.close()
    rig.leaders.clear()
    rig.checkpoints.data = sound[:-10]
    rig.control.trim("rf.control.>", 1)
    with pytest.raises(Unsafe, match="Restore the checkpoint"):
        await rig.lead("cp3")


# ---------------------------------------------------------------- the way to the log


@scenario
async def test_lost_and_doubled_appends_change_nothing(rig: Rig) -> None:
    gate = Gate()
    leader = await rig.lead(control=gate)
    node = await rig.node("n1")
    gate.fates = [LOST, ACK_LOST]
    await leader.execute(issue(cap=1_000), BY)
    gate.fates = [ACK_LOST]
    assert (await node.ask("r1", {day(): 10})).outcome == "granted"
    node.admit("r1", 990, day())
    await settle()
    marks = len(rig.events(rig.control, Marked))
    gate.fates = [ACK_LOST]
    answer = await node.ask("r2", {day(): 500})
    assert answer.outcome == "refused"
    # The first mark was acknowledged as a duplicate: stored, but it proves nothing about now (L4).
    assert len(rig.events(rig.control, Marked)) - marks == 2
    assert_replays(rig, leader)
