"""How much is borrowed ahead: enough for a failover once a line has been busy, little for a burst."""

from dataplane.core.demand import AHEAD_NS, FIRST_NS, IDLE_NS, Demand

S = 1_000_000_000
AWAY_S = 5
"""A control plane may be away for so long."""


class Line:
    """A line whose top-ups are granted at once, in steps of a tenth of a second."""

    def __init__(self, per_step: int) -> None:
        self.now_ns = 0
        self.free = 0
        self.per_step = per_step
        self.asked: list[int] = []
        self.demand = Demand(1, 0)

    def runs(self, steps: int, *, answered: bool = True) -> None:
        for _ in range(steps):
            self.now_ns += S // 10
            self.free -= self.per_step
            self.demand.taken += self.per_step
            if self.free < self.demand.low_water and answered:
                self.asked.append(self.demand.top_up(1, self.free, self.now_ns))
                self.free += self.asked[-1]


def test_a_busy_line_goes_on_for_five_seconds_without_an_answer_whenever_it_is_cut_off() -> None:
    for moment in range(40):
        line = Line(100)
        line.runs(120 + moment)
        line.runs(10 * AWAY_S, answered=False)
        assert line.free >= 0, moment


def test_a_busy_line_holds_no_more_than_it_borrows_ahead_and_asks_rarely() -> None:
    line = Line(100)
    line.runs(120)
    asked = len(line.asked)
    held = []
    for _ in range(200):
        line.runs(1)
        held.append(line.free)
    assert max(held) <= 1_000 * AHEAD_NS // S
    assert len(line.asked) - asked <= 11  # every two seconds


def test_a_burst_borrows_a_second_of_itself() -> None:
    demand = Demand(1, 0)
    demand.taken = 10
    assert demand.top_up(1, 0, S // 10) == 10 * 10 * FIRST_NS // S


def test_a_line_that_was_idle_begins_anew() -> None:
    line = Line(100)
    line.runs(120)
    line.demand.taken = 10
    line.demand.top_up(1, 0, line.now_ns + IDLE_NS + 1)
    line.demand.taken = 10
    assert line.demand.top_up(1, 0, line.now_ns + IDLE_NS + S // 10) <= 100 + 10


def test_what_is_free_is_not_asked_for_again_but_a_few_requests_always() -> None:
    demand = Demand(5, 0)
    demand.taken = 100
    assert demand.top_up(5, 60, S) == 40
    demand.taken = 100
    assert demand.top_up(5, 1_000, 2 * S) == 20
