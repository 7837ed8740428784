"""One node's windows: never more than the share in any minute, and a wait that is true."""

from collections import deque
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.ratelimit import (
    MAX_WINDOWS,
    MINUTE_NS,
    SLOT_NS,
    RateLimits,
    Take,
    TooFast,
    retry_after_s,
)

GAPS_NS = st.lists(st.integers(0, 40 * 10**9), min_size=1, max_size=80)


def held(limits: RateLimits, bucket: str, per_minute: int, share: int, now_ns: int = 0) -> None:
    """Open the limit with a share."""
    limits.take([Take(bucket, per_minute, per_minute + 1)], now_ns)
    window = limits.window(bucket)
    assert window is not None
    window.share = window.target = share
    window.wanted = window.short = 0
    assert not window.slots


@given(gaps=GAPS_NS, limit=st.integers(1, 60), part=st.integers(1, 4))
def test_never_more_than_the_share_in_any_minute(gaps: list[int], limit: int, part: int) -> None:
    share = max(1, limit // part)
    limits, now_ns = RateLimits(), 0
    held(limits, "k", limit, share)
    passed: deque[int] = deque()
    for gap in gaps:
        now_ns += gap
        while not isinstance(limits.take([Take("k", limit, 1)], now_ns), TooFast):
            passed.append(now_ns)
        while passed and passed[0] <= now_ns - MINUTE_NS:
            passed.popleft()
        assert len(passed) <= share


@given(gaps=GAPS_NS, limit=st.integers(1, 60))
def test_retry_after_is_true(gaps: list[int], limit: int) -> None:
    limits, now_ns = RateLimits(), 0
    held(limits, "k", limit, limit)
    for gap in gaps:
        now_ns += gap
        verdict = limits.take([Take("k", limit, 1)], now_ns)
        if isinstance(verdict, TooFast):
            wait_ns = round(retry_after_s(verdict) * 1e9)
            assert isinstance(limits.take([Take("k", limit, 1)], now_ns + wait_ns - 10**7), TooFast)
            assert isinstance(limits.take([Take("k", limit, 1)], now_ns + wait_ns), list)
            now_ns += wait_ns


@given(amounts=st.lists(st.tuples(st.integers(1, 900), st.integers(0, 1200)), min_size=1, max_size=40))
def test_corrected_tokens_add_up_to_what_was_used(amounts: list[tuple[int, int]]) -> None:
    limits, used = RateLimits(), 0
    held(limits, "k", 1000, 1000)
    for number, (bound, actual) in enumerate(amounts):
        now_ns = number * SLOT_NS // 2
        taken = limits.take([Take("k", 1000, bound, tokens=True)], now_ns)
        if isinstance(taken, list):
            limits.correct("k", taken[0], actual, now_ns + SLOT_NS)
            used += actual
        window = limits.window("k")
        assert window is not None
        assert window.used == used == sum(units for _, units in window.slots)


def test_all_of_the_limit_passes_again_and_again_at_an_even_pace() -> None:
    limits = RateLimits()
    held(limits, "k", 100, 100)
    passed = []
    for tick in range(3_000):  # ten requests a second, for five minutes
        now_ns = tick * 10**8
        if isinstance(limits.take([Take("k", 100, 1)], now_ns), list):
            passed.append(now_ns)
    for begin in range(120, 240, 7):
        within = [at_ns for at_ns in passed if begin * 10**9 <= at_ns < (begin + 60) * 10**9]
        assert 95 <= len(within) <= 100
    # The first minute's burst of ten seconds has become a steady flow.
    gaps = [after - before for before, after in pairwise(at_ns for at_ns in passed if at_ns > 180 * 10**9)]
    assert max(gaps) < 25 * 10**9


def test_a_small_limit_may_be_used_at_once_every_minute() -> None:
    limits = RateLimits()
    held(limits, "k", 5, 5)
    for minute in range(4):
        now_ns = minute * (MINUTE_NS + SLOT_NS)
        verdicts = [limits.take([Take("k", 5, 1)], now_ns) for _ in range(6)]
        assert [isinstance(verdict, list) for verdict in verdicts] == [True] * 5 + [False]


def test_all_limits_or_none() -> None:
    limits = RateLimits()
    held(limits, "key", 2, 2)
    held(limits, "agent", 1, 1)
    both = [Take("key", 2, 1), Take("agent", 1, 1)]
    assert isinstance(limits.take(both, 0), list)
    refused = limits.take(both, 0)
    assert isinstance(refused, TooFast)
    assert refused.bucket == "agent"
    assert isinstance(limits.take([Take("key", 2, 1)], 0), list)


def test_a_large_bound_passes_when_a_quarter_is_free_and_what_it_used_is_owed() -> None:
    limits = RateLimits()
    held(limits, "k", 1000, 1000)
    assert limits.take([Take("k", 1000, 700, tokens=True)], 0) == [(700, 0)]
    taken = limits.take([Take("k", 1000, 128_000, tokens=True)], 0)
    assert taken == [(300, 0)]
    assert isinstance(limits.take([Take("k", 1000, 1, tokens=True)], 0), TooFast)
    limits.correct("k", (300, 0), 900, SLOT_NS)
    window = limits.window("k")
    assert window is not None
    assert window.used == 1600
    # The owed part is of the moment in which it became known.
    owed = limits.take([Take("k", 1000, 1, tokens=True)], MINUTE_NS + SLOT_NS)
    assert isinstance(owed, list)


def test_a_share_that_is_called_back_falls_with_what_was_used() -> None:
    limits = RateLimits()
    held(limits, "k", 10, 10)
    for second in range(5):
        limits.take([Take("k", 10, 1)], second * 10**9)
    window = limits.window("k")
    assert window is not None
    window.target = 2
    now_ns = 5 * 10**9
    assert isinstance(limits.take([Take("k", 10, 1)], now_ns), TooFast)
    assert window.share == 5
    limits.take([Take("k", 10, 1)], MINUTE_NS + int(2.6e9))
    assert window.share == window.used == 2


def test_the_table_is_bounded() -> None:
    limits = RateLimits()
    for number in range(MAX_WINDOWS + 10):
        limits.take([Take(f"k{number}", 10, 1)], number * 1000)
    assert len(limits) <= MAX_WINDOWS
