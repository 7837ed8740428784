import pytest

from dataplane.core.lines import (
    FOREVER_NS,
    Plan,
    check_single,
    exhausted,
    holds,
    line_gone,
    make_plan,
    must_be_bounded,
    needs,
)
from dataplane.core.snapshot import Snapshot
from schemas.accounts import NANOS_PER_S, AccountCaps, Cap, line_key, window_end_s, window_start_s
from schemas.amounts import Amounts
from schemas.policy import BudgetPolicy

AT_S = 1_763_640_000  # 2025-11-20 12:00:00 UTC
AT_NS = AT_S * NANOS_PER_S
DAY_S = AT_S - AT_S % 86400
ACCOUNTS = ("key:k", "agent:a", "team:t", "org:default")


def plan_of(**caps: tuple[Cap, ...]) -> tuple[Snapshot, Plan]:
    snapshot = Snapshot()
    ids = {"key": "k", "agent": "a", "team": "t", "org": "default"}
    snapshot.put([BudgetPolicy(1, AccountCaps(kind, ids[kind], of)) for kind, of in caps.items()])  # type: ignore[arg-type]  # kinds are literals in the tests
    return snapshot, make_plan(snapshot, ACCOUNTS, AT_NS)


def test_without_caps_nothing_is_needed() -> None:
    snapshot, plan = plan_of()
    assert needs(plan, Amounts(usd=5, requests=1)) == {}
    assert not plan.meters
    assert plan.until_ns == FOREVER_NS
    assert holds(plan, snapshot, AT_NS)


def test_lines_come_in_order_and_only_for_meters_that_the_bound_takes() -> None:
    _, plan = plan_of(
        org=(Cap("usd", "month", 9),),
        key=(Cap("usd", "day", 5), Cap("requests", "total", 3), Cap("refund", "day", 1)),
    )
    november_s = 1_761_955_200
    assert list(needs(plan, Amounts(usd=4, requests=1)).items()) == [
        (f"key:k:usd:day:{DAY_S}", 4),
        ("key:k:requests:total:0", 1),
        (f"org:default:usd:month:{november_s}", 4),
    ]
    assert needs(plan, Amounts(requests=1)) == {"key:k:requests:total:0": 1}
    assert plan.meters == {"usd", "requests", "refund"}


@pytest.mark.parametrize(
    ("capped", "unbounded", "refused"),
    [
        ("usd", "usd", True),
        ("usd", "refund", False),
        ("refund", "refund", True),
        ("refund", "usd", False),
        ("tokens", "usd", True),
        ("tokens", "refund", False),
        ("requests", "usd", False),
    ],
)
def test_which_caps_need_a_bound(capped: str, unbounded: str, refused: bool) -> None:
    _, plan = plan_of(agent=(Cap(capped, "hour", 5),))  # type: ignore[arg-type]  # a meter
    assert must_be_bounded(plan, unbounded) is refused


def test_a_plan_ends_with_the_first_window_and_with_a_change_of_caps() -> None:
    snapshot, plan = plan_of(key=(Cap("usd", "day", 5), Cap("usd", "hour", 5)))
    assert plan.until_ns == (AT_S + 3600) * NANOS_PER_S
    assert holds(plan, snapshot, plan.until_ns - 1)
    assert not holds(plan, snapshot, plan.until_ns)
    assert not holds(plan, snapshot, AT_NS - 1)
    snapshot.put([BudgetPolicy(2, AccountCaps("org", "default", (Cap("usd", "day", 5),)))])
    assert not holds(plan, snapshot, AT_NS)


def test_windows_turn_in_the_accounts_own_zone() -> None:
    snapshot = Snapshot()
    snapshot.put([BudgetPolicy(1, AccountCaps("key", "k", (Cap("usd", "day", 5),), "Asia/Tokyo"))])
    line = make_plan(snapshot, ACCOUNTS, AT_NS).leased[0].line
    tokyo_midnight_s = AT_S + 3 * 3600 - 86400
    assert line == f"key:k:usd:day:{tokyo_midnight_s}"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "Pacific/Kiritimati", "America/New_York"])
@pytest.mark.parametrize("window", ["hour", "day", "month"])
def test_a_line_is_kept_as_long_as_its_window_runs_in_any_zone(window: str, zone: str) -> None:
    """Forgotten too early it would be credited anew with all that was ever granted on it."""
    for at_s in range(AT_S, AT_S + 400 * 86_400, 5 * 86_400 + 1_800):
        start_s = window_start_s(window, at_s * NANOS_PER_S, zone)
        end_s = window_end_s(window, start_s, zone)
        assert end_s is not None
        line = line_key("agent", "bot", "usd", window, start_s)
        assert not line_gone(line, Snapshot(), (end_s + 3600) * NANOS_PER_S)
        assert line_gone(line, Snapshot(), (end_s + 40 * 86_400) * NANOS_PER_S)
    assert not line_gone("agent:bot:usd:total:0", Snapshot(), (AT_S + 4_000 * 86_400) * NANOS_PER_S)


@pytest.mark.parametrize(("usd", "refused"), [(0, False), (500, False), (501, True)])
def test_request_caps_are_checked_on_the_spot(usd: int, refused: bool) -> None:
    _, plan = plan_of(team=(Cap("usd", "request", 500),))
    refusal = check_single(plan, Amounts(usd=usd, requests=1))
    assert (refusal is not None) is refused
    if refusal is not None:
        assert refusal.code == "cap_exhausted"
        assert refusal.details["account"] == "team:t"
        assert refusal.details["window"] == "request"
        assert refusal.details["cap_usd"] == "0.0000005"


def test_a_refusal_names_the_figures() -> None:
    refusal = exhausted(f"agent:a:usd:day:{DAY_S}", 3 * 10**9, 10 * 10**9, 2 * 10**9, DAY_S + 86400)
    assert refusal.code == "cap_exhausted"
    assert refusal.details == {
        "account": "agent:a",
        "meter": "usd",
        "window": "day",
        "line": f"agent:a:usd:day:{DAY_S}",
        "cap_usd": "10.00",
        "remaining_usd": "2.00",
        "needed_usd": "3.00",
        "resets_at": "2025-11-21T00:00:00Z",
    }
    assert "$10.00" in refusal.message


def test_token_caps_are_told_in_tokens() -> None:
    line = f"key:k:tokens:day:{DAY_S}"
    refusal = exhausted(line, 500, 1000, 20, None)
    figures = {"cap": "1000", "remaining": "20", "needed": "500"}
    assert refusal.details == {"account": "key:k", "meter": "tokens", "window": "day", "line": line, **figures}


def test_a_key_whose_uses_are_used_up_is_spent() -> None:
    assert exhausted("key:k:requests:total:0", 1, 3, 0, None).code == "key_spent"
    assert exhausted("agent:a:requests:total:0", 1, 3, 0, None).code == "cap_exhausted"
    assert exhausted(f"key:k:requests:day:{DAY_S}", 1, 3, 0, None).code == "cap_exhausted"
