"""The rest of a node's life: policy, identities, rates, refusals, the feed's silence, draining."""

import asyncio
from typing import Any

from msgspec.structs import replace
from support.governor_rig import DAY, LOST, TOKEN, Rig, code, start, until, virtual

from dataplane.adapters.port import Outcome
from dataplane.governor import Admission
from events.log.faults import PublishFate
from events.types import (
    Applied,
    Heartbeat,
    LeaseReturned,
    NodeStopped,
    ObjectExposure,
    RequestAdmitted,
    RequestRefused,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import Cap
from schemas.amounts import Amounts
from schemas.packed import encode_record, pack
from schemas.policy import FeedDelta, Who
from schemas.refusals import Refusal
from schemas.rpc import Grants, ObjectAnswer, ObjectAsk, Recall, RegisterAnswer, SnapshotChunk

CAP = Cap("usd", "day", 1_000)


# ---------------------------------------------------------------- who calls


@virtual
async def test_a_key_expires_by_the_control_planes_clock_even_between_admission_and_dispatch() -> None:
    rig = Rig()
    expires_at_ns = rig.control.clock.wall_ns() + 2 * 10**9
    await rig.start(expires_at_ns=expires_at_ns)
    await asyncio.sleep(1.9)
    admission = await rig.admitted()
    await asyncio.sleep(0.2)
    assert code(rig.governor.check_dispatch(admission)) == "key_expired"
    assert code(await rig.admit()) == "key_expired"
    await until(lambda: len(rig.control.of(RequestReleased)) == 1)
    await rig.stop()


@virtual
async def test_a_declared_agent_is_registered_once_and_named_in_the_record() -> None:
    rig = Rig()
    await rig.start(identity="declared", allow_unknown_agents=True)
    key, _ = rig.governor.find_key([TOKEN])  # type: ignore[misc]  # the key is known
    caller = await rig.governor.caller(key, ["name=new-bot; owner=ops; purpose=triage"])
    assert not isinstance(caller, Refusal)
    assert (caller.who.agent, caller.who.owner, caller.who.purpose) == ("new-bot", "ops", "triage")
    rig.control.silent.add("register")
    again = await rig.governor.caller(key, ["name=new-bot"])
    assert not isinstance(again, Refusal)
    unanswered = await rig.governor.caller(key, ["name=other-bot"])
    assert code(unanswered) == "policy_unavailable"
    await rig.stop()


@virtual
async def test_an_agent_that_may_not_be_registered_is_refused() -> None:
    rig = Rig()
    await rig.start(identity="declared", allow_unknown_agents=True)
    rig.control.answer["register"] = lambda _slot, _ask: RegisterAnswer(error="the key is revoked")
    key, _ = rig.governor.find_key([TOKEN])  # type: ignore[misc]  # the key is known
    assert code(await rig.governor.caller(key, ["name=new-bot"])) == "agent_unknown"
    await rig.stop()


@virtual
async def test_objects_and_usage_are_asked_of_the_control_plane() -> None:
    rig = Rig()
    await rig.start()
    rig.control.objects["stripe/-/pi_1"] = ObjectAnswer("stripe/-/pi_1", 500)
    found = await rig.governor.object("stripe/-/pi_1")
    assert isinstance(found, ObjectAnswer)
    assert found.counted_usd_nanos == 500
    retry = await rig.admitted(idempotency="d1")
    rig.control.objects["stripe/-/pi_1"] = ObjectAnswer("stripe/-/pi_1", 500, earlier_unknown=True)
    found = await rig.governor.object("stripe/-/pi_1", retry)
    assert isinstance(found, ObjectAnswer)
    assert found.earlier_unknown
    asked = [ObjectAsk("stripe/-/pi_1"), ObjectAsk("stripe/-/pi_1", "d1", retry.request_id)]
    assert rig.control.object_asks == asked
    usage = await rig.governor.usage("vk_1")
    assert not isinstance(usage, Refusal)
    assert usage.total_requests == 3
    rig.control.silent |= {"object", "usage"}
    assert code(await rig.governor.object("stripe/-/pi_1")) == "budget_unavailable"
    assert code(await rig.governor.usage("vk_1")) == "policy_unavailable"
    await rig.stop()


# ---------------------------------------------------------------- rates


@virtual
async def test_rates_are_shared_with_a_true_retry_after() -> None:
    rig = Rig()
    await rig.start(rpm=2)
    assert isinstance(await rig.admit(), Admission)
    assert isinstance(await rig.admit(), Admission)
    refusal = await rig.admit()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "rate_limited"
    assert refusal.retry_after_s is not None
    await asyncio.sleep(refusal.retry_after_s - 0.01)
    assert code(await rig.admit()) == "rate_limited"
    await asyncio.sleep(0.02)
    assert isinstance(await rig.admit(), Admission)
    await rig.stop()


@virtual
async def test_tokens_are_taken_by_the_bound_and_corrected_by_what_was_used() -> None:
    rig = Rig()
    await rig.start(tpm=1_000)
    first = await rig.dispatched_tokens(900)
    assert code(await rig.admit(tokens=500)) == "rate_limited"
    rig.settle(first, 0, tokens=100)
    second = await rig.admitted(tokens=500)
    rig.governor.release(second, "client_gone")
    assert isinstance(await rig.admit(tokens=800), Admission)
    await rig.stop()


# ---------------------------------------------------------------- ends


@virtual
async def test_a_request_ends_once_whoever_is_first() -> None:
    rig = Rig()
    await rig.start(CAP)
    admission = await rig.dispatched(10)
    rig.settle(admission, 4)
    rig.settle(admission, 9)
    rig.governor.release(admission, "late")
    await until(lambda: bool(rig.control.of(RequestSettled)))
    await asyncio.sleep(0.05)
    assert len(rig.control.of(RequestSettled)) == 1
    assert not rig.control.of(RequestReleased)
    await rig.stop()


@virtual
async def test_every_settled_request_counts_itself_and_an_object_uses_its_whole_exposure() -> None:
    rig = Rig()
    await rig.start(CAP, Cap("requests", "day", 100))
    admission = await rig.dispatched(100)
    exposure = ObjectExposure("stripe/-/pi_1", 70)
    rig.governor.settle(admission, Outcome("settled", Amounts(), exposure))
    await until(lambda: bool(rig.control.of(RequestSettled)))
    settled = rig.control.of(RequestSettled)[0]
    assert settled.actual == Amounts(requests=1)
    assert settled.object == exposure
    assert incarnation(rig).desk.book.leases[DAY].used == 70
    await rig.stop()


@virtual
async def test_an_unknown_outcome_uses_the_whole_bound_and_a_replay_names_its_idempotency_key() -> None:
    rig = Rig()
    await rig.start(CAP)
    lost = await rig.dispatched(100, idempotency="d1")
    rig.governor.settle(lost, Outcome("unknown", error="incomplete"))
    assert incarnation(rig).desk.book.leases[DAY].used == 100
    for outcome in (
        Outcome("settled", Amounts(usd=40), replayed=True),
        Outcome("settled", Amounts(usd=40)),
        Outcome("unknown", replayed=True),
    ):
        rig.governor.settle(await rig.dispatched(100, idempotency="d1"), outcome)
    rig.governor.settle(await rig.dispatched(100), Outcome("settled", Amounts(usd=40), replayed=True))
    await until(lambda: len(rig.control.of(RequestSettled)) == 5)
    assert [event.resolves for event in rig.control.of(RequestSettled)] == ["", "d1", "", "", ""]
    assert [event.idempotency for event in rig.control.of(RequestAdmitted)] == [*["d1"] * 4, ""]
    await rig.stop()


@virtual
async def test_a_replay_is_told_by_whichever_incarnation_the_node_has_by_then() -> None:
    rig = Rig()
    await rig.start(CAP)
    retry = await rig.dispatched(100, idempotency="d1")
    await rig.control.fence(retry.incarnation.id)
    await rig.rejoined(2)
    rig.governor.settle(retry, Outcome("settled", Amounts(usd=40), replayed=True))
    await until(lambda: bool(rig.control.of(RequestSettled)))
    (settled,) = rig.control.of(RequestSettled, incarnation(rig).id)
    assert (settled.request_id, settled.resolves) == (retry.request_id, "d1")
    await rig.stop()


# ---------------------------------------------------------------- refusals on record


def refusal_of(rig: Rig, request_id: str, name: str = "endpoint_not_allowed", key: str = "vk_1") -> RequestRefused:
    now_ns = rig.governor.now_ns()
    return RequestRefused(request_id, name, now_ns, now_ns, Who(key=key))


@virtual
async def test_the_first_refusal_is_recorded_at_once_and_its_repeats_by_the_second() -> None:
    rig = Rig()
    await rig.start()
    for number in range(500):
        rig.governor.refused(refusal_of(rig, f"req_{number}"))
        await asyncio.sleep(0.005)
    rig.governor.refused(refusal_of(rig, "other", "policy_denied"))
    await asyncio.sleep(2.5)
    events = rig.control.of(RequestRefused)
    loop = [event for event in events if event.code == "endpoint_not_allowed"]
    assert loop[0].request_id == "req_0"
    assert loop[0].count == 1
    assert sum(event.count for event in loop) == 500, "none is uncounted"
    assert len(loop) <= 5
    assert all(event.first_at_ns <= event.last_at_ns for event in loop)
    assert len(events) == len(loop) + 1
    await rig.stop()


@virtual
async def test_refusals_during_an_outage_of_the_log_are_counted_and_told_afterwards() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.rest = LOST
    await asyncio.sleep(1.5)
    for number in range(300):
        rig.governor.refused(refusal_of(rig, f"req_{number}"))
        await asyncio.sleep(0.01)
    rig.faults.rest = PublishFate()
    await asyncio.sleep(4.0)
    assert sum(event.count for event in rig.control.of(RequestRefused)) == 300
    assert len(rig.control.of(RequestRefused)) <= 3
    await rig.stop()


# ---------------------------------------------------------------- the feed


@virtual
async def test_a_node_that_hears_nothing_for_too_long_refuses_and_comes_back() -> None:
    rig = Rig()
    await rig.start()
    rig.control.feeding = False
    rig.control.silent.add("catchup")
    await asyncio.sleep(14.0)
    assert isinstance(await rig.admit(), Admission), "a takeover is no reason to refuse"
    await asyncio.sleep(2.0)
    assert code(await rig.admit()) == "policy_unavailable"
    rig.control.feeding = True
    await asyncio.sleep(0.5)
    assert isinstance(await rig.admit(), Admission)
    await rig.stop()


@virtual
async def test_a_deaf_subscription_is_noticed_by_its_silence() -> None:
    rig = Rig()
    await rig.start()
    rig.bus_faults.lose = lambda _, receiver, subject: receiver == "n1" and subject == "rf.feed"
    revoked = await rig.control.tell(rig.control.key(state="revoked"))
    await until(lambda: rig.control.of(Applied)[-1].through == revoked, 2.0)
    assert code(await rig.admit()) == "key_revoked"
    await rig.stop()


@virtual
async def test_a_deposed_leaders_heartbeats_do_not_count_as_news() -> None:
    rig = Rig()
    await rig.start()
    feed = rig.governor.node.feed
    rig.control.feeding = False
    rig.control.silent.add("catchup")
    feed.take(FeedDelta(2, rig.control.seq, rig.control.seq, rig.control.clock.wall_ns()))
    await asyncio.sleep(3.0)
    feed.take(FeedDelta(1, rig.control.seq, rig.control.seq, 5))
    assert feed.age_ns() >= 3 * 10**9
    assert abs(rig.governor.now_ns() - rig.control.clock.wall_ns()) < 10**9
    await rig.stop()


@virtual
async def test_a_node_that_is_too_far_back_loads_anew_and_checks_everything() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.settle(await rig.dispatched(10), 10)
    stream = await rig.dispatched(10, stream=True)
    cuts: list[str] = []
    stream.on_cut = lambda refusal: cuts.append(refusal.code)
    unsent = await rig.admitted(10)
    for _ in range(5):
        rig.control.record(rig.control.agent(owner="finance"))
    rig.control.record(rig.control.key(state="suspended"))
    seq = rig.control.seq
    rig.control.answer["catchup"] = lambda _slot, _ask: FeedDelta(1, 0, seq, 0, resnapshot=True)
    await rig.control.feed(seq, seq)
    await until(lambda: rig.control.of(Applied)[-1].through == seq)
    assert cuts == ["key_suspended"]
    assert code(rig.governor.check_dispatch(unsent)) == "key_suspended"
    assert rig.control.of(LeaseReturned), "whatever was lent may exceed caps that were lowered meanwhile"
    await rig.stop()


@virtual
async def test_an_older_snapshot_never_takes_the_place_of_a_newer_one() -> None:
    rig = Rig()
    await rig.start()
    seq = await rig.control.tell(rig.control.key(state="revoked"))
    await until(lambda: rig.governor.snapshot.position == seq)
    stale = replace(rig.governor.snapshot.keys["vk_1"], state="active", seq=1)
    served: list[int] = []

    def snapshot(_slot: str, _ask: Any) -> SnapshotChunk:
        served.append(1)
        return SnapshotChunk(seq - 1, rig.control.clock.wall_ns(), pack([encode_record(stale)]))

    rig.control.answer["snapshot"] = snapshot
    rig.control.answer["catchup"] = lambda _slot, _ask: FeedDelta(1, 0, seq, 0, resnapshot=True)
    await rig.control.feed(seq + 3, seq + 3)
    await until(lambda: len(served) >= 3)
    assert code(await rig.admit()) == "key_revoked"
    assert rig.governor.snapshot.position == seq
    await rig.stop()


# ---------------------------------------------------------------- pushes


@virtual
async def test_pushes_for_another_incarnation_are_ignored() -> None:
    rig = Rig()
    await rig.start(CAP)
    await rig.control.push("n1", Grants("n1-0", {DAY: 10**6}))
    await rig.control.push("n1", Recall("n1-0", {DAY: 10**6}))
    await asyncio.sleep(0.02)
    assert DAY not in incarnation(rig).desk.book.leases
    await rig.control.push("n1", Grants("n1-1", {DAY: 500}))
    await asyncio.sleep(0.02)
    assert incarnation(rig).desk.book.free(DAY) == 500
    asks = len(rig.control.asks)
    rig.settle(await rig.dispatched(10), 10)
    assert len(rig.control.asks) == asks
    await rig.stop()


@virtual
async def test_lines_of_revoked_keys_are_forgotten_after_their_money_went_back() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.settle(await rig.dispatched(10), 10)
    await rig.control.tell(rig.control.key(state="revoked"))
    await asyncio.sleep(11.0)
    assert not incarnation(rig).desk.book.leases
    granted = rig.control.granted["n1-1", DAY]
    assert rig.control.of(LeaseReturned)[-1].returned == {DAY: granted - 10}
    await rig.stop()


# ---------------------------------------------------------------- life and end


@virtual
async def test_an_idle_node_says_that_it_lives() -> None:
    rig = Rig()
    await rig.start()
    before = len(rig.control.of(Heartbeat))
    await asyncio.sleep(2.0)
    assert 17 <= len(rig.control.of(Heartbeat)) - before <= 21
    await rig.stop()


@virtual
async def test_a_drain_lets_open_requests_end_returns_the_leases_and_says_goodbye_last() -> None:
    rig = Rig()
    await rig.start(CAP)
    open_request = await rig.dispatched(10)
    draining = start(rig.governor.drain())
    await asyncio.sleep(1.0)
    assert code(await rig.admit(10)) == "draining"
    assert not rig.control.of(NodeStopped)
    rig.settle(open_request, 4)
    await draining
    granted = rig.control.granted["n1-1", DAY]
    assert rig.control.of(LeaseReturned)[-1].returned == {DAY: granted - 4}
    assert isinstance(rig.control.events()[-1], NodeStopped)
    await rig.stop()


@virtual
async def test_what_does_not_end_within_the_drain_is_released_or_held_as_unknown() -> None:
    rig = Rig()
    await rig.start(CAP)
    sent, unsent = await rig.dispatched(10), await rig.admitted(10)
    await rig.governor.drain()
    assert rig.control.of(RequestReleased)[0].request_id == unsent.request_id
    settled = rig.control.of(RequestSettled)[0]
    assert (settled.request_id, settled.outcome) == (sent.request_id, "unknown")
    assert isinstance(rig.control.events()[-1], NodeStopped)
    await rig.stop()


@virtual
async def test_what_a_drain_released_while_its_intent_was_under_way_is_never_sent() -> None:
    """Its acknowledgement comes within the drain's last second; the log has the release by then."""
    rig = Rig()
    await rig.start(CAP)
    rig.faults.next = [PublishFate(ack_delay_s=0.3)]
    asked = start(rig.admit(10))
    await until(lambda: len(rig.governor.node.inflight) == 1)
    draining = start(rig.governor.drain(0.0))
    assert code(await asked) == "draining"
    await draining
    assert [event.request_id for event in rig.control.of(RequestReleased)] == ["req_1"]
    await rig.stop()


@virtual
async def test_a_stalled_log_refuses_at_once_what_it_could_not_acknowledge_in_time() -> None:
    rig = Rig()
    await rig.start()
    rig.faults.rest = LOST
    await asyncio.sleep(5.2)
    began = rig.control.clock.elapsed_ns()
    assert code(await rig.admit()) == "log_unavailable"
    assert rig.control.clock.elapsed_ns() == began
    rig.faults.rest = PublishFate()
    await until(lambda: rig.governor.ready)
    assert isinstance(await rig.admit(), Admission)
    await rig.stop()


def incarnation(rig: Rig) -> Any:
    current = rig.governor.node.incarnation
    assert current is not None
    return current
