"""Rate limits: one token bucket per limit, all or none of them taken.

A limit of L a minute is shared among the live nodes: each node's buckets hold L / nodes and fill at that rate a
minute (at least one unit fits, or a small limit on many nodes would admit nothing at all). Requests take one unit;
tokens are taken by the bound, and `correct` gives back what was not used once the answer is known. A bound above the
whole bucket passes when the bucket is full and empties it, since bounds on tokens are far above what is used; if more
was used the correction leaves a debt, so over any longer time the rate holds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

MINUTE_NS = 60 * 1_000_000_000

MAX_BUCKETS = 50_000
"""Buckets kept per node (150 bytes each). Above it the full ones go: a full bucket and a new one are the same."""


class Take(NamedTuple):
    """`amount` units wanted of the limit `bucket`, which allows `per_minute` over all nodes; `tokens` or requests."""

    bucket: str
    per_minute: int
    amount: int
    tokens: bool = False


class TooFast(NamedTuple):
    """The limit that is in the way, and the time until the same request fits (true, not a guess)."""

    bucket: str
    per_minute: int
    retry_after_s: float


class _Bucket:
    __slots__ = ("at_ns", "level")

    def __init__(self, level: float, at_ns: int) -> None:
        self.level = level
        self.at_ns = at_ns


class RateLimits:
    """The buckets of one node. Times are elapsed nanoseconds of one clock."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def take(self, takes: Sequence[Take], nodes: int, now_ns: int) -> list[float] | TooFast:
        """Take from all buckets and say how much from each; or from none, and say which is short for longest."""
        worst: TooFast | None = None
        filled = []
        taken = []
        for take in takes:
            share = take.per_minute / nodes
            bucket = self._fill(take.bucket, share, now_ns)
            wanted = min(float(take.amount), _capacity(share))
            filled.append(bucket)
            taken.append(wanted)
            missing = wanted - bucket.level
            # Levels are sums of floats: what is missing below a millionth of a unit is rounding.
            if missing > 1e-6:
                wait_s = missing * 60 / share
                if worst is None or wait_s > worst.retry_after_s:
                    worst = TooFast(take.bucket, take.per_minute, wait_s)
        if worst is not None:
            return worst
        # Nothing is in the way any more: take from all.
        for wanted, bucket in zip(taken, filled, strict=True):
            bucket.level -= wanted
        return taken

    def correct(self, bucket_name: str, per_minute: int, unused: float, nodes: int, now_ns: int) -> None:
        """Give back `unused` units of what `take` took (below zero: that much more was used)."""
        share = per_minute / nodes
        bucket = self._fill(bucket_name, share, now_ns)
        bucket.level = min(_capacity(share), bucket.level + unused)

    def _fill(self, name: str, share: float, now_ns: int) -> _Bucket:
        capacity = _capacity(share)
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._drop_idle(now_ns)
            bucket = self._buckets[name] = _Bucket(capacity, now_ns)
            return bucket
        gained = max(0, now_ns - bucket.at_ns) * share / MINUTE_NS
        bucket.level = min(capacity, bucket.level + gained)
        bucket.at_ns = max(bucket.at_ns, now_ns)
        return bucket

    def _drop_idle(self, now_ns: int) -> None:
        """Drop buckets without debt untouched for two minutes, which are full again; else the oldest half."""
        long_ago_ns = now_ns - 2 * MINUTE_NS
        idle = [name for name, bucket in self._buckets.items() if bucket.at_ns < long_ago_ns and bucket.level >= 0]
        if not idle:
            by_age = sorted(self._buckets, key=lambda name: self._buckets[name].at_ns)
            idle = by_age[: MAX_BUCKETS // 2]
        for name in idle:
            del self._buckets[name]


def retry_after_s(too_fast: TooFast) -> float:
    """The wait rounded up to milliseconds, so that whoever obeys it is let in."""
    return math.ceil(too_fast.retry_after_s * 1000) / 1000


def _capacity(share: float) -> float:
    return max(1.0, share)
