import math

from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.ratelimit import MAX_BUCKETS, MINUTE_NS, RateLimits, Take, TooFast, retry_after_s

GAPS_NS = st.lists(st.integers(0, 90 * 10**9), min_size=1, max_size=60)


@given(gaps=GAPS_NS, limit=st.integers(1, 100), nodes=st.integers(1, 8))
def test_never_more_than_the_share_and_one_bucket_over_any_time(gaps: list[int], limit: int, nodes: int) -> None:
    limits, now_ns, passed = RateLimits(), 0, 0
    for gap in gaps:
        now_ns += gap
        if not isinstance(limits.take([Take("k", limit, 1)], nodes, now_ns), TooFast):
            passed += 1
    share = limit / nodes
    assert passed <= max(1, share) + share * now_ns / MINUTE_NS + 1e-3


@given(gaps=GAPS_NS, limit=st.integers(1, 100), nodes=st.integers(1, 8))
def test_retry_after_is_true(gaps: list[int], limit: int, nodes: int) -> None:
    limits, now_ns = RateLimits(), 0
    for gap in gaps:
        now_ns += gap
        verdict = limits.take([Take("k", limit, 1)], nodes, now_ns)
        if isinstance(verdict, TooFast):
            wait_ns = round(retry_after_s(verdict) * 1e9)
            if wait_ns > 10**7:
                early = limits.take([Take("k", limit, 1)], nodes, now_ns + wait_ns - 10**7)
                assert isinstance(early, TooFast)
            assert isinstance(limits.take([Take("k", limit, 1)], nodes, now_ns + wait_ns), list)
            now_ns += wait_ns


@given(amounts=st.lists(st.tuples(st.integers(1, 500), st.integers(0, 700)), min_size=1, max_size=40))
def test_corrected_tokens_add_up_to_what_was_used(amounts: list[tuple[int, int]]) -> None:
    limits, used_total, now_ns = RateLimits(), 0, 0
    for bound, used in amounts:
        taken = limits.take([Take("k", 1000, bound)], 1, now_ns)
        if isinstance(taken, list):
            limits.correct("k", 1000, taken[0] - used, 1, now_ns)
            used_total += used
    left = limits.take([Take("k", 1000, 1000)], 1, now_ns)
    if used_total == 0:
        assert isinstance(left, list)
    else:
        assert isinstance(left, TooFast)
        assert math.isclose(left.retry_after_s, used_total * 60 / 1000, rel_tol=1e-6)


def test_all_buckets_or_none() -> None:
    limits = RateLimits()
    both = [Take("key", 2, 1), Take("agent", 1, 1)]
    assert isinstance(limits.take(both, 1, 0), list)
    refused = limits.take(both, 1, 0)
    assert isinstance(refused, TooFast)
    assert refused.bucket == "agent"
    assert isinstance(limits.take([Take("key", 2, 1)], 1, 0), list)


def test_a_bound_above_the_bucket_passes_when_it_is_full_and_its_excess_is_owed() -> None:
    limits = RateLimits()
    assert limits.take([Take("k", 1000, 128_000)], 1, 0) == [1000.0]
    assert isinstance(limits.take([Take("k", 1000, 1)], 1, 0), TooFast)
    limits.correct("k", 1000, 1000 - 1500, 1, 0)
    owed = limits.take([Take("k", 1000, 1)], 1, 0)
    assert isinstance(owed, TooFast)
    assert math.isclose(owed.retry_after_s, 501 * 60 / 1000)


def test_the_table_of_buckets_is_bounded() -> None:
    limits = RateLimits()
    for number in range(MAX_BUCKETS + 10):
        limits.take([Take(f"k{number}", 10, 1)], 1, number)
    assert len(limits._buckets) <= MAX_BUCKETS
