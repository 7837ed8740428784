"""The ledger's figures as tables: one action a line, and what a line's figure is afterwards."""

from itertools import count

import pytest

from events.state.budget import Budget
from events.state.budget_image import dump_budget, load_budget
from events.state.leases import KEPT_S as LEASE_KEPT_S
from events.types import (
    SYSTEM,
    BudgetSet,
    Fenced,
    KeyIssued,
    LeaseGranted,
    LeaseReturned,
    Marked,
    NodeFenced,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import AccountCaps, Cap, line_key, window_start_s
from schemas.amounts import Amounts
from schemas.policy import Who

NANOS = 1_000_000_000
T0 = 1_763_596_800 * NANOS
DAY = 86_400 * NANOS
LINE = line_key("key", "k", "usd", "day", window_start_s("day", T0))
ORG = line_key("org", "default", "usd", "day", window_start_s("day", T0))


def admit(name, usd=0, *, at=T0, attempt=1, key="k", idem="", **more):
    bound = Amounts(usd=usd, requests=1, **more)
    who = Who(key=key, agent="a")
    return RequestAdmitted(name, at, who, "stripe", "x", "POST", "/", bound, (LINE,), attempt=attempt, idempotency=idem)


def settle(name, usd=0, *, at=T0, attempt=1, resolves="", **more):
    return RequestSettled(name, "settled", at, Amounts(usd=usd, requests=1, **more), attempt=attempt, resolves=resolves)


def unknown(name):
    return RequestSettled(name, "unknown", T0)


def exposure(name, ref, usd, *, at=T0, resolves="", final=False):
    thing = ObjectExposure(ref, usd, "usd", usd // 10, "usd", final)
    return RequestSettled(name, "settled", at, Amounts(requests=1), thing, resolves=resolves)


def release(name, attempt=1):
    return RequestReleased(name, "revoked", attempt=attempt)


def grant(amount, node="n1"):
    return LeaseGranted(node, {LINE: amount})


def give_back(amount):
    return LeaseReturned({LINE: amount})


def reconcile(name, usd):
    return RequestReconciled(name, Amounts(usd=usd, requests=1), SYSTEM)


CONTROL = (LeaseGranted, RequestReconciled, KeyIssued, NodeFenced, Marked, BudgetSet)


SEQUENCE = count(1)


def apply(budget, event, actor="n1", at_ns=0, seq=0):
    if isinstance(event, CONTROL):
        budget.apply_control(event, at_ns)
    else:
        budget.apply_node(seq or next(SEQUENCE), actor, event)


LEASES = {
    "granted and used up": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (settle("r", 7), (7, 0, 3)),
    ],
    "what a request leaves over is free again": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (settle("r", 5), (5, 0, 5)),
    ],
    "a release frees all": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (release("r"), (0, 0, 10)),
    ],
    "an overrun uses no more than the bound": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (settle("r", 9), (9, 0, 3)),
    ],
    "an unknown outcome leaves the lease and stays held": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (unknown("r"), (0, 7, 3)),
        (settle("r", 4), (4, 0, 3)),
    ],
    "cumulative: doubled and late messages change nothing": [
        (grant(10), (0, 0, 10)),
        (grant(10), (0, 0, 10)),
        (grant(4), (0, 0, 10)),
        (grant(12), (0, 0, 12)),
        (give_back(5), (0, 0, 7)),
        (give_back(5), (0, 0, 7)),
        (give_back(2), (0, 0, 7)),
        (give_back(12), (0, 0, 0)),
    ],
    "the node log is ahead: never room that is not there": [
        (admit("r", 7), (0, 7, 0)),
        (give_back(3), (0, 7, 0)),
        (grant(12), (0, 7, 2)),
    ],
    "a fence voids leases and keeps holds": [
        (grant(10), (0, 0, 10)),
        (admit("r", 4), (0, 4, 6)),
        (Fenced("n1", "silent"), (0, 4, 0)),
        (grant(20), (0, 4, 0)),
        (NodeFenced("n1", "n1", "silent", 9), (0, 4, 0)),
        (settle("r", 3), (3, 0, 0)),
    ],
    "the fence is folded after the control log's record of it": [
        (grant(10), (0, 0, 10)),
        (NodeFenced("n1", "n1", "silent", 9), (0, 0, 10)),
        (Fenced("n1", "silent"), (0, 0, 0)),
    ],
    "once per request": [
        (grant(10), (0, 0, 10)),
        (admit("r", 7), (0, 7, 3)),
        (settle("r", 5), (5, 0, 5)),
        (settle("r", 5), (5, 0, 5)),
        (release("r"), (5, 0, 5)),
        (unknown("r"), (5, 0, 5)),
    ],
    "never admitted": [
        (settle("x", 5), (0, 0, 0)),
        (release("x"), (0, 0, 0)),
    ],
}

SETTLEMENT = {
    "reconciled, then corrected": [
        (admit("r", 7), (0, 7)),
        (unknown("r"), (0, 7)),
        (reconcile("r", 3), (3, 0)),
        (reconcile("r", 5), (5, 0)),
    ],
    "the node's own word replaces the operator's": [
        (admit("r", 7), (0, 7)),
        (reconcile("r", 3), (3, 0)),
        (settle("r", 4), (4, 0)),
        (reconcile("r", 9), (4, 0)),
    ],
    "reconciled and then found to be never sent": [
        (admit("r", 7), (0, 7)),
        (reconcile("r", 3), (3, 0)),
        (release("r"), (0, 0)),
    ],
    "reconciled before the node log is folded": [
        (reconcile("r", 3), (0, 0)),
        (admit("r", 7), (3, 0)),
        (unknown("r"), (3, 0)),
    ],
    "attempts are held and settled each for itself": [
        (admit("r", 7), (0, 7)),
        (settle("r", 1), (1, 0)),
        (admit("r", 6, attempt=2), (1, 6)),
        (settle("r", 9), (1, 6)),
        (settle("r", 2, attempt=2), (3, 0)),
    ],
    "a release is of the attempt that it names": [
        (admit("r", 7), (0, 7)),
        (unknown("r"), (0, 7)),
        (admit("r", 6, attempt=2), (0, 13)),
        (release("r", attempt=3), (0, 13)),
        (release("r", attempt=2), (0, 7)),
        (settle("r", 5), (5, 0)),
    ],
}

OBJECTS = {
    "a capture does not count twice, a cancel gives back": [
        (admit("create", 10), (0, 10)),
        (exposure("create", "pi", 10), (10, 0)),
        (admit("capture", 0), (10, 0)),
        (exposure("capture", "pi", 10), (10, 0)),
        (admit("cancel", 0), (10, 0)),
        (exposure("cancel", "pi", 0), (0, 0)),
    ],
    "an increment counts its difference": [
        (admit("create", 10), (0, 10)),
        (exposure("create", "pi", 10), (10, 0)),
        (admit("more", 5), (10, 5)),
        (exposure("more", "pi", 15), (15, 0)),
        (admit("less", 0), (15, 0)),
        (exposure("less", "pi", 12), (12, 0)),
    ],
    "of two that overlap the higher counts, until a later call tells": [
        (admit("create", 10), (0, 10)),
        (admit("raise", 15), (0, 25)),  # before the answer to the first is on record: it may have gone out earlier
        (exposure("raise", "pi", 15), (15, 10)),
        (exposure("create", "pi", 10), (15, 0)),
        (admit("capture", 0), (15, 0)),
        (exposure("capture", "pi", 8), (8, 0)),
    ],
    "what may be older does not lower": [
        (admit("create", 10), (0, 10)),
        (exposure("create", "pi", 10), (10, 0)),
        (admit("one", 0), (10, 0)),
        (admit("two", 5), (10, 5)),
        (exposure("two", "pi", 15), (15, 0)),
        (exposure("one", "pi", 4), (15, 0)),
        (admit("three", 0), (15, 0)),
        (exposure("three", "pi", 4), (4, 0)),
    ],
    "what is final is the newer, told first": [
        (admit("create", 10), (0, 10)),
        (admit("cancel", 0), (0, 10)),
        (exposure("cancel", "pi", 0, final=True), (0, 10)),
        (exposure("create", "pi", 10), (0, 0)),
    ],
    "what is final is the newer, told last": [
        (admit("create", 10), (0, 10)),
        (exposure("create", "pi", 10), (10, 0)),
        (admit("capture", 0), (10, 0)),
        (admit("again", 0), (10, 0)),
        (exposure("again", "pi", 10), (10, 0)),
        (exposure("capture", "pi", 6, final=True), (6, 0)),
    ],
    "a replay shows what was, and lowers nothing": [
        (admit("create", 10, idem="d"), (0, 10)),
        (exposure("create", "pi", 10), (10, 0)),
        (admit("raise", 5), (10, 5)),
        (exposure("raise", "pi", 15), (15, 0)),
        (admit("create again", 0, idem="d"), (15, 0)),
        (exposure("create again", "pi", 10, resolves="d"), (15, 0)),
    ],
    "two objects": [
        (admit("a", 10), (0, 10)),
        (exposure("a", "pi_a", 10), (10, 0)),
        (admit("b", 4), (10, 4)),
        (exposure("b", "pi_b", 4), (14, 0)),
    ],
    "an operator's figure gives way to the object's": [
        (admit("a", 10), (0, 10)),
        (reconcile("a", 8), (8, 0)),
        (exposure("a", "pi_a", 10), (10, 0)),
    ],
}


REPLAYS = {  # (who writes it, the event, settled and held afterwards)
    "an attempt of unknown outcome": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("n1", admit("r2", 7, idem="d"), (0, 14)),
        ("n1", settle("r2", 6, resolves="d"), (6, 0)),
    ],
    "through another node": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 0)),
    ],
    "through a node that was fenced": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("", Fenced("n1", "silent"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 0)),
    ],
    "through a node that is fenced only after the answer": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 7)),
        ("", Fenced("n1", "silent"), (6, 0)),
    ],
    "an answer that is given up only after the replay": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 7)),
        ("n1", unknown("r1"), (6, 0)),
        ("n1", settle("r1", 6), (6, 0)),
    ],
    "a live attempt has its own end": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 7)),
        ("n1", settle("r1", 5), (11, 0)),
    ],
    "a live attempt that was never sent": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", settle("r2", 6, resolves="d"), (6, 7)),
        ("n1", release("r1"), (6, 0)),
    ],
    "several attempts, wherever they are": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n3", admit("r3", 7, idem="d"), (0, 21)),
        ("n3", unknown("r3"), (0, 21)),
        ("", Fenced("n2", "silent"), (0, 21)),
        ("n4", admit("r4", 7, idem="d"), (0, 28)),
        ("n4", settle("r4", 6, resolves="d"), (6, 0)),
        ("n4", settle("r4", 6, resolves="d"), (6, 0)),
    ],
    "a later attempt needs an answer of its own": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", settle("r1", 6, resolves="d"), (6, 0)),
        ("n1", admit("r2", 7, idem="d"), (6, 7)),
        ("n1", unknown("r2"), (6, 7)),
        ("n1", admit("r3", 7, idem="d"), (6, 14)),
        ("n1", settle("r3", 0, resolves="d"), (6, 0)),
    ],
    "other keys and none are not meant": [
        ("n1", admit("r1", 7, idem="e"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("n1", admit("r2", 7), (0, 14)),
        ("n1", unknown("r2"), (0, 14)),
        ("n1", admit("r3", 7, idem="d"), (0, 21)),
        ("n1", settle("r3", 6, resolves="d"), (6, 14)),
    ],
    "the answer's own request is settled by it, though it was given up": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("", Fenced("n1", "silent"), (0, 7)),
        ("n1-again", settle("r1", 6, resolves="d"), (6, 0)),
    ],
    "an operator's figure gives way": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("", reconcile("r1", 3), (3, 0)),
        ("n1", admit("r2", 7, idem="d"), (3, 7)),
        ("n1", settle("r2", 6, resolves="d"), (6, 0)),
        ("", reconcile("r1", 9), (6, 0)),
    ],
    "a day later the vendor may have executed it anew": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n1", unknown("r1"), (0, 7)),
        ("n1", admit("r2", 7, at=T0 + 1, idem="d"), (0, 14)),
        ("n1", unknown("r2"), (0, 14)),
        ("n1", admit("r3", 7, idem="d"), (0, 21)),
        ("n1", settle("r3", 6, at=T0 + DAY + 1, resolves="d"), (6, 7)),
    ],
    "an object that only the replay tells": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("", Fenced("n1", "silent"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", exposure("r2", "pi", 6, resolves="d"), (6, 0)),
        ("n2", exposure("r1", "pi", 6), (6, 0)),
    ],
    "an object that both tell counts once": [
        ("n1", admit("r1", 7, idem="d"), (0, 7)),
        ("n2", admit("r2", 7, idem="d"), (0, 14)),
        ("n2", exposure("r2", "pi", 6, resolves="d"), (6, 7)),
        ("n1", exposure("r1", "pi", 6), (6, 0)),
    ],
}


@pytest.mark.parametrize("name", REPLAYS)
def test_a_replayed_answer_resolves_what_its_idempotency_key_has_left_unknown(name) -> None:
    budget = Budget()
    for step, (actor, event, figure) in enumerate(REPLAYS[name]):
        apply(budget, event, actor)
        for line in (LINE, ORG):
            assert budget.line(line, "UTC")[:2] == figure, (step, event)
        budget = load_budget(dump_budget(budget))
    open_names = [name for name, request in budget.open.items() if request.idempotency]
    assert sorted(budget.repeats.others("d", "", T0) + budget.repeats.others("e", "", T0)) == sorted(open_names)


def test_a_live_attempt_keeps_its_lease_until_it_has_ended() -> None:
    budget = Budget()
    steps = (
        (grant(20), (0, 0, 20)),
        (admit("r1", 7, idem="d"), (0, 7, 13)),
        (admit("r2", 7, idem="d"), (0, 14, 6)),
        (settle("r2", 6, resolves="d"), (6, 7, 7)),
        (unknown("r1"), (6, 0, 7)),  # the node has used the whole bound, and it is free for others again
    )
    for event, figure in steps:
        apply(budget, event)
        assert budget.line(LINE, "UTC") == figure, event


def test_a_resolved_attempt_counts_as_a_request_of_its_own() -> None:
    budget = Budget()
    for event in (admit("r1", 7, idem="d"), unknown("r1"), admit("r2", 7, idem="d"), settle("r2", 6, resolves="d")):
        apply(budget, event)
    assert budget.figure("key", "k", "requests", "day", T0, "UTC") == (2, 0)
    assert budget.unknown_bound("r1") is None
    assert budget.unknown_outcomes() == 0


def test_whether_an_earlier_attempt_has_no_outcome() -> None:
    budget = Budget()

    def earlier(of: str, at_ns: int = T0) -> bool:
        return budget.earlier_unknown("d", of, at_ns)

    apply(budget, admit("r1", 7, idem="d"))
    assert not earlier("r1")
    assert earlier("r2")  # under way: it may be the one that was executed
    assert not budget.earlier_unknown("", "r2", T0)
    assert not budget.earlier_unknown("e", "r2", T0)
    apply(budget, unknown("r1"))
    apply(budget, admit("r2", 7, idem="d"))
    assert earlier("r2")
    assert earlier("r2", T0 + DAY)
    assert not earlier("r2", T0 + DAY + 1)
    apply(budget, admit("r3", 7, idem="d"))
    apply(budget, settle("r2", 6, resolves="d"))
    assert not earlier("r4")  # r3 is under way still, and what it is about has been told


@pytest.mark.parametrize("name", LEASES)
def test_leases(name) -> None:
    budget = Budget()
    for step, (event, figure) in enumerate(LEASES[name]):
        apply(budget, event)
        assert budget.line(LINE, "UTC") == figure, (step, event)
        budget = load_budget(dump_budget(budget))
        assert budget.line(LINE, "UTC") == figure, (step, "loaded")


@pytest.mark.parametrize("name", SETTLEMENT | OBJECTS)
def test_settlement(name) -> None:
    budget = Budget()
    for step, (event, figure) in enumerate((SETTLEMENT | OBJECTS)[name]):
        apply(budget, event)
        for line in (LINE, ORG):
            assert budget.line(line, "UTC")[:2] == figure, (step, event)
        budget = load_budget(dump_budget(budget))


def test_credit_goes_back_to_the_accounts_and_windows_that_were_charged() -> None:
    budget = Budget()
    tomorrow = T0 + DAY
    for event in (
        admit("create", 10),
        exposure("create", "pi", 10),
        admit("more", 5, at=tomorrow, key="k2"),
        exposure("more", "pi", 15, at=tomorrow),
        admit("less", 0, at=tomorrow, key="k3"),
        exposure("less", "pi", 7, at=tomorrow),
    ):
        apply(budget, event)
    assert budget.figure("key", "k2", "usd", "day", tomorrow, "UTC").settled == 0  # newest first
    assert budget.figure("key", "k", "usd", "day", T0, "UTC").settled == 7
    assert budget.figure("key", "k3", "usd", "total", T0, "UTC").settled == 0
    assert budget.figure("org", "default", "usd", "day", tomorrow, "UTC").settled == 0
    assert budget.figure("org", "default", "usd", "total", T0, "UTC").settled == 7
    tracked = budget.object("pi")
    assert tracked is not None
    assert (tracked.counted, tracked.key, tracked.amount_minor, tracked.currency) == (7, "k", 0, "usd")


def test_in_doubt_a_later_call_is_bound_by_the_higher_amount() -> None:
    budget = Budget()
    amounts = []
    for event in (
        admit("create", 100),
        admit("raise", 200),
        exposure("raise", "pi", 200),
        exposure("create", "pi", 100),
        admit("lower", 0),
        exposure("lower", "pi", 50),
    ):
        apply(budget, event)
        tracked = budget.object("pi")
        amounts.append(tracked.amount_minor if tracked is not None else None)
    assert amounts == [None, None, 20, 20, 20, 5]


def test_an_object_that_was_never_seen() -> None:
    assert Budget().object("pi_unknown") is None


def test_an_overrun_is_counted_and_names_the_accounts() -> None:
    budget = Budget()
    apply(budget, admit("r", 7))
    apply(budget, settle("r", 9))
    assert budget.overruns.requests == 1
    assert budget.overruns.amounts[0] == 2
    assert budget.take_overran() == {("key", "k"), ("agent", "a"), ("org", "default")}
    assert budget.take_overran() == set()


def test_an_operators_figure_above_the_bound_is_an_overrun_until_the_answer_says_otherwise() -> None:
    budget = Budget()
    apply(budget, admit("r", 7))
    apply(budget, unknown("r"))
    seen = []
    for event in (reconcile("r", 9), reconcile("r", 10), reconcile("r", 6), reconcile("r", 12), settle("r", 8)):
        apply(budget, event)
        seen.append((budget.overruns.requests, budget.overruns.amounts[0], bool(budget.take_overran())))
    assert seen == [(1, 2, True), (1, 3, True), (0, 0, False), (1, 5, True), (1, 1, False)]


def test_an_answer_that_comes_to_more_than_the_operators_figure_names_the_accounts() -> None:
    """What the figure left free may be lent by then, though the bound was right."""
    budget = Budget()
    for event in (admit("r", 7), unknown("r"), reconcile("r", 0)):
        apply(budget, event)
    assert budget.take_overran() == set()
    apply(budget, settle("r", 7))
    assert budget.take_overran() == {("key", "k"), ("agent", "a"), ("org", "default")}
    assert budget.overruns.requests == 0


@pytest.mark.parametrize("end", [settle("r", 7), settle("r", 9), settle("r", 20), release("r"), None])
def test_overruns_are_the_same_wherever_the_operators_figure_is_folded(end) -> None:
    """It stands in the control log, the request in a node's: the two are folded as they come."""
    told = [(event, seq) for seq, event in enumerate((admit("r", 7), unknown("r"), end), 1) if event is not None]
    images = set()
    for place in range(len(told) + 1):
        budget = Budget()
        for event, seq in (*told[:place], (reconcile("r", 12), 0), *told[place:]):
            apply(budget, event, seq=seq)
        images.add((budget.overruns.requests, budget.overruns.amounts, dump_budget(budget)))
    assert len(images) == 1


def test_within_its_bound_nothing_overruns() -> None:
    budget = Budget()
    apply(budget, admit("r", 7, tokens=5))
    apply(budget, settle("r", 7, tokens=5))
    assert (budget.overruns.requests, budget.take_overran()) == (0, set())


def test_unknown_bounds() -> None:
    budget = Budget()
    apply(budget, admit("r", 7))
    assert budget.unknown_bound("r") is None  # in flight
    apply(budget, unknown("r"))
    assert budget.unknown_bound("r") == Amounts(7, 0, 1, 0)
    apply(budget, reconcile("r", 3))
    assert budget.unknown_bound("r") == Amounts(7, 0, 1, 0)  # an operator may correct the figure
    apply(budget, settle("r", 4))
    assert budget.unknown_bound("r") is None


def test_a_fenced_incarnations_open_request_is_of_unknown_outcome() -> None:
    budget = Budget()
    apply(budget, admit("r", 7))
    apply(budget, Fenced("n1", "silent"))
    assert budget.unknown_bound("r") == Amounts(7, 0, 1, 0)


def test_a_request_open_for_months_settles_where_its_day_was_poured() -> None:
    budget = Budget()
    apply(budget, admit("r", 7))
    much_later = T0 + 100 * DAY
    apply(budget, Marked(), at_ns=much_later)
    apply(budget, admit("other", 1, at=much_later))  # touches the accounts, which pours their old days
    apply(budget, settle("r", 5))
    figure = budget.figure("org", "default", "usd", "total", much_later, "UTC")
    assert figure == (5, 1)
    again = load_budget(dump_budget(budget))
    assert again.figure("org", "default", "usd", "total", much_later, "UTC") == (5, 1)


def test_the_account_of_a_key_that_died_long_ago_is_dropped() -> None:
    budget = Budget()
    apply(budget, KeyIssued("k", SYSTEM, "sha", "a", T0, T0 + DAY), at_ns=T0)
    apply(budget, admit("r", 7))
    apply(budget, settle("r", 7))
    apply(budget, Marked(), at_ns=T0 + 8 * DAY)
    assert budget.figure("key", "k", "usd", "total", T0, "UTC").settled == 7
    apply(budget, Marked(), at_ns=T0 + 10 * DAY)
    assert budget.figure("key", "k", "usd", "total", T0, "UTC").settled == 0
    assert budget.figure("org", "default", "usd", "total", T0, "UTC").settled == 7


def test_leases_on_windows_long_over_are_dropped() -> None:
    budget = Budget()
    apply(budget, grant(10), at_ns=T0)
    apply(budget, Marked(), at_ns=T0 + 2 * DAY)
    assert budget.leases.leased(LINE) == 10
    apply(budget, Marked(), at_ns=T0 + DAY + (LEASE_KEPT_S + 7_200) * NANOS)
    assert budget.leases.leased(LINE) == 0
    assert budget.leases.lines_of("key", "k") == ()
    apply(budget, give_back(3))
    assert budget.leases.lines_of("key", "k") == ()


def test_a_malformed_line_in_a_nodes_event_is_no_lease() -> None:
    budget = Budget()
    apply(budget, LeaseReturned({"nonsense": 3, "a:b:c:d:e": 1}))
    event = RequestAdmitted("r", T0, Who(key="k"), "u", "o", "GET", "/", Amounts(usd=7), ("nonsense", LINE))
    apply(budget, event)
    apply(budget, settle("r", 7))
    assert budget.line(LINE, "UTC") == (7, 0, 0)


def test_windows_turn_in_the_accounts_zone() -> None:
    budget = Budget()
    at = T0 + 3 * 3_600 * NANOS  # 03:00 UTC is still yesterday in New York
    apply(budget, admit("r", 7, at=at))
    assert budget.figure("key", "k", "usd", "day", T0 - NANOS, "America/New_York").held == 7
    assert budget.figure("key", "k", "usd", "day", T0 - NANOS, "UTC").held == 0
    assert budget.figure("key", "k", "usd", "day", at, "UTC").held == 7


def test_what_is_folded_long_after_its_day_counts_in_the_total_alone() -> None:
    live, replayed = Budget(), Budget()
    much_later = T0 + 100 * DAY
    apply(live, admit("r", 7), seq=1)
    apply(live, Marked(), at_ns=much_later)
    apply(replayed, Marked(), at_ns=much_later)
    apply(replayed, admit("r", 7), seq=1)
    assert dump_budget(live) == dump_budget(replayed)
    assert replayed.figure("agent", "a", "usd", "total", much_later, "UTC").held == 7


def test_a_change_of_zone_moves_a_days_end() -> None:
    budget = Budget()
    evening = T0 + 23 * 3_600 * NANOS
    apply(budget, admit("r", 7, at=evening))
    assert budget.line(LINE, "UTC").held == 7
    shorter = AccountCaps("key", "k", (Cap("usd", "day", 1),), "Asia/Kolkata")
    apply(budget, BudgetSet(shorter, SYSTEM))
    # The same line, whose day now ends with Kolkata's: at 18:30 UTC.
    assert budget.line(LINE, "Asia/Kolkata").held == 0


def test_a_keys_use_by_agent() -> None:
    budget = Budget()
    apply(budget, KeyIssued("k", SYSTEM, "sha", "a", T0, T0 + DAY), at_ns=T0)
    for number, (agent, cost) in enumerate((("a", 3), ("b", 5), ("a", 4), ("c", 0))):
        who = Who(key="k", agent=agent)
        apply(budget, RequestAdmitted(f"r{number}", T0, who, "u", "o", "GET", "/", Amounts(usd=9, requests=1)))
        apply(budget, settle(f"r{number}", cost))
    expected = [("a", (7, 0, 2, 0)), ("b", (5, 0, 1, 0)), ("c", (0, 0, 1, 0))]
    assert budget.tally.by_agent("k", T0 // NANOS) == expected
    assert budget.tally.by_agent("k", T0 // NANOS + 86_400) == []
    assert budget.tally.by_agent("other", 0) == []
    again = load_budget(dump_budget(budget))
    assert again.tally.by_agent("k", 0) == expected
    assert budget.figure("key", "k", "usd", "day", T0, "UTC").settled == 12


def test_holders_are_those_with_something_free() -> None:
    budget = Budget()
    apply(budget, grant(10, "n1"))
    apply(budget, grant(5, "n2"))
    assert budget.leases.holders(LINE) == ["n1", "n2"]
    apply(budget, LeaseReturned({LINE: 10}), actor="n1")
    assert budget.leases.holders(LINE) == ["n2"]
    assert (budget.leases.granted("n1", LINE), budget.leases.granted("n3", LINE)) == (10, 0)
