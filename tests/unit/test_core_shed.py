"""What is in hand, in virtual time: a burst passes, a standing queue does not, a runaway fills its share alone."""

import random
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.shed import (
    AT_ONCE_NS,
    CEILING,
    FLOOR,
    MANY,
    MS,
    STANDING_NS,
    STANDS_NS,
    TARGET_NS,
    TURN,
    WINDOW_NS,
    Shedder,
)

COST_NS = 150_000
REFUSAL_NS = 20_000
READ_NS = 20_000
TURN_NS = 50_000


class Loop:
    """A node in virtual time. Each turn it refuses or takes in what has arrived, works on what it took in the turn
    before, and ends what the log has taken; `cost_ns` in all. The log takes in one append what waited for it.

    `share`: of its core that it gets while it works; the rest is others'.
    """

    def __init__(self, cost_ns: int = COST_NS, log_ns: int = 1 * MS, share: float = 1.0) -> None:
        self.now_ns = 1
        self.worked_ns = 0.0
        self.shedder = Shedder(lambda: int(self.worked_ns))
        self.cost_ns, self.log_ns, self.share = cost_ns, log_ns, share
        self.waited_ns: list[tuple[str, int]] = []
        self.shed: list[str] = []
        self._queue: deque[tuple[int, int, str]] = deque()
        self._waiting: list[tuple[int, str]] = []
        self._append: list[tuple[int, str]] = []
        self._acknowledged_ns = 0

    def work(self, took_ns: float) -> None:
        self.worked_ns += took_ns
        self.now_ns += int(took_ns / self.share)

    def turn(self, arrivals: list[tuple[int, str]]) -> list[str]:
        """`arrivals`: (when it came, whose). Returns who was refused."""
        shedder = self.shedder
        if self._append and self.now_ns >= self._acknowledged_ns:
            for came_ns, flow in self._append:
                shedder.release(flow)
                self.work(self.cost_ns / 2)
                self.waited_ns.append((flow, self.now_ns - came_ns))
            self._append = []
        if self._waiting and not self._append:
            self._append, self._waiting = self._waiting, []
            self._acknowledged_ns = self.now_ns + self.log_ns
        while self._queue:
            came_ns, read_ns, flow = self._queue.popleft()
            shedder.start(flow, read_ns, self.now_ns)
            shedder.hold(flow)
            self.work(self.cost_ns / 2 - READ_NS)
            self._waiting.append((came_ns, flow))
        refused = []
        for came_ns, flow in arrivals:
            if shedder.arrive(flow, self.now_ns):
                self._queue.append((came_ns, self.now_ns, flow))
                self.work(READ_NS)
            else:
                refused.append(flow)
                self.work(REFUSAL_NS)
        self.shed += refused
        self.work(TURN_NS)
        return refused

    @property
    def idle(self) -> bool:
        return not self._queue and not (self._waiting and not self._append)

    def run(self, rates: dict[str, float], seconds: float, seed: int = 1) -> None:
        """Offer load (requests a second for each flow) for some virtual time."""
        rng = random.Random(seed)
        due = {flow: self.now_ns + rng.random() * 1e9 / rate for flow, rate in rates.items()}
        end_ns = self.now_ns + seconds * 1e9
        while self.now_ns < end_ns:
            arrivals = []
            for flow, rate in rates.items():
                while due[flow] <= self.now_ns:
                    arrivals.append((int(due[flow]), flow))
                    due[flow] += rng.expovariate(rate) * 1e9
            self.turn(sorted(arrivals))
            if self.idle:  # until something comes
                wakes_ns = [*due.values(), *([self._acknowledged_ns] if self._append else [])]
                self.now_ns = max(self.now_ns, int(min(wakes_ns)) + 1)

    def closed(self, clients: int, seconds: float) -> None:
        """So many clients, each asking again as soon as it is answered or refused."""
        asks = ["a"] * clients
        end_ns = self.now_ns + seconds * 1e9
        while self.now_ns < end_ns:
            before = len(self.waited_ns)
            refused = self.turn([(self.now_ns, flow) for flow in asks])
            asks = refused + [flow for flow, _ in self.waited_ns[before:]]
            if self.idle and not asks:
                self.now_ns = max(self.now_ns, self._acknowledged_ns)

    def p99_ms(self, flow: str, since: int = 0) -> float:
        waits = sorted(waited for name, waited in self.waited_ns[since:] if name == flow)
        return waits[int(len(waits) * 0.99)] / MS


def capacity(cost_ns: int = COST_NS) -> float:
    """Requests a second, without what turns and refusals cost."""
    return 1e9 / cost_ns


def test_a_burst_passes_whole() -> None:
    loop = Loop()
    for _ in range(20):
        loop.turn([(loop.now_ns, "a")] * TURN)
        loop.run({"a": 10}, 0.2)
    assert loop.shed == []
    assert loop.shedder.limit == CEILING


@pytest.mark.parametrize("cost_us", [60, 150, 400])
def test_what_waits_without_end_is_shed_until_little_is_in_hand(cost_us: int) -> None:
    loop = Loop(cost_us * 1_000)
    loop.run({"a": 2e9 / loop.cost_ns}, 3.0)
    assert loop.shed
    assert FLOOR <= loop.shedder.limit <= 2 * max(FLOOR, 1.5 * MS / loop.cost_ns)


def test_at_twice_the_capacity_what_is_admitted_waits_at_most_three_times_as_long_as_at_half() -> None:
    half, twice = Loop(), Loop()
    half.run({"a": capacity() / 2}, 3.0)
    twice.run({"a": 2 * capacity()}, 1.0)
    settled = len(twice.waited_ns)
    twice.run({"a": 2 * capacity()}, 3.0)
    assert twice.p99_ms("a", settled) < 3 * half.p99_ms("a")
    assert not half.shed
    # And the node does its work: shedding takes a tenth of it, turns a tenth.
    assert len(twice.waited_ns) - settled > 3.0 * capacity() * 0.7


@pytest.mark.parametrize("log_ms", [1, 5, 12, 40])
def test_below_the_capacity_nobody_is_shed_however_slow_the_log_is(log_ms: int) -> None:
    loop = Loop(log_ns=log_ms * MS)
    loop.run({"a": 0.85 * capacity()}, 5.0)
    assert loop.shed == []


@pytest.mark.parametrize("log_ms", [1, 5, 12, 40])
def test_above_it_the_node_carries_what_it_can_however_slow_the_log_is(log_ms: int) -> None:
    loop = Loop(log_ns=log_ms * MS)
    loop.run({"a": 2 * capacity()}, 2.0)
    settled = len(loop.waited_ns)
    loop.run({"a": 2 * capacity()}, 4.0)
    assert len(loop.waited_ns) - settled > 4.0 * capacity() * 0.4


def test_just_below_the_capacity_nobody_is_shed_a_second_after_an_overload() -> None:
    loop = Loop()
    loop.run({"a": 2 * capacity()}, 2.0)
    loop.run({"a": 0.85 * capacity()}, 1.0)
    loop.shed.clear()
    loop.run({"a": 0.85 * capacity()}, 5.0)
    assert loop.shed == []
    assert loop.shedder.limit == CEILING


def test_it_recovers_within_a_second() -> None:
    loop = Loop()
    loop.run({"a": 3 * capacity()}, 2.0)
    loop.run({"a": capacity() / 10}, 0.2)
    loop.shed.clear()
    loop.run({"a": capacity() / 10}, 0.8)
    assert loop.shed == []
    assert loop.shedder.limit == CEILING


@pytest.mark.parametrize("clients", [1, 16, MANY])
def test_a_few_clients_that_ask_as_fast_as_they_are_answered_are_no_overload(clients: int) -> None:
    loop = Loop()
    loop.closed(clients, 5.0)
    assert loop.shed == []


@pytest.mark.parametrize("clients", [200, 400])
def test_clients_that_try_again_at_once_leave_time_for_those_that_are_served(clients: int) -> None:
    loop = Loop()
    loop.closed(clients, 4.0)
    assert loop.shed
    assert len(loop.waited_ns) > 4.0 * capacity() * 0.5


def long_turns(loop: Loop, turn_ms: int, in_hand: int = MANY) -> None:
    """Two seconds of turns with one request each, and others in hand."""
    for _ in range(in_hand):
        loop.shedder.hold("b")
    for _ in range(2_000 // turn_ms):
        if loop.shedder.arrive("a", loop.now_ns):
            loop.shedder.start("a", loop.now_ns, loop.now_ns + turn_ms * MS)
        loop.now_ns += turn_ms * MS
        loop.worked_ns += turn_ms * MS * loop.share
    for _ in range(in_hand):
        loop.shedder.release("b")


@pytest.mark.parametrize("turn_ms", [5, 30])
def test_turns_that_are_long_for_another_reason_leave_room_for_fewer_but_never_for_none(turn_ms: int) -> None:
    loop = Loop()
    long_turns(loop, turn_ms)
    assert loop.shedder.limit <= MANY
    loop.shedder.limit = FLOOR
    assert [loop.shedder.arrive("a", loop.now_ns) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]


def test_who_waits_because_others_have_the_core_is_not_shed() -> None:
    """Fewer requests would not make the turns of such a node shorter."""
    loop = Loop(share=0.2)
    long_turns(loop, 12)
    assert loop.shedder.limit == CEILING
    long_turns(loop, 15)
    assert loop.shedder.limit <= MANY


def test_who_has_few_in_hand_is_not_overloaded() -> None:
    loop = Loop()
    long_turns(loop, 30, MANY - 1)
    assert loop.shedder.limit == CEILING


def test_a_pause_of_the_machine_sheds_nobody() -> None:
    loop = Loop()
    loop.run({"a": capacity() / 2}, 1.0)
    loop.now_ns += 40 * MS
    loop.run({"a": capacity() / 2}, 1.0)
    assert loop.shed == []


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_runaway_with_fifty_times_the_load_takes_nothing_from_another(times: float) -> None:
    loop = Loop()
    runaway = times * capacity()
    loop.run({"bot": runaway / 50, "runaway": runaway}, 4.0)
    assert "bot" not in loop.shed
    bot, others = loop.p99_ms("bot", len(loop.waited_ns) // 2), loop.p99_ms("runaway", len(loop.waited_ns) // 2)
    assert bot <= others * 1.2


def test_among_many_agents_the_one_that_asks_too_much_is_shed() -> None:
    loop = Loop()
    rates = {f"bot-{n}": capacity() / 40 for n in range(10)}
    loop.run({"runaway": 2 * capacity(), **rates}, 4.0)
    refused = len(loop.shed) - loop.shed.count("runaway")
    # Those of whom several come at once: ten agents' share is two each.
    assert refused <= 0.1 * 4.0 * sum(rates.values())


def arrivals(shedder: Shedder, flows: Iterator[str]) -> list[bool]:
    return [shedder.arrive(flow, 1) for flow in flows]


def test_who_is_below_its_share_is_admitted_over_the_limit_and_nobody_over_twice_of_it() -> None:
    shedder = Shedder(lambda: 0)
    shedder.limit = 8
    assert arrivals(shedder, iter(["runaway"] * 9)) == [True] * 8 + [False]
    assert arrivals(shedder, iter("a" * 5)) == [True] * 4 + [False]
    assert arrivals(shedder, iter("b" * 3)) == [True] * 2 + [False]
    assert not shedder.arrive("runaway", 1)
    assert arrivals(shedder, (f"x{n}" for n in range(5))) == [True, True, False, False, False]
    assert shedder.queued == shedder.in_hand == 16


def test_one_turn_takes_only_so_much_though_there_is_no_limit() -> None:
    shedder = Shedder(lambda: 0)
    assert arrivals(shedder, iter(["runaway"] * (TURN + 1))) == [True] * TURN + [False]
    assert shedder.arrive("bot", 1)


def test_what_is_looked_at_and_not_admitted_yet_is_in_hand() -> None:
    shedder = Shedder(lambda: 0)
    shedder.limit = 1
    assert shedder.arrive("a", 1)
    shedder.start("a", 1, 2)
    shedder.hold("a")
    assert (shedder.queued, shedder.in_hand) == (0, 1)
    assert not shedder.arrive("a", 3)
    shedder.release("a")
    assert shedder.arrive("a", 4)


def test_places_of_who_has_gone_are_free_again() -> None:
    shedder = Shedder(lambda: 0)
    shedder.limit = 1
    assert shedder.arrive("a", 1)
    shedder.withdraw("a")
    assert shedder.arrive("a", 1)
    assert shedder.queued == 1


def test_a_node_whose_whole_hand_waits_for_something_takes_more_in_hand() -> None:
    """Nobody is looked at then, and nobody is needed to notice."""
    shedder = Shedder(lambda: 0)
    shedder.limit = FLOOR
    for _ in range(FLOOR):
        shedder.hold("a")
    for n in range(100):
        if shedder.arrive("a", n * WINDOW_NS):
            shedder.start("a", n * WINDOW_NS, n * WINDOW_NS)
            shedder.hold("a")
    assert shedder.in_hand > 2 * FLOOR


STEPS = st.tuples(
    st.sampled_from(["arrive", "start", "withdraw", "release"]), st.sampled_from("abc"), st.integers(0, 30)
)


@given(st.lists(STEPS))
def test_in_hand_is_what_has_arrived_and_not_left(steps: list[tuple[str, str, int]]) -> None:
    now_ns, queued, held = 1, {"a": 0, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}
    shedder = Shedder(lambda: now_ns)
    shedder.limit = 4
    for step, flow, later_ms in steps:
        now_ns += later_ms * MS
        if step == "arrive":
            queued[flow] += shedder.arrive(flow, now_ns)
        elif step == "release" and held[flow]:
            held[flow] -= 1
            shedder.release(flow)
        elif step != "release" and queued[flow]:
            queued[flow] -= 1
            if step == "start":
                shedder.start(flow, now_ns - later_ms * MS, now_ns)
                shedder.hold(flow)
                held[flow] += 1
            else:
                shedder.withdraw(flow)
        assert shedder.queued == sum(queued.values())
        assert shedder.in_hand == sum(queued.values()) + sum(held.values())
        assert 4 <= shedder.limit <= CEILING


def test_the_figures_belong_together() -> None:
    assert AT_ONCE_NS < TARGET_NS < STANDS_NS < WINDOW_NS < STANDING_NS
    assert FLOOR < MANY < TURN < CEILING
