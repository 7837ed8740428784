"""Several control planes: who leads, who takes over when, and that healthy ones leave each other alone."""

import asyncio
import logging
from functools import partial

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, Gate, Rig, day, issue, revoke, scenario, settle
from support.seats import Chair, chairs, until

from controlplane.errors import NotLeading
from controlplane.seat import LeadershipEnded
from events import subjects
from events.codec import CodecError, decode_batch
from events.log.faults import PublishFate
from events.state.replica import Replica
from events.types import LeaderStarted, NodeJoined
from schemas.rpc import JoinAnswer, JoinAsk

TAKEOVER_S = 3.0
"""After a kill -9."""
PAUSED_S = 10.0
"""After a SIGSTOP."""


def fences(rig: Rig) -> int:
    stored = rig.control.between(0, rig.control.state().last_sequence)
    return sum(message.subject == subjects.CONTROL_FENCE for message in stored)


def folded(rig: Rig) -> bytes:
    """A replica made from the logs alone."""
    replica = Replica()
    for message in rig.control.between(0, rig.control.state().last_sequence):
        replica.apply_control(message)
    for message in rig.nodes.between(0, rig.nodes.state().last_sequence):
        replica.apply_node(message)
    return replica.dump()


async def end_all(*found: Chair) -> None:
    for one in found:
        one.process.resume()
        await one.end()


@scenario
async def test_of_several_that_begin_together_one_leads_and_the_others_know_it(rig: Rig) -> None:
    leader, *others = await chairs(rig, 3)
    assert len(rig.events(rig.control, LeaderStarted)) == 1
    for other in others:
        assert other.seat.elsewhere == leader.seat.here
        assert other.seat.elsewhere is not None
        assert other.seat.elsewhere.url == f"http://{leader.name}"
    await end_all(leader, *others)


@scenario
async def test_a_standby_knows_what_the_leader_knows(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    node = await rig.node("n1")
    await leader.seat.execute(issue(cap=1_000), BY)
    assert (await node.ask("r1", {day(): 10})).outcome == "granted"
    node.admit("r1", 10, day())
    await settle()
    assert await other.seat.folded(leader.seat.sequence, 1.0)
    await node.stop()
    await settle()
    assert other.seat.replica.dump() == leader.seat.replica.dump() == folded(rig)
    assert other.seat.node_statuses().keys() == {node.incarnation}
    assert other.seat.current()
    with pytest.raises(NotLeading):
        await other.seat.execute(revoke(), BY)
    await end_all(leader, other)


@scenario
async def test_killed(rig: Rig) -> None:
    """Leases survive, a barrier that was open is open, and the standby has folded nothing twice."""
    leader, other = await chairs(rig, 2)
    node = await rig.node("n1")
    assert leader.seat.leader is not None
    await leader.seat.leader.execute(issue(cap=1_000), BY)
    await node.ask("r1", {day(): 400})
    rig.deaf.add("n1")
    revoking = leader.process.run(leader.seat.execute(revoke(), BY))
    await asyncio.sleep(0.05)
    leader.kill()
    assert not revoking.done()
    assert await until(lambda: other.leads) < TAKEOVER_S
    began = asyncio.get_running_loop().time()
    assert other.seat.state.keys["vk_1"].state == "revoked"
    assert other.seat.replica.budget.leases.leased(day()) >= 400
    await other.process.run(other.seat.execute(revoke(), BY))  # B3, at the new leader
    assert node.incarnation not in other.seat.replica.nodes.living
    assert asyncio.get_running_loop().time() - began >= rig.timing.proof_ttl_ms / 1000
    await settle()
    assert other.seat.replica.dump() == folded(rig)
    await end_all(other)


@scenario
async def test_paused_and_woken(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    old = leader.seat.leader
    assert old is not None
    await leader.seat.execute(issue(), BY)
    leader.process.pause()
    assert await until(lambda: other.leads) < PAUSED_S
    epoch = fences(rig)
    await other.process.run(other.seat.execute(issue("vk_2"), BY))
    recorded = leader.process.run(leader.seat.execute(issue("vk_3"), BY))
    leader.process.resume()
    with pytest.raises(NotLeading):
        await recorded
    await until(lambda: leader.stands_by)
    assert old.deposed
    assert "vk_3" not in other.seat.state.keys
    stored = rig.control.between(0, rig.control.state().last_sequence)
    late = [
        m for m in stored if m.sequence > other.seat.replica.fence_seq and decode_batch(m.payload).actor == old.name
    ]
    assert late == []
    await settle()
    assert leader.seat.replica.dump() == other.seat.replica.dump() == folded(rig)
    await asyncio.sleep(60)
    assert fences(rig) == epoch
    await end_all(leader, other)


@scenario
async def test_a_leader_that_wakes_neither_writes_nor_grants_nor_feeds(rig: Rig) -> None:
    """All that was asked of it meanwhile reaches it when it wakes, before it knows of its successor."""
    leader, other = await chairs(rig, 2)
    old = leader.seat.leader
    assert old is not None
    node = await rig.node("n1")
    await leader.seat.execute(issue(cap=1_000), BY)
    await node.ask("r0", {day(): 10})
    await rig.watch_feed()
    leader.process.pause()
    piled_up = [asyncio.create_task(node.ask(f"r{number}", {day(): 50})) for number in range(1, 4)]
    joining = asyncio.create_task(node.call("join", JoinAsk("a nonce", 1, "test"), JoinAnswer, timeout_s=30.0))
    assert await until(lambda: other.leads) < PAUSED_S
    await other.process.run(other.seat.execute(revoke(), BY))
    epoch, joins = other.seat.replica.fence_seq, len(rig.events(rig.control, NodeJoined))
    leases = other.seat.replica.budget.leases.leased(day())
    told = len(rig.feed)
    leader.process.resume()
    await until(lambda: leader.stands_by)
    await asyncio.gather(*piled_up, joining, return_exceptions=True)
    stored = rig.control.between(epoch, rig.control.state().last_sequence)
    assert {decode_batch(message.payload).actor for message in stored} == {other.seat.replica.leader}
    assert len(rig.events(rig.control, NodeJoined)) == joins
    assert other.seat.replica.budget.leases.leased(day()) == leases
    assert all(delta.epoch == epoch or not delta.records for delta in rig.feed[told:])
    assert other.seat.state.keys["vk_1"].state == "revoked"
    await node.stop()
    await end_all(leader, other)


def test_a_lost_leadership_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        rig = Rig()
        leader, other = await chairs(rig, 2)
        leader.process.pause()
        await until(lambda: other.leads)
        leader.process.resume()
        await until(lambda: leader.stands_by)
        await end_all(leader, other)

    run_virtual(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert any("is deposed, and stands by" in record.getMessage() for record in caplog.records)


@scenario
async def test_leading_in_turn_again_and_again(rig: Rig) -> None:
    """Both have led, both have stood by: their replicas are still the fold of the logs."""
    one, two = await chairs(rig, 2)
    node = await rig.node("n1")
    for turn in range(4):
        await one.process.run(one.seat.execute(issue(f"vk_{turn}", cap=100), BY))
        await node.ask(f"r{turn}", {day(f"key:vk_{turn}"): 10})
        one.process.pause()
        await until(lambda two=two: two.leads)
        one.process.resume()
        await until(lambda one=one: one.stands_by)
        one, two = two, one
    await node.stop()
    await settle()
    assert one.seat.replica.dump() == two.seat.replica.dump() == folded(rig)
    assert len(one.seat.state.keys) == 4
    await end_all(one, two)


@scenario
async def test_a_leader_that_says_goodbye_is_followed_at_once(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    await leader.end()
    assert await until(lambda: other.leads) < 0.5
    await end_all(other)


@scenario
async def test_a_lost_goodbye_costs_no_more_than_a_kill(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    rig.deliveries_s = lambda _sender, _receiver, subject: () if subject == subjects.FEED else (0.0,)  # type: ignore[method-assign,assignment]
    await leader.end()
    assert await until(lambda: other.leads) < TAKEOVER_S
    await end_all(other)


@pytest.mark.parametrize("seed", range(20))
def test_standbys_that_race_depose_nobody(seed: int) -> None:
    """Whatever the moment, one fence follows a leader's death, and one leader."""

    async def main() -> None:
        rig = Rig(seed=seed)
        leader, *others = await chairs(rig, 4)
        before = fences(rig)
        await asyncio.sleep(rig.random.random())
        leader.kill()
        assert await until(lambda: any(one.leads for one in others)) < TAKEOVER_S
        await asyncio.sleep(30)
        assert fences(rig) == before + 1
        assert sum(one.leads for one in others) == 1
        assert sum(one.stands_by for one in others) == 2
        await end_all(*others)

    run_virtual(main())


@scenario
async def test_a_fence_that_comes_too_late_is_not_stored(rig: Rig) -> None:
    """A standby stands still between its conclusion and its fence; meanwhile another one leads."""
    leader, other = await chairs(rig, 2)
    gate = Gate()
    slow = Chair(rig, "slow", gate)
    await until(lambda: slow.stands_by)
    gate.close()
    other.process.pause()
    leader.kill()
    await asyncio.sleep(2)
    other.process.resume()
    await until(lambda: other.leads)
    count = fences(rig)
    gate.reopen()
    await until(lambda: slow.stands_by)
    assert fences(rig) == count
    assert other.leads
    await end_all(other, slow)


@scenario
async def test_a_lost_acknowledgement_of_the_fence_is_no_lost_race(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    gate = Gate()
    third = Chair(rig, "third", gate)
    await until(lambda: third.stands_by)
    gate.fates = [PublishFate(ack_delay_s=float("inf"))]
    await other.end()
    leader.kill()
    await until(lambda: third.leads)
    assert len(rig.events(rig.control, LeaderStarted)) == 2
    await end_all(third)


@scenario
async def test_a_standby_that_dies_after_its_fence_is_followed_by_the_next(rig: Rig) -> None:
    (leader,) = await chairs(rig, 1)
    gates = [Gate(), Gate()]
    others = [Chair(rig, f"s{number}", gate) for number, gate in enumerate(gates)]
    tried: list[Gate] = []

    def stop_after_the_fence(gate: Gate) -> None:
        tried.append(gate)
        gate.close()

    for gate in gates:
        gate.on_fence = partial(stop_after_the_fence, gate)
    await until(lambda: all(other.stands_by for other in others))
    count = fences(rig)
    leader.kill()
    await until(lambda: fences(rig) > count)
    first = gates.index(tried[0])
    dead, left = others[first], others[1 - first]
    assert not dead.leads
    dead.kill()
    gates[1 - first].on_fence = None
    gates[1 - first].reopen()
    assert await until(lambda: left.leads) < PAUSED_S
    await end_all(left)


@scenario
async def test_healthy_ones_leave_each_other_alone(rig: Rig) -> None:
    """A bus that loses half of all messages, for ten minutes."""
    found = await chairs(rig, 3)
    count = fences(rig)
    rig.deliveries_s = lambda _sender, _receiver, _subject: (0.0,) if rig.random.random() < 0.5 else ()  # type: ignore[method-assign,assignment]
    await asyncio.sleep(600)
    assert fences(rig) - count <= 2
    await end_all(*found)


@scenario
async def test_who_cannot_hear_itself_concludes_nothing(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    count = fences(rig)
    rig.deaf.add(other.name)
    await asyncio.sleep(60)
    assert fences(rig) == count
    assert other.seat.readiness() is not None
    rig.deaf.clear()
    await until(lambda: other.stands_by)
    assert leader.leads
    await end_all(leader, other)


@scenario
async def test_who_has_no_connection_concludes_nothing(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    count = fences(rig)
    other.client.set_connected(False)
    await asyncio.sleep(60)
    other.client.set_connected(True)
    await asyncio.sleep(60)
    assert fences(rig) == count
    await end_all(leader, other)


@scenario
async def test_a_standby_that_stood_still_listens_before_it_acts(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    count = fences(rig)
    other.process.pause()
    await asyncio.sleep(3_600)
    other.process.resume()
    await asyncio.sleep(30)
    assert fences(rig) == count
    assert other.stands_by
    await end_all(leader, other)


@scenario
async def test_a_leader_that_only_the_question_reaches_is_left_alone(rig: Rig) -> None:
    leader, other = await chairs(rig, 2)
    count = fences(rig)
    rig.deliveries_s = lambda _sender, _receiver, subject: () if subject == subjects.FEED else (0.0,)  # type: ignore[method-assign,assignment]
    await asyncio.sleep(60)
    assert fences(rig) == count
    assert other.stands_by
    await end_all(leader, other)


@scenario
async def test_two_that_name_the_same_address_say_so(rig: Rig) -> None:
    """On two hosts, without advertise_url: what is forwarded would come back here."""
    (leader,) = await chairs(rig, 1)
    other = Chair(rig, "other", url="http://c1")
    await until(lambda: other.seat.elsewhere is not None)
    assert "advertise_url" in (other.seat.readiness() or "")
    await end_all(leader, other)


@scenario
async def test_a_defect_ends_the_process(rig: Rig) -> None:
    (leader,) = await chairs(rig, 1)
    assert leader.seat.leader is not None
    rig.nodes.store(subjects.node_fence("n1", "n1-x"), b"not a batch", None, None)
    with pytest.raises(LeadershipEnded, match="fold of the node logs"):
        await leader.task
    await leader.seat.close()


@scenario
async def test_what_cannot_be_folded_is_not_forgotten_by_the_next_start(rig: Rig) -> None:
    """A checkpoint kept at the end of a process whose fold has failed would begin behind the message."""
    (leader,) = await chairs(rig, 1)
    await leader.seat.execute(issue(), BY)
    rig.nodes.store(subjects.node_fence("n1", "n1-x"), b"not a batch", None, None)
    with pytest.raises(LeadershipEnded):
        await leader.task
    await leader.seat.close()
    again = Chair(rig, "c1", checkpoints=leader.checkpoints)
    with pytest.raises(CodecError):
        await asyncio.wait_for(again.task, 60)
    await again.seat.close()


@scenario
async def test_a_change_that_cannot_be_folded_ends_the_process(rig: Rig) -> None:
    """It is in the log, so going on would be leading with a state that the log does not give."""
    (leader,) = await chairs(rig, 1)

    def broken(*_: object) -> None:
        raise KeyError("a defect")

    leader.seat.budget.apply_control = broken  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        await leader.seat.execute(issue(), BY)
    with pytest.raises(LeadershipEnded, match="fold of the control log"):
        await asyncio.wait_for(leader.task, 60)
    await leader.seat.close()
    again = Chair(rig, "c1", checkpoints=leader.checkpoints)
    await until(lambda: again.leads)
    assert "vk_1" in again.seat.state.keys
    assert again.seat.replica.dump() == folded(rig)
    await end_all(again)
