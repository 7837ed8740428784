"""What requests hold and settle is summed up aside, and every reader of a figure is told it first."""

from collections.abc import Callable

import pytest

from events.state.budget import Budget
from events.state.budget_image import dump_budget, load_budget
from events.types import SYSTEM, KeyIssued, LeaseGranted, RequestAdmitted, RequestSettled
from schemas.accounts import line_key
from schemas.amounts import Amounts
from schemas.policy import Who

DAY_S = 1_763_596_800
AT_NS = DAY_S * 1_000_000_000
NODE = "n1-a"
LINE = line_key("key", "vk_1", "usd", "day", DAY_S)
END_S = DAY_S + 86_400


def budget() -> Budget:
    """100 lent; one request has cost 7 of its 10, another holds 10. Nobody has looked yet."""
    made = Budget()
    made.apply_control(KeyIssued("vk_1", SYSTEM, "sha", "bot", AT_NS, AT_NS + 10**15))
    made.apply_control(LeaseGranted(NODE, {LINE: 100}))
    for seq, name in enumerate(("req_1", "req_2"), 1):
        who, call = Who(key="vk_1", agent="bot"), ("stripe", "x", "POST", "/")
        made.apply_node(seq, NODE, RequestAdmitted(name, AT_NS, who, *call, Amounts(usd=10, requests=1), (LINE,)))
    made.apply_node(3, NODE, RequestSettled("req_1", "settled", AT_NS, Amounts(usd=7, requests=1)))
    return made


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda b: b.leases.leased(LINE), 83),
        (lambda b: b.leases.lent(LINE), (100, 83)),
        (lambda b: b.leases.borrowers(LINE), [(NODE, 83)]),
        (lambda b: list(b.leases.rows()), [(NODE, LINE, 100, 0, 83)]),
        (lambda b: (b.tally.cell(LINE, "UTC").settled, b.tally.cell(LINE, "UTC").held), (7, 10)),
        (lambda b: b.tally.total("key", "vk_1", "usd", DAY_S, END_S), (7, 10)),
        (lambda b: b.tally.by_agent("vk_1", DAY_S), [("bot", (7, 0, 1, 0))]),
        (
            lambda b: [row for row in b.tally.rows() if row[0] == "key"],
            [("key", "vk_1", DAY_S, [7, 0, 1, 0], [10, 0, 1, 0])],
        ),
        (lambda b: b.remaining(LINE, 100, "UTC"), 0),
        (lambda b: load_budget(dump_budget(b)).line(LINE, "UTC"), (7, 10, 83)),
    ],
)
def test_the_first_reader_sees_everything(read: Callable[[Budget], object], expected: object) -> None:
    assert read(budget()) == expected


def test_a_lease_that_is_used_up_is_nobodys_to_give_back() -> None:
    made = budget()
    who, call = Who(key="vk_1", agent="bot"), ("stripe", "x", "POST", "/")
    made.apply_node(4, NODE, RequestAdmitted("req_3", AT_NS, who, *call, Amounts(usd=83, requests=1), (LINE,)))
    assert made.leases.holders(LINE) == []
    made = budget()
    made.apply_node(4, NODE, RequestAdmitted("req_3", AT_NS, who, *call, Amounts(usd=83, requests=1), (LINE,)))
    assert made.leases.leased_lines() == ()


def test_windows_that_end_and_fences_take_what_was_not_told_along() -> None:
    made = budget()
    made.leases.advance(DAY_S + 10 * 86_400)
    made.tally.advance(DAY_S + 10 * 86_400)
    made.apply_node(4, NODE, RequestSettled("req_2", "settled", AT_NS, Amounts(usd=9, requests=1)))
    assert made.leases.leased(LINE) == 0
    assert made.tally.total("key", "vk_1", "usd", DAY_S, END_S) == (16, 0)
    made = budget()
    made.leases.fence(NODE)
    assert (made.leases.leased(LINE), made.leases.borrowers(LINE)) == (0, [])
