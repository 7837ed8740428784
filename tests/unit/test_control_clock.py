"""The leader's time never goes back, and comes back to the true one in the end; so does a node's view of it."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.control_clock import ControlClock
from dataplane.core.controltime import BACK_NS, ControlTime

S = 1_000_000_000
HOUR_NS = 3_600 * S


class Hand:
    """A clock that a test sets."""

    def __init__(self, wall_ns: int) -> None:
        self.elapsed = 0
        self.wall = wall_ns

    def elapsed_ns(self) -> int:
        return self.elapsed

    def wall_ns(self) -> int:
        return self.wall

    def run(self, ns: int) -> None:
        self.elapsed += ns
        self.wall += ns


@given(st.lists(st.tuples(st.integers(0, 600 * S), st.integers(-2 * HOUR_NS, 2 * HOUR_NS)), max_size=30))
def test_it_never_goes_back_and_never_stands_still(steps: list[tuple[int, int]]) -> None:
    hand = Hand(10 * HOUR_NS)
    clock = ControlClock(hand, 0)
    told = clock.wall_ns()
    for ran_ns, step_ns in steps:
        hand.run(ran_ns)
        hand.wall += step_ns
        now = clock.wall_ns()
        assert now >= told + ran_ns // 2
        assert now >= hand.wall
        told = now


def test_a_clock_that_was_set_back_is_caught_up_with_at_half_pace() -> None:
    hand = Hand(10 * HOUR_NS)
    clock = ControlClock(hand, 0)
    assert clock.wall_ns() == 10 * HOUR_NS
    hand.wall -= HOUR_NS
    hand.run(HOUR_NS)
    assert clock.wall_ns() == 10 * HOUR_NS + HOUR_NS // 2
    hand.run(2 * HOUR_NS)
    assert clock.wall_ns() == hand.wall


def test_a_leadership_begins_no_earlier_than_the_log() -> None:
    hand = Hand(9 * HOUR_NS)
    clock = ControlClock(hand, 10 * HOUR_NS)
    assert clock.wall_ns() == 10 * HOUR_NS
    assert clock.elapsed_ns() == 0


def test_a_node_stands_still_for_a_leader_that_is_a_little_behind() -> None:
    time = ControlTime()
    assert time.now_ns(5 * S) == 0
    time.observe(HOUR_NS, 0)
    assert time.now_ns(10 * S) == HOUR_NS + 10 * S
    time.observe(HOUR_NS - 50 * S, 10 * S)  # a new leader
    assert time.now_ns(10 * S) == time.now_ns(70 * S) == HOUR_NS + 10 * S
    assert time.now_ns(80 * S) == HOUR_NS + 20 * S


def test_a_node_follows_a_leader_that_is_far_behind() -> None:
    """It could borrow nothing from windows that are to come."""
    time = ControlTime()
    time.observe(HOUR_NS, 0)
    time.observe(HOUR_NS - 2 * BACK_NS, S)
    assert time.now_ns(S) == HOUR_NS - 2 * BACK_NS
