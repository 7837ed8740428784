"""The limit on what may wait for the log, in virtual time: a log that is asked for too much, a slow one, a dead one."""

import random

import pytest

from dataplane.core.backlog import (
    CEILING,
    FLOOR,
    MS,
    OUTAGE_NS,
    SLOW_US,
    STANDING_NS,
    WINDOW_NS,
    Backlog,
)

S = 1_000 * MS


class Log:
    """Appends in virtual time: one at a time, with all that waits, in `base_us` and `event_us` more for each event."""

    def __init__(self, base_us: float, event_us: float) -> None:
        self.base_us, self.event_us = base_us, event_us
        self.backlog = Backlog()
        self.now_ns = 1
        self.waiting = self.appends = self.events = self.took_us = 0
        self.refused: list[str] = []
        self.admitted: list[str] = []
        self.batches: list[int] = []
        self._rng = random.Random(1)

    def run(self, rates: dict[str, float], seconds: float) -> None:
        """Offer requests of one event each, so many a second for each flow."""
        end_ns = self.now_ns + int(seconds * S)
        self.batches.clear()
        self.refused.clear()
        self.admitted.clear()
        while self.now_ns < end_ns:
            batch, self.waiting = self.waiting, 0
            began_ns, took_us = self.now_ns, self.base_us + self.event_us * batch
            arrivals = [
                (began_ns + self._rng.random() * took_us * 1_000, flow)
                for flow, rate in rates.items()
                for _ in range(self._count(rate * took_us / 1e6))
            ]
            for at_ns, flow in sorted(arrivals):
                self.now_ns = int(at_ns)
                self._arrive(flow, self.now_ns - began_ns)
            self.now_ns = began_ns + int(took_us * 1_000)
            self.appends, self.events, self.took_us = self.appends + 1, self.events + batch, self.took_us + int(took_us)
            self.batches.append(batch)

    def _arrive(self, flow: str, stalled_ns: int) -> None:
        if self.now_ns >= self.backlog.look_at_ns:
            self.backlog.look(self.now_ns, self.appends, self.events, self.took_us, stalled_ns)
        if self.backlog.limit == CEILING or self.backlog.admits(flow, self.waiting, self.now_ns):
            self.waiting += 1
            self.admitted.append(flow)
        else:
            self.refused.append(flow)

    def _count(self, mean: float) -> int:
        return int(mean) + (self._rng.random() < mean % 1)


@pytest.mark.parametrize(("base_us", "event_us"), [(400, 100), (2_300, 60), (8_000, 50)])
def test_a_log_that_is_asked_for_too_much_is_given_as_much_as_it_takes(base_us: float, event_us: float) -> None:
    log = Log(base_us, event_us)
    capacity = 1e6 / event_us
    log.run({"a": capacity / 4}, 2.0)
    assert not log.refused
    log.run({"a": 2 * capacity}, 30.0)
    log.run({"a": 2 * capacity}, 5.0)
    assert log.refused
    fits = max(FLOOR, (max(SLOW_US, 3 * base_us * 1.5) - base_us) / event_us)
    assert max(log.batches) <= 2 * fits
    # The log is kept busy: what is refused is what it could not have taken.
    assert len(log.admitted) > 0.6 * 5 * capacity


@pytest.mark.parametrize(("base_us", "rate"), [(400, 5_000), (20_000, 5_000), (60_000, 1_500)])
def test_a_slow_log_is_no_overloaded_log(base_us: float, rate: float) -> None:
    log = Log(base_us, 20)
    log.run({"a": rate}, 10.0)
    assert not log.refused
    assert log.backlog.limit == CEILING


def test_it_recovers_within_a_second_or_so() -> None:
    log = Log(400, 100)
    log.run({"a": 2_000}, 1.0)
    log.run({"a": 30_000}, 3.0)
    assert log.refused
    log.run({"a": 2_000}, 1.0)
    assert not log.refused
    assert log.backlog.limit == CEILING


def test_a_burst_passes_whole() -> None:
    log = Log(400, 50)
    log.run({"a": 1_000}, 1.0)
    log.run({"a": 50_000}, STANDING_NS / S / 2)
    log.run({"a": 1_000}, 1.0)
    assert not log.refused


@pytest.mark.parametrize("runaway", [20_000.0, 60_000.0])
def test_a_runaway_keeps_nobody_from_the_log(runaway: float) -> None:
    log = Log(400, 100)
    log.run({"bot": 200, "runaway": 1_000}, 1.0)
    log.run({"bot": runaway / 50, "runaway": runaway}, 5.0)
    assert log.refused
    # The first of a stretch of time cannot be told from the runaway's.
    assert log.refused.count("bot") <= 0.1 * (log.refused.count("bot") + log.admitted.count("bot"))


def test_an_outage_is_not_refused_as_an_overload() -> None:
    backlog = Backlog()
    appends = took_us = 0
    for n in range(40):
        appends, took_us = appends + 1, took_us + (500 if n < 10 else 30_000)
        backlog.look(n * WINDOW_NS, appends, appends * 300, took_us, 0)
    assert backlog.limit < CEILING
    backlog.look(1 * S, appends, appends * 300, took_us, OUTAGE_NS + 1)
    assert backlog.limit == CEILING
