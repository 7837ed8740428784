"""The governor against a scripted control plane: the node's half of the protocol (docs/PROTOCOL.md).

The scenarios are those that random testing missed; each is a story that once ended in a payment too many.
"""

import asyncio
from typing import Any

from support.governor_rig import ACK_LOST, DAY, LOST, Rig, code, start, until, virtual
from support.scripted_control import START_WALL_NS

from dataplane.adapters.port import Outcome
from dataplane.admit import AGAIN, CAPS_CHANGED, STALE
from dataplane.governor import Admission
from events.log.faults import PublishFate
from events.types import (
    Applied,
    LeaseReturned,
    NodeStarted,
    RequestAdmitted,
    RequestRefused,
    RequestReleased,
    RequestRevalidated,
    RequestSettled,
)
from schemas.accounts import Cap
from schemas.policy import Who
from schemas.refusals import Refusal
from schemas.rpc import LeaseAnswer, LeaseAsk, Recall

CAP = Cap("usd", "day", 1_000)
UNKNOWN = Outcome("unknown", error="incomplete")


def names(rig: Rig, *kinds: type[Any]) -> list[str]:
    return [type(event).__name__ for event in rig.control.events() if isinstance(event, kinds)]


# ---------------------------------------------------------------- scenarios


@virtual
async def test_scenario_1_a_duplicate_acknowledgement_never_dispatches() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.next = [ACK_LOST]
    waiting = start(rig.admit())
    await until(lambda: len(rig.control.of(RequestAdmitted)) == 1)
    # The node is deaf; the key is revoked, the node fenced, and only then does it send its intent again.
    rig.bus_faults.lose = lambda _, receiver, subject: receiver == "n1" and subject == "rf.feed"
    await rig.control.tell(rig.control.key(state="revoked"))
    await rig.control.fence("n1-1")
    outcome = await waiting
    assert code(outcome) == "key_revoked"
    await until(lambda: bool(rig.control.of(RequestReleased, "n1-2")))
    assert [event.request_id for event in rig.control.of(RequestReleased, "n1-2")] == ["req_1"]
    assert not rig.control.of(RequestRevalidated)
    assert len(rig.control.of(RequestAdmitted)) == 1
    await rig.stop()


@virtual
async def test_scenario_1_without_a_fence_a_duplicate_is_proven_anew() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.next = [ACK_LOST]
    admission = await rig.admitted()
    assert [event.request_id for event in rig.control.of(RequestRevalidated)] == [admission.request_id]
    assert rig.governor.check_dispatch(admission) is None
    await rig.stop()


@virtual
async def test_scenario_2_an_acknowledged_intent_is_worth_nothing_once_its_proof_is_old() -> None:
    rig = Rig()
    await rig.start()
    admission = await rig.admitted()
    rig.faults.rest = LOST  # cut off from the log: the node cannot learn that it is fenced
    await rig.control.fence("n1-1")
    await asyncio.sleep(0.401)
    assert rig.governor.check_dispatch(admission) is STALE
    proving = start(rig.governor.revalidate(admission))
    await asyncio.sleep(0.5)
    assert rig.governor.check_dispatch(admission) is not None
    rig.faults.rest = PublishFate()
    assert await proving is AGAIN
    assert rig.governor.check_dispatch(admission) is AGAIN
    await until(lambda: bool(rig.control.of(RequestReleased, "n1-2")))
    await rig.stop()


@virtual
async def test_scenario_5_a_buffered_intent_lands_before_its_release_and_before_whoever_uses_its_lease() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.grant_factor = 1
    rig.faults.next = [LOST] * 6
    outcome = await rig.admit(100)
    assert code(outcome) == "log_unavailable"
    asks = len(rig.control.asks)
    await until(lambda: rig.governor.ready)
    second = await rig.admitted(100)
    assert len(rig.control.asks) == asks, "the lease that came back is used again"
    ids = [(type(e).__name__, e.request_id) for e in rig.control.events() if hasattr(e, "request_id")]
    assert ids == [
        ("RequestAdmitted", "req_1"),
        ("RequestReleased", "req_1"),
        ("RequestAdmitted", second.request_id),
    ]
    await rig.stop()


@virtual
async def test_scenario_7_what_a_tight_request_leaves_over_returns_in_its_settlements_own_batch() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.grant_factor = 1
    admission = await rig.dispatched(60)
    await rig.control.push("n1", Recall("n1-1", {DAY: 60}))
    await asyncio.sleep(0.01)
    assert not rig.control.of(LeaseReturned), "everything is reserved"
    rig.settle(admission, 1)
    await until(lambda: bool(rig.control.of(LeaseReturned)))
    assert rig.control.of(LeaseReturned)[0].returned == {DAY: 59}
    kinds = names(rig, RequestSettled, LeaseReturned)
    assert kinds == ["RequestSettled", "LeaseReturned"]
    await rig.stop()


@virtual
async def test_scenario_8_a_grant_that_comes_after_its_recall_changes_nothing() -> None:
    rig = Rig()
    await rig.start(CAP)
    held: list[LeaseAsk] = []
    rig.control.answer["ask"] = lambda _slot, ask: held.append(ask)
    waiting = start(rig.admit(10))
    await until(lambda: bool(held))
    # The grant is recorded but its answer is lost; the recall tells of it, and the waiting request takes it.
    await rig.control.push("n1", Recall("n1-1", {DAY: 40}))
    admission = await waiting
    assert isinstance(admission, Admission)
    await until(lambda: bool(rig.control.of(LeaseReturned)))
    assert rig.control.of(LeaseReturned)[0].returned == {DAY: 30}
    # Now the lost grant comes again, and again, as the answer to other asks.
    answer = LeaseAnswer("late", "granted", rig.control.clock.wall_ns(), {DAY: 40})
    rig.control.answer["ask"] = lambda _slot, _ask: answer
    second = await rig.admit(10)
    assert code(second) == "budget_unavailable"
    assert len({ask.ask_id for ask in held}) == 1, "a repeat keeps its id"
    await rig.stop()


@virtual
async def test_scenario_9_a_deaf_node_relays_nothing_on_an_old_proof() -> None:
    rig = Rig()
    await rig.start()
    stream = await rig.dispatched(stream=True)
    assert rig.governor.check_relay(stream) is None
    await asyncio.sleep(2.0)
    assert rig.governor.check_relay(stream) is None, "heartbeats keep the proof of an idle node young"
    rig.faults.rest = LOST
    await asyncio.sleep(0.5)
    assert code(rig.governor.check_relay(stream)) == "stream_cut"
    await rig.stop()


@virtual
async def test_scenario_9_streams_are_not_kept_over_a_rejoin_but_other_requests_end_and_settle() -> None:
    rig = Rig()
    await rig.start()
    cuts: list[str] = []
    stream = await rig.dispatched(stream=True)
    stream.on_cut = lambda refusal: cuts.append(refusal.code)
    plain = await rig.dispatched()
    await rig.control.fence("n1-1")
    await rig.rejoined(2)
    assert cuts == ["stream_cut"]
    assert code(rig.governor.check_relay(stream)) == "stream_cut"
    rig.settle(plain, 5)
    rig.governor.settle(stream, UNKNOWN)
    await until(lambda: len(rig.control.of(RequestSettled, "n1-2")) == 2)
    assert [event.outcome for event in rig.control.of(RequestSettled)] == ["settled", "unknown"]
    await rig.stop()


@virtual
async def test_scenario_11_a_push_beyond_a_gap_is_not_applied_until_the_gap_is_closed() -> None:
    rig = Rig()
    await rig.start()
    asked: list[int] = []
    let_go = asyncio.get_running_loop().create_future()

    async def catchup(_slot: str, ask: Any) -> Any:
        asked.append(ask.after_seq)
        await let_go
        return rig.control.delta(ask.after_seq, rig.control.seq)

    rig.control.answer["catchup"] = catchup
    before = rig.control.seq
    rig.control.record(rig.control.key(state="revoked"))  # the push for this one is lost
    await rig.control.tell(rig.control.agent(owner="other"))
    await until(lambda: bool(asked))
    assert asked[0] == before
    await asyncio.sleep(0.2)
    assert max(event.through for event in rig.control.of(Applied)) == before
    let_go.set_result(None)
    await until(lambda: rig.control.of(Applied)[-1].through == rig.control.seq)
    assert code(await rig.admit()) == "key_revoked"
    await rig.stop()


# ---------------------------------------------------------------- barrier


@virtual
async def test_a_revocation_releases_the_unsent_cuts_streams_and_says_so_in_that_order() -> None:
    rig = Rig()
    await rig.start()
    cuts: list[str] = []
    unsent = await rig.admitted()
    stream = await rig.dispatched(stream=True)
    stream.on_cut = lambda refusal: cuts.append(refusal.code)
    plain = await rig.dispatched()
    revoked = await rig.control.tell(rig.control.key(state="revoked"))
    await until(lambda: rig.control.of(Applied)[-1].through == revoked)
    assert names(rig, RequestReleased, Applied)[-2:] == ["RequestReleased", "Applied"]
    assert rig.control.of(RequestReleased)[0].request_id == unsent.request_id
    assert code(rig.governor.check_dispatch(unsent)) == "key_revoked"
    assert cuts == ["key_revoked"]
    assert code(rig.governor.check_relay(stream)) == "key_revoked"
    rig.settle(plain, 0)
    assert code(await rig.admit()) == "key_revoked"
    await rig.stop()


@virtual
async def test_a_revocation_reaches_an_intent_that_is_still_on_its_way() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.next = [PublishFate(ack_delay_s=0.1)]
    waiting = start(rig.admit())
    await until(lambda: len(rig.control.of(RequestAdmitted)) == 1)
    await rig.control.tell(rig.control.key(state="revoked"))
    assert code(await waiting) == "key_revoked"
    await until(lambda: bool(rig.control.of(Applied)) and len(rig.control.of(RequestReleased)) == 1)
    await rig.stop()


@virtual
async def test_a_suspended_agent_and_a_removed_endpoint_stop_what_is_not_sent() -> None:
    rig = Rig()
    await rig.start()
    first = await rig.admitted()
    await rig.control.tell(rig.control.agent(owner="finance", state="suspended"))
    await until(lambda: first.refusal is not None)
    assert code(rig.governor.check_dispatch(first)) == "agent_suspended"
    await rig.control.tell(rig.control.agent(owner="finance"))
    await asyncio.sleep(0.01)
    second = await rig.admitted()
    await rig.control.tell(rig.control.key(endpoints=("/v1/refunds",)))
    await until(lambda: second.refusal is not None)
    assert code(rig.governor.check_dispatch(second)) == "endpoint_not_allowed"
    await rig.stop()


@virtual
async def test_a_lowered_cap_takes_back_leases_and_reservations_made_under_the_old_one() -> None:
    rig = Rig()
    await rig.start(CAP)
    unsent = await rig.admitted(100)
    sent = await rig.dispatched(100)
    lowered = await rig.control.tell(rig.control.caps("key", "vk_1", Cap("usd", "day", 50)))
    await until(lambda: rig.control.of(Applied)[-1].through == lowered)
    assert rig.governor.check_dispatch(unsent) is CAPS_CHANGED
    assert CAPS_CHANGED.code == "budget_unavailable"  # the log is well
    granted = rig.control.granted["n1-1", DAY]
    assert rig.control.of(LeaseReturned)[-1].returned == {DAY: granted - 100}
    assert names(rig, LeaseReturned, Applied)[-1] == "Applied"
    rig.settle(sent, 30)
    await until(lambda: rig.control.of(LeaseReturned)[-1].returned == {DAY: granted - 30})
    await rig.stop()


@virtual
async def test_the_refusal_of_a_request_with_an_intent_is_an_event_of_its_own() -> None:
    """Counted into another's event it would be told twice: as released under its own id, as refused under that one."""
    rig = Rig()
    await rig.start()
    unsent = [await rig.admitted() for _ in range(3)]
    await rig.control.tell(rig.control.key(state="suspended"))
    await until(lambda: all(admission.refusal is not None for admission in unsent))
    for name in (*(admission.request_id for admission in unsent), "req_x", "req_y", "req_z"):
        rig.governor.refused(RequestRefused(name, "key_suspended", 1, 1, Who(key="vk_1")))
    await until(lambda: sum(event.count for event in rig.control.of(RequestRefused)) == 6)
    told = [(event.request_id, event.count) for event in rig.control.of(RequestRefused)]
    assert told == [*((admission.request_id, 1) for admission in unsent), ("req_x", 1), ("req_y", 2)]
    await rig.stop()


@virtual
async def test_a_grant_from_before_a_lowered_cap_is_returned_at_once() -> None:
    rig = Rig()
    await rig.start(CAP)
    held: list[LeaseAsk] = []
    let_go = asyncio.get_running_loop().create_future()

    async def slow(_slot: str, ask: LeaseAsk) -> LeaseAnswer:
        held.append(ask)
        answer = rig.control.lend(ask)
        if len(held) == 1:
            await let_go
        return answer

    rig.control.answer["ask"] = slow
    waiting = start(rig.admit(100))
    await until(lambda: bool(held))
    await rig.control.tell(rig.control.caps("key", "vk_1", Cap("usd", "day", 500)))
    await asyncio.sleep(0.01)
    let_go.set_result(None)
    admission = await waiting
    assert isinstance(admission, Admission)
    assert rig.control.of(LeaseReturned)[0].returned == {DAY: 400}, "the old grant goes back whole"
    assert len({ask.ask_id for ask in held}) == 2, "and is asked for anew"
    await rig.stop()


# ---------------------------------------------------------------- fences


@virtual
async def test_a_fence_costs_milliseconds_and_no_request() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.settle(await rig.dispatched(10), 10)
    await rig.control.fence("n1-1")
    admission = await rig.admitted(10)
    assert admission.incarnation.id == "n1-2"
    assert rig.control.of(NodeStarted, "n1-2")
    assert rig.control.of(Applied, "n1-2")
    assert rig.governor.check_dispatch(admission) is None
    await rig.stop()


@virtual
async def test_ends_that_the_fenced_log_did_not_take_are_in_the_next_one() -> None:
    rig = Rig()
    await rig.start()
    settled, released = await rig.dispatched(), await rig.admitted()
    rig.faults.rest = LOST
    rig.settle(settled, 7)
    rig.governor.release(released, "client_gone")
    await asyncio.sleep(0.05)
    await rig.control.fence("n1-1")
    rig.faults.rest = PublishFate()
    await rig.rejoined(2)
    await until(lambda: len(rig.control.of(RequestSettled, "n1-2")) == 1)
    assert rig.control.of(RequestSettled)[0].actual.usd == 7
    assert rig.control.of(RequestReleased, "n1-2")[0].request_id == released.request_id
    assert not rig.control.of(RequestSettled, "n1-1")
    await rig.stop()


@virtual
async def test_a_new_incarnation_serves_only_what_covers_its_own_join() -> None:
    rig = Rig()
    await rig.start()
    rig.bus_faults.lose = lambda _, receiver, subject: receiver == "n1" and subject == "rf.feed"
    rig.control.silent.add("catchup")
    await rig.control.fence("n1-1")
    await until(lambda: len(rig.control.joined) == 2)
    outcome = await rig.admit()
    assert code(outcome) == "policy_unavailable"
    rig.control.silent.clear()
    await until(lambda: rig.governor.ready)
    assert isinstance(await rig.admit(), Admission)
    await rig.stop()


@virtual
async def test_a_ledger_that_calls_the_incarnation_fenced_makes_the_node_join_again() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.answer["ask"] = lambda _slot, ask: (
        LeaseAnswer(ask.ask_id, "fenced", rig.control.clock.wall_ns())
        if ask.incarnation == "n1-1"
        else rig.control.lend(ask)
    )
    admission = await rig.admitted(10)
    assert admission.incarnation.id == "n1-2"
    await rig.stop()


# ---------------------------------------------------------------- leases


@virtual
async def test_far_from_the_cap_admission_awaits_no_ledger() -> None:
    rig = Rig()
    await rig.start(Cap("usd", "day", 10**12))
    waited = 0
    for _ in range(200):
        asked = [ask for ask in rig.control.asks if not ask.ahead]
        rig.settle(await rig.dispatched(1_000), 400)
        waited += len([ask for ask in rig.control.asks if not ask.ahead]) - len(asked)
        await asyncio.sleep(0.005)
    assert waited == 1, "only the very first request asks for itself"
    assert len(rig.control.asks) <= 20
    await rig.stop()


@virtual
async def test_a_cap_refusal_names_the_figures_and_holds_for_a_moment() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.answer["ask"] = lambda _slot, ask: rig.control.refuse(ask, DAY, 1_000, 950)
    refusal = await rig.admit(100)
    assert code(refusal) == "cap_exhausted"
    assert isinstance(refusal, Refusal)
    assert refusal.details["remaining_usd"] == "0.00000005"
    asks = len(rig.control.asks)
    assert code(await rig.admit(100)) == "cap_exhausted"
    assert code(await rig.admit(51)) == "cap_exhausted"
    assert len(rig.control.asks) == asks, "refused on the node's own word"
    rig.control.answer["ask"] = lambda _slot, ask: rig.control.lend(ask)
    assert isinstance(await rig.admit(50), Admission), "what fits into the remainder is asked for"
    await asyncio.sleep(0.1)
    assert isinstance(await rig.admit(400), Admission), "and after a moment everything is"
    await rig.stop()


@virtual
async def test_an_ask_is_repeated_under_its_id_and_gives_up_in_time() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.answer["ask"] = lambda _slot, _ask: None
    began = rig.control.clock.elapsed_ns()
    assert code(await rig.admit(100)) == "budget_unavailable"
    patience_ns = rig.governor._admitter._lease_wait_ns
    assert 0 <= rig.control.clock.elapsed_ns() - began - patience_ns < 20e6
    assert {ask.ask_id for ask in rig.control.asks} == {"req_1"}
    assert len(rig.control.asks) >= 4
    await rig.stop()


@virtual
async def test_who_came_first_gets_the_credit_and_the_other_asks_again() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.grant_factor = 1
    answers: dict[str, asyncio.Future[None]] = {}

    async def ask(_slot: str, question: LeaseAsk) -> LeaseAnswer | None:
        gate = answers.setdefault(question.ask_id, asyncio.get_running_loop().create_future())
        await gate
        return rig.control.lend(question)

    rig.control.answer["ask"] = ask
    first, second = start(rig.admit(100)), start(rig.admit(100))
    await until(lambda: len(answers) == 2)
    answers["req_2"].set_result(None)
    admission = await first
    assert isinstance(admission, Admission)
    assert admission.request_id == "req_1"
    await until(lambda: "req_2.2" in answers)
    answers["req_2.2"].set_result(None)
    assert isinstance(await second, Admission)
    await rig.stop()


@virtual
async def test_a_turned_window_is_derived_anew_with_the_ledgers_clock() -> None:
    rig = Rig()
    await rig.start(Cap("usd", "hour", 1_000))
    hour_s = START_WALL_NS // 10**9
    later_ns = (hour_s + 3600) * 10**9

    def ask(_slot: str, question: LeaseAsk) -> LeaseAnswer:
        if f"key:vk_1:usd:hour:{hour_s}" in question.lines:
            return LeaseAnswer(question.ask_id, "window_turned", later_ns)
        return rig.control.lend(question)

    rig.control.answer["ask"] = ask
    admission = await rig.admitted(10)
    assert list(admission.needs) == [f"key:vk_1:usd:hour:{hour_s + 3600}"]
    assert admission.at_ns >= later_ns
    await rig.stop()


@virtual
async def test_a_cancelled_request_leaves_no_reservation_behind() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.answer["ask"] = lambda _slot, _ask: None
    waiting = start(rig.admit(100))
    await until(lambda: bool(rig.control.asks))
    waiting.cancel()
    await asyncio.wait({waiting})
    rig.control.answer.clear()
    rig.faults.next = [PublishFate(ack_delay_s=0.2)]
    waiting = start(rig.admit(100))
    await until(lambda: bool(rig.control.of(RequestAdmitted)))
    waiting.cancel()
    await asyncio.wait({waiting})
    await until(lambda: bool(rig.control.of(RequestReleased)))
    desk = rig.governor.node.incarnation
    assert desk is not None
    assert desk.desk.book.leases[DAY].reserved == 0
    assert desk.desk.waiting == 0
    await rig.stop()
