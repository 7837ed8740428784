"""The ledger's rules as scripts, one action a line."""

from typing import Any

import pytest
from support.ledger_desk import T0_NS, Desk, line

from controlplane.ledger_core import HARD_WAITS, MAX_WAITING, LedgerCore
from events.types import RequestAdmitted
from schemas.amounts import Amounts
from schemas.policy import Who
from schemas.rpc import LeaseAsk

HOUR_MS = 3_600_000


def desk(cap: int = 100, **more: Any) -> Desk:
    return Desk({"key:k": cap}, **more)


def lent_out() -> Desk:
    """All of 100 is granted to r1 and not admitted yet; r2 wants as much, and a mark has found that it would fit."""
    d = desk(100)
    d.ask("r1", "n1", 100)
    d.step()
    d.ask("r2", "n2", 100)
    d.step()
    d.mark()
    return d


# ---------------------------------------------------------------- granting (G1 to G3)


@pytest.mark.parametrize(
    ("cap", "nodes", "bound", "size"),
    [
        (10_000, 2, 10, 40),  # far from the cap: four times the bound
        (120, 2, 10, 30),  # nearer: a share of what remains
        (120, 3, 10, 20),  # the more nodes, the smaller
        (40, 2, 10, 10),  # near: exactly the bound
        (10, 2, 10, 10),  # the last of it
    ],
)
def test_the_size_of_a_grant(cap: int, nodes: int, bound: int, size: int) -> None:
    d = desk(cap, nodes=nodes)
    d.ask("r1", "n1", bound)
    d.step()
    assert d.outcome("r1") == "granted"
    assert d.grant_of("r1") == size
    assert d.remaining("key:k", cap) == cap - size


def test_a_grant_is_all_lines_or_none() -> None:
    d = Desk({"key:k": 100, "agent:a": 5})
    d.ask("r1", "n1", 10, "key:k", "agent:a")
    d.step()
    assert d.outcome("r1") == "waiting"
    assert d.granted == []
    assert d.remaining("key:k", 100) == 100


def test_grants_are_cumulative_and_batched() -> None:
    d = desk(1_000)
    for name, node in (("r1", "n1"), ("r2", "n1"), ("r3", "n2")):
        d.ask(name, node, 10)
    d.step()
    assert d.granted == [{line("key:k"): 80}, {line("key:k"): 40}]  # one event a node, one append for all
    assert (d.grant_of("r1"), d.grant_of("r2"), d.grant_of("r3")) == (80, 80, 40)
    d.ask("r4", "n1", 10)
    d.step()
    assert d.grant_of("r4") == 120


def test_nothing_is_lent_above_the_cap() -> None:
    d = desk(25)
    for number in range(5):
        d.ask(f"r{number}", "n1", 10)
    d.step()
    assert [d.outcome(f"r{n}") for n in range(5)] == ["granted", "granted", "waiting", "waiting", "waiting"]
    assert d.remaining("key:k", 25) == 5


def test_a_repeat_gets_the_same_answer() -> None:
    d = desk()
    d.ask("r1", "n1", 10)
    assert d.ask("r1", "n1", 10) == "waiting"
    d.step()
    first = d.grant_of("r1")
    assert d.ask("r1", "n1", 10) == "granted"
    assert d.grant_of("r1") == first
    assert len(d.granted) == 1
    d.ask("r2", "n1", 95)
    d.admit("x", "n1", 10)
    d.step()
    d.mark()
    refusal = d.answers["r2"].refusal
    assert refusal is not None
    d.release("x", "n1")
    assert d.ask("r2", "n1", 95) == "refused"
    assert d.answers["r2"].refusal == refusal


# ---------------------------------------------------------------- windows and caps


@pytest.mark.parametrize(
    ("account", "hours", "outcome"),
    [
        ("key:k", 0, "waiting"),  # the running day
        ("key:k", 24, "waiting"),  # the next one
        ("key:k", 48, "window_turned"),  # not begun
        ("key:k", -24, "window_turned"),  # over
        ("key:other", 0, "window_turned"),  # no such cap
    ],
)
def test_which_windows_are_lent(account: str, hours: int, outcome: str) -> None:
    d = desk()
    asked = LeaseAsk("r1", "n1", {line(account, at_ns=T0_NS + hours * HOUR_MS * 1_000_000): 5})
    answer = d.core.submit(asked, d.at)
    assert (answer.outcome if answer is not None else "waiting") == outcome


def test_a_window_that_turns_while_an_ask_waits() -> None:
    d = desk(10)
    d.ask("r1", "n1", 10)
    d.step()
    d.ask("r2", "n1", 10)
    d.step()
    d.wall_offset_ns += 24 * HOUR_MS * 1_000_000
    d.step()
    assert d.outcome("r2") == "window_turned"


def test_a_cap_that_goes_while_an_ask_waits() -> None:
    d = desk(10)
    d.ask("r1", "n1", 20)
    d.step()
    d.cap("key:k", -1)
    d.step()
    assert d.outcome("r1") == "window_turned"


@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"nonsense": 1},
        {line("key:k"): 0},
        {line("key:k"): -5},
        {f"key:k:usd:day:{n}": 1 for n in range(65)},
    ],
)
def test_malformed_asks(lines: dict[str, int]) -> None:
    d = desk()
    with pytest.raises(ValueError, match=r"."):
        d.core.submit(LeaseAsk("r1", "n1", lines), d.at)


# ---------------------------------------------------------------- refusing (G4, P2)


def test_402_after_a_mark_and_only_if_it_does_not_fit_the_log() -> None:
    d = desk(100)
    d.ask("r1", "n1", 100)
    d.step()
    d.admit("r1", "n1", 100)
    d.ask("r2", "n2", 1)
    assert d.step() is True  # a mark is wanted
    assert d.outcome("r2") == "waiting"
    d.mark()
    assert d.outcome("r2") == "refused"
    refusal = d.answers["r2"].refusal
    assert refusal is not None
    assert (refusal.line, refusal.cap, refusal.settled, refusal.held, refusal.remaining) == (
        line("key:k"),
        100,
        0,
        100,
        0,
    )
    assert refusal.resets_at_s == T0_NS // 10**9 + 86_400


def test_money_lent_to_another_node_is_no_reason() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ask("r2", "n2", 60)
    assert d.step() is False
    d.mark()
    assert d.outcome("r2") == "waiting"
    assert d.recalls == []  # within 20 ms of a grant the node is left alone
    d.ms += 20
    d.step()
    assert d.recalls == [("n1", (line("key:k"),))]
    d.give_back("n1", "key:k", 60)
    d.step()
    assert d.outcome("r2") == "granted"
    assert d.grant_of("r2") == 60


def test_a_mark_begun_before_the_ask_came_does_not_judge_it() -> None:
    d = desk(10)
    d.ask("r0", "n1", 10)
    d.step()
    d.admit("x", "n1", 10)
    mark = d.core.begin_mark(d.at)
    d.ask("r1", "n1", 10)
    d.step()
    d.answers.update(d.core.marked(mark, d.at))
    assert d.outcome("r1") == "waiting"
    d.mark()
    assert d.outcome("r1") == "refused"


def test_what_was_released_before_the_mark_passed_is_granted() -> None:
    d = desk(10)
    d.ask("r0", "n1", 10)
    d.step()
    d.admit("x", "n1", 10)
    d.ask("r1", "n2", 10)
    assert d.step() is True
    mark = d.core.begin_mark(d.at)
    d.release("x", "n1")
    d.give_back("n1", "key:k", 10)
    d.answers.update(d.core.marked(mark, d.at))
    d.step()
    assert d.outcome("r1") == "granted"


def test_the_refusal_names_the_first_line_that_does_not_fit() -> None:
    d = Desk({"key:k": 100, "agent:a": 5, "team:t": 5})
    d.ask("r1", "n1", 10, "key:k", "agent:a", "team:t")
    d.step()
    d.mark()
    refusal = d.answers["r1"].refusal
    assert refusal is not None
    assert refusal.line == line("agent:a")


# ---------------------------------------------------------------- waiting (G5, G6)


def test_recalls_repeat_every_20_ms_until_the_money_is_back() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ms += 100
    d.ask("r2", "n2", 60)
    for wait, recalls in ((0, 1), (10, 1), (10, 2), (19, 2), (1, 3)):
        d.ms += wait
        d.step()
        assert len(d.recalls) == recalls, (wait, recalls)
    assert d.core.look(d.at).again_ns == (d.ms + 20) * 1_000_000
    d.give_back("n1", "key:k", 60)
    d.ms += 20
    d.step()
    assert len(d.recalls) == 3


def test_a_recalled_line_is_tight_for_a_second() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ms += 100
    d.ask("r2", "n2", 60)
    d.step()
    d.give_back("n1", "key:k", 60)
    d.step()
    assert d.answers["r2"].tight == (line("key:k"),)
    d.ask("r3", "n2", 1)
    d.step()
    assert d.grant_of("r3") == 61  # exactly the bound
    d.ms += 1_001
    d.ask("r4", "n2", 1)
    d.step()
    assert d.grant_of("r4") == 65  # four times the bound again
    assert d.answers["r4"].tight == ()


def test_in_order_of_arrival_each_blocking_only_the_lines_it_lacks() -> None:
    d = Desk({"key:k": 100, "key:j": 100})
    d.ask("r0", "n1", 96, "key:k")
    d.step()
    d.ask("big", "n2", 50, "key:k")
    d.ask("small", "n2", 4, "key:k")
    d.ask("other", "n2", 4, "key:j")
    d.step()
    assert [d.outcome(name) for name in ("big", "small", "other")] == ["waiting", "waiting", "granted"]
    d.give_back("n1", "key:k", 96)
    d.step()
    assert [d.outcome(name) for name in ("big", "small")] == ["granted", "granted"]


def test_two_nodes_hold_5_each_and_need_10_each() -> None:
    """Scenario 6 (docs/PROTOCOL.md): nobody holds a part while waiting, so one of them gets all."""
    d = desk(10)
    d.ask("a5", "n1", 5)
    d.ask("b5", "n2", 5)
    d.step()
    d.ms += 50
    d.ask("a10", "n1", 10)
    d.ask("b10", "n2", 10)
    d.step()
    assert sorted(d.recalls) == [("n1", (line("key:k"),)), ("n2", (line("key:k"),))]
    d.give_back("n1", "key:k", 5)
    d.step()
    assert (d.outcome("a10"), d.outcome("b10")) == ("waiting", "waiting")
    d.give_back("n2", "key:k", 5)
    d.step()
    assert (d.outcome("a10"), d.outcome("b10")) == ("granted", "waiting")
    d.admit("a10", "n1", 10)
    assert d.step() is True
    d.mark()
    assert d.outcome("b10") == "refused"


def test_money_freed_later_goes_to_who_asked_first() -> None:
    """Scenario 7: n1 returns nothing while it holds 60, frees 59 a moment later; n2 asked before n3."""
    d = desk(60, nodes=3)
    d.ask("a", "n1", 60)
    d.step()
    d.admit("a", "n1", 60)
    d.ask("b", "n2", 30)
    d.step()
    d.mark()
    assert d.outcome("b") == "refused"  # 60 held: at that instant it did not fit
    d.ask("b2", "n2", 30)
    d.settle("a", "n1", 1)
    d.ask("c", "n3", 59)
    d.step()
    d.give_back("n1", "key:k", 59)
    d.step()
    assert (d.outcome("b2"), d.outcome("c")) == ("granted", "waiting")


def test_past_its_deadline_an_ask_that_a_mark_has_judged_gets_503() -> None:
    d = lent_out()
    d.ms += 599
    assert d.step() is False
    d.ms += 1
    assert d.step() is True
    assert d.outcome("r2") == "waiting"
    d.mark()
    assert d.step() is False
    assert d.outcome("r2") == "unavailable"


def test_no_mark_from_before_the_logs_stood_still_ends_a_wait() -> None:
    """The last of the money is granted and its intent on the way to a log whose disk stands still for a second: the
    fold shows that there is room, as it did when all were judged, and the exact answer is a 402.
    """
    d = lent_out()
    d.ms += 1_000
    assert d.step() is True
    mark = d.core.begin_mark(d.at)  # it stands behind the intent
    d.ms += 500
    d.step()
    assert d.outcome("r2") == "waiting"
    d.admit("r1", "n1", 100)
    d.answers.update(d.core.marked(mark, d.at))
    assert d.outcome("r2") == "refused"


def test_at_its_deadline_an_ask_whose_money_is_coming_back_waits_on() -> None:
    d = lent_out()
    d.ms += 500
    d.give_back("n1", "key:k", 10)
    d.step()
    d.ms += 299
    d.step()
    assert d.outcome("r2") == "waiting"
    d.give_back("n1", "key:k", 80)
    d.step()
    d.ms += 150
    d.give_back("n1", "key:k", 10)
    d.step()
    assert d.outcome("r2") == "granted"


def test_money_that_stops_coming_back_ends_the_wait() -> None:
    d = lent_out()
    d.ms += 590
    d.give_back("n1", "key:k", 10)
    d.step()
    d.ms += 299
    d.step()
    d.mark()
    d.step()
    assert d.outcome("r2") == "waiting"
    d.ms += 1
    d.step()
    assert d.outcome("r2") == "unavailable"


def test_at_its_deadline_an_ask_that_no_mark_has_judged_gets_one() -> None:
    d = desk(100)
    d.ask("r1", "n1", 100)
    d.step()
    d.ask("r2", "n2", 100)
    d.ms += 600
    assert d.step() is True
    d.admit("r1", "n1", 100)
    d.mark()
    assert d.outcome("r2") == "refused"


def test_without_any_mark_an_ask_ends_at_its_hard_limit() -> None:
    d = desk(100)
    d.ask("r1", "n1", 100)
    d.step()
    d.ask("r2", "n2", 100)
    d.ms += HARD_WAITS * 600 - 1
    assert d.step() is True
    assert (d.core.look(d.at).again_ns or 0) <= (d.ms + 1) * 1_000_000
    d.ms += 1
    d.step()
    assert d.outcome("r2") == "unavailable"


def test_too_many_asks_are_turned_away_at_once() -> None:
    d = desk(1)
    for number in range(MAX_WAITING):
        d.ask(f"r{number}", "n1", 5)
    assert d.core.waiting == MAX_WAITING
    assert d.ask("one more", "n1", 5) == "unavailable"


def test_when_the_logs_are_too_full_nothing_more_is_lent() -> None:
    d = desk()
    d.core.closed = True
    assert d.ask("r1", "n1", 5) == "unavailable"
    d.core.closed = False
    assert d.ask("r2", "n1", 5) == "waiting"


# ---------------------------------------------------------------- ahead of need


def test_ahead_gets_a_share_and_never_a_refusal() -> None:
    d = desk(100)
    d.ask("a1", "n1", 1_000, ahead=True)
    d.step()
    assert (d.outcome("a1"), d.grant_of("a1")) == ("granted", 25)
    d.admit("x", "n1", 25)
    d.ask("r1", "n2", 75)
    d.step()
    d.admit("y", "n2", 75)
    d.ask("a2", "n1", 10, ahead=True)
    d.step()
    assert (d.outcome("a2"), d.grant_of("a2")) == ("granted", 25)  # nothing new


def test_ahead_takes_nothing_that_somebody_waits_for() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ask("r2", "n2", 60)
    d.ask("a1", "n2", 20, ahead=True)
    d.step()
    assert (d.outcome("r2"), d.outcome("a1"), d.grant_of("a1")) == ("waiting", "granted", 0)


def test_ahead_takes_of_each_line_what_there_is() -> None:
    d = Desk({"key:k": 1_000, "agent:a": 40})
    d.ask("a1", "n1", 100, "key:k", "agent:a", ahead=True)
    d.step()
    assert (d.grant_of("a1", "key:k"), d.grant_of("a1", "agent:a")) == (100, 10)


# ---------------------------------------------------------------- fences


def test_a_fenced_node_gets_nothing_and_its_lease_returns() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ask("r2", "n1", 60)
    d.ask("r3", "n2", 60)
    d.step()
    d.fence("n1")
    assert d.outcome("r2") == "fenced"
    d.step()
    assert d.outcome("r3") == "granted"


def test_what_a_fenced_node_admitted_stays_held() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.admit("r1", "n1", 60)
    d.fence("n1")
    d.ask("r2", "n2", 60)
    d.step()
    d.mark()
    assert d.outcome("r2") == "refused"


# ---------------------------------------------------------------- too much lent out (G8)


def test_a_lowered_cap_is_clear_when_nothing_is_over_lent() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ms += 50
    d.cap("key:k", 40)
    seq = d.replica.control_seq
    assert d.core.lowered.clear(seq) is False
    assert d.core.lowered.clear(seq - 1) is True  # earlier changes are not concerned
    assert d.core.lowered.holders(seq) == {"n1"}
    d.step()
    assert d.recalls == [("n1", (line("key:k"),))]
    d.give_back("n1", "key:k", 20)
    assert d.core.lowered.clear(seq) is True  # 40 may stay
    d.core.lowered.confirmed(seq)
    d.ms += 50
    d.step()
    assert len(d.recalls) == 1


def test_a_cap_above_what_is_lent_is_clear_at_once() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.cap("key:k", 60)
    assert d.core.lowered.clear(d.replica.control_seq) is True


def test_usage_without_a_lease_keeps_a_new_cap_open() -> None:
    """A cap is new; a node that has not applied it admits without a lease, another one has a lease on it."""
    d = Desk({"key:j": 1})
    d.cap("key:k", 100)
    seq = d.replica.control_seq
    d.ask("r1", "n1", 60)
    d.step()
    assert d.core.lowered.clear(seq) is True
    d.admit("x", "n2", 80, "key:none")
    assert d.core.lowered.clear(seq) is False


@pytest.mark.parametrize("leader", ["the same", "another"])
def test_what_requests_leave_over_of_an_account_above_its_new_cap_is_recalled(leader: str) -> None:
    """Nothing is over-lent when the change is confirmed; it becomes so when a request costs less than its bound."""
    d = Desk({"key:j": 1})
    d.cap("key:k", 100)
    seq = d.replica.control_seq
    d.ask("r1", "n1", 60)
    d.step()
    d.admit("r1", "n1", 60)
    d.admit("x", "n2", 80, "key:none")  # without a lease: its node has not applied the cap
    lowered = d.core.lowered
    if leader == "another":
        lowered = LedgerCore(d.replica, d.timing).lowered
        lowered.resume(seq)
    assert lowered.clear(seq) is True
    lowered.confirmed(seq)
    assert lowered.lines() == set()
    d.settle("r1", "n1", 10)
    assert lowered.lines() == {line("key:k")}
    d.give_back("n1", "key:k", 50)
    lowered.confirmed(seq)
    assert lowered.lines() == set()
    assert not lowered.watching


def test_an_overrun_below_zero_starts_a_recall() -> None:
    d = desk(100)
    d.ask("r1", "n1", 50)
    d.step()
    d.admit("r1", "n1", 50)
    d.ask("r2", "n2", 40)
    d.step()
    d.ms += 50
    d.settle("r1", "n1", 70)
    d.step()
    assert d.recalls == [("n2", (line("key:k"),))]
    d.give_back("n2", "key:k", 40)
    d.ms += 50
    d.step()
    assert len(d.recalls) == 1


def test_a_change_of_zone_lends_nothing_until_old_leases_are_back() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.ms += 50
    d.cap("key:k", 100, zone="Asia/Tokyo")
    seq = d.replica.control_seq
    assert d.core.lowered.clear(seq) is False
    tokyo = line("key:k", at_ns=d.at.wall_ns, zone="Asia/Tokyo")
    assert d.core.submit(LeaseAsk("r2", "n2", {tokyo: 100}), d.at) is None
    d.step()
    assert d.outcome("r2") == "waiting"
    assert d.recalls == [("n1", (line("key:k"),))]
    d.give_back("n1", "key:k", 60)
    d.step()
    assert d.core.lowered.clear(seq) is True
    d.step()
    assert d.outcome("r2") == "granted"


def test_a_new_leader_watches_what_is_over_lent_and_what_is_not_applied() -> None:
    d = desk(100)
    d.ask("r1", "n1", 60)
    d.step()
    d.cap("key:k", 40)
    over_lent = d.replica.control_seq
    d.cap("key:j", 40)
    unapplied = d.replica.control_seq
    core = LedgerCore(d.replica, d.timing)  # as after a takeover
    core.lowered.resume(over_lent)
    assert core.lowered.lines() == {line("key:k")}
    assert core.lowered.clear(over_lent) is False  # applied, but what was lent before is still out
    d.give_back("n1", "key:k", 60)
    assert core.lowered.clear(unapplied) is True
    d.ask("r2", "n1", 30, "key:j")
    d.step()
    d.admit("x", "n2", 20, "key:none")  # without a lease: its node has not applied the cap
    d.write("n2", RequestAdmitted("y", T0_NS, Who(key="j"), "u", "o", "GET", "/", Amounts(usd=20)))
    assert core.lowered.clear(unapplied) is False


# ---------------------------------------------------------------- P2, the whole of it


def test_142_of_600_fit_under_100_dollars() -> None:
    """Four nodes, 600 requests of 70 cents at once: 142 are admitted, 458 refused, nothing else."""
    d = desk(10_000, nodes=4)
    waiting = {f"n{n}": [f"n{n}.{i}" for i in range(150)] for n in range(1, 5)}
    free = dict.fromkeys(waiting, 0)
    known = dict.fromkeys(waiting, 0)
    admitted: set[str] = set()
    for i in range(150):
        for node in waiting:
            d.ask(f"{node}.{i}", node, 70)
    for _ in range(200):
        wants_mark = d.step()
        for node, names in waiting.items():
            granted = d.replica.budget.leases.granted(node, line("key:k"))
            free[node] += granted - known[node]
            known[node] = granted
            while free[node] >= 70 and names:
                name = names.pop(0)
                admitted.add(name)
                free[node] -= 70
                d.admit(name, node, 70)
        for node, _ in d.recalls:
            if free[node]:
                d.give_back(node, "key:k", free[node])
                free[node] = 0
        d.recalls.clear()
        if wants_mark:
            d.mark()
        d.ms += 5
        if not d.core.waiting:
            break
    refused = {name for name, answer in d.answers.items() if answer.outcome == "refused"} - admitted
    assert (len(admitted), len(refused), d.core.waiting, d.core.unavailable) == (142, 458, 0, 0)
    assert d.ms - 1_000 < 600
