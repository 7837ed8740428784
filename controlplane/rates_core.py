"""Who may use how much of each rate limit: a table of what nodes hold, and how it is divided. Pure.

For each limit in use the sum of what nodes hold is at most the limit. What a node holds is what it said last, or what
it was told since, whichever is more; it may use so much in any minute. So what is called back counts until the node
has said that it is free of it, and what a node held that is gone counts for a minute more.

| the node is | what counts as held |
|---|---|
| heard | what it said or was told |
| drained | what it had used, as it becomes a minute old |
| gone | all of it, for a minute |
| silent for SILENT_NS | at most an even part: by then it holds no more (dataplane.rates) |
| not heard yet by this leader | for a moment nothing is granted; then an even part of every limit |

Far from its limit everybody gets what is asked for, and ahead of it. Once an ask could not be met the limit is
*contended*: each node's target is its part of the demand, and who holds more is called back.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from schemas.rpc import RATE_SPAN_S, RatesAnswer, RatesAsk, RateShare, RateUse

NANOS = 1_000_000_000

COOL_NS = 61 * NANOS
"""A minute, and more than a slot of the node's count."""

SILENT_NS = 15 * NANOS + COOL_NS
"""The node's time to live of its shares, what it takes to notice, and a minute for what it had used until then."""

UNKNOWN_NS = NANOS
"""A node that lives tells a new leader what it holds within a feed's heartbeat."""

CONTENDED_NS = 2 * NANOS
DEMAND_NS = 1 * NANOS
"""Demand is an exponential mean over such a time: short enough to follow it, long enough not to swing."""

AHEAD_S = 6.0
"""Far from a limit a node's share holds so much of its demand beyond what it has used. Reports come every second, so a
leader may be away for five, as in a takeover, and nobody is refused for lack of a share.
"""

MAX_BUCKETS = 500_000
"""Limits in use within a minute, in the whole cluster: some 200 MB."""


class Holding:
    """One node's part of one limit. `demand`: units a minute, at `demand_ns`."""

    __slots__ = ("ages", "demand", "demand_ns", "frees_ns", "held", "used")

    def __init__(self) -> None:
        self.held = 0
        self.used = 0
        self.demand = 0.0
        self.demand_ns = 0
        self.frees_ns = 0
        self.ages: tuple[int, ...] = ()

    def demand_at(self, now_ns: int) -> float:
        return self.demand * math.exp((self.demand_ns - now_ns) / DEMAND_NS)


class Holder:
    """One node's process. `known`: it has told this leader everything that it holds."""

    __slots__ = ("gone_ns", "incarnation", "known", "n", "nodes", "told_ns")

    def __init__(self) -> None:
        self.incarnation = ""
        self.n = 0
        self.known = False
        self.told_ns = 0
        self.gone_ns = 0
        self.nodes = 1


class Division(NamedTuple):
    """One limit at one instant. `free`: what nobody holds; `available`: what the living divide among them."""

    limit: int
    free: int
    available: int
    demand: float
    all_known: bool


class RatesCore:
    """One leader's table. `limit_of(bucket)` is the limit a minute by the folded policy, 0 for none."""

    def __init__(self, epoch: int, limit_of: Callable[[str], int]) -> None:
        self._epoch = epoch
        self._limit_of = limit_of
        self._holders: dict[str, Holder] = {}
        self._buckets: dict[str, dict[str, Holding]] = {}
        self._contended: dict[str, int] = {}
        self._swept_ns = 0
        self._unknown = 0
        self._unknown_ns = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def gone(self, incarnation: str, now_ns: int) -> None:
        """The incarnation is fenced: it takes nothing any more, unless its process goes on as another one."""
        for holder in self._holders.values():
            if holder.incarnation == incarnation:
                holder.gone_ns = now_ns

    def report(self, slot: str, ask: RatesAsk, living: Collection[str], now_ns: int) -> RatesAnswer:
        """Take what a node tells, and answer what it may hold. Raises ValueError for an ask out of all bounds."""
        self._sweep(now_ns)
        name = f"{slot}:{ask.holder}"
        holder = self._holders.get(name)
        if holder is None:
            holder = self._holders[name] = Holder()
        if ask.n <= holder.n or not (ask.begin or holder.known or holder.n == ask.n - 1 > 0):
            return RatesAnswer(self._epoch, max(1, len(living)), resync=True)
        if ask.begin:
            self._forget(name)
            holder.known = False
        holder.n, holder.told_ns, holder.gone_ns = ask.n, now_ns, 0
        holder.incarnation, holder.nodes = ask.incarnation, max(1, len(living))
        holder.known = holder.known or ask.end
        self._count_unknown(living, now_ns)
        for bucket, use in ask.uses.items():
            self._note(name, bucket, use, now_ns)
        shares: dict[str, RateShare] = {}
        if holder.known:
            for bucket, use in ask.uses.items():
                self._answer(name, bucket, use, living, now_ns, shares)
            self._call(name, ask.uses, living, now_ns, shares)
        return RatesAnswer(self._epoch, holder.nodes, shares)

    # ------------------------------------------------------------ the table

    def _note(self, name: str, bucket: str, use: RateUse, now_ns: int) -> None:
        if not (use.held or use.wanted or use.short):
            self._remove(name, bucket)
            return
        holders = self._buckets.get(bucket)
        if holders is None:
            if len(self._buckets) >= MAX_BUCKETS:
                raise ValueError("too many limits at once")
            holders = self._buckets[bucket] = {}
        holding = holders.get(name)
        if holding is None:
            holding = holders[name] = Holding()
        holding.demand = holding.demand_at(now_ns) + use.wanted * 60 * NANOS / DEMAND_NS
        holding.demand_ns = now_ns
        holding.held, holding.used, holding.ages = use.held, use.used, use.ages
        holding.frees_ns = now_ns + use.frees_ms * 1_000_000

    def _remove(self, name: str, bucket: str) -> None:
        holders = self._buckets.get(bucket, {})
        holders.pop(name, None)
        if not holders:
            self._buckets.pop(bucket, None)
            self._contended.pop(bucket, None)

    def _forget(self, name: str) -> None:
        for bucket in [bucket for bucket, holders in self._buckets.items() if name in holders]:
            self._remove(name, bucket)

    def _sweep(self, now_ns: int) -> None:
        """Once a second: forget who has been gone for a minute."""
        if now_ns - self._swept_ns < NANOS:
            return
        self._swept_ns = now_ns
        for name, holder in tuple(self._holders.items()):
            if holder.gone_ns and now_ns - holder.gone_ns > COOL_NS:
                self._forget(name)
                del self._holders[name]
        for bucket, until_ns in tuple(self._contended.items()):
            if until_ns < now_ns:
                del self._contended[bucket]

    def _counts(self, name: str, holding: Holding, limit: int, now_ns: int) -> int:
        """What must be reckoned with (the table above)."""
        holder = self._holders[name]
        if holding.ages:
            left = sum(
                units
                for span, units in enumerate(holding.ages)
                if now_ns < holder.told_ns + COOL_NS - span * RATE_SPAN_S * NANOS
            )
            return left + max(0, holding.held - sum(holding.ages))
        if now_ns - holder.told_ns > SILENT_NS:
            return min(holding.held, max(1, limit // holder.nodes))
        return holding.held

    def _count_unknown(self, living: Collection[str], now_ns: int) -> None:
        known = {holder.incarnation for holder in self._holders.values() if holder.known and not holder.gone_ns}
        unknown = sum(1 for incarnation in living if incarnation not in known)
        if unknown and not self._unknown:
            self._unknown_ns = now_ns
        self._unknown = unknown

    # ------------------------------------------------------------ dividing

    def _divide(self, bucket: str, living: Collection[str], now_ns: int) -> Division:
        limit = self._limit_of(bucket)
        held = dead = 0
        demand = 0.0
        for name, holding in self._buckets.get(bucket, {}).items():
            counts = self._counts(name, holding, limit, now_ns)
            held += counts
            if self._holders[name].gone_ns or holding.ages:
                dead += counts
            else:
                demand += holding.demand_at(now_ns)
        ceiling = limit * (len(living) - self._unknown) // max(1, len(living))
        wait = self._unknown and now_ns - self._unknown_ns < UNKNOWN_NS
        free = 0 if wait else max(0, ceiling - held)
        return Division(limit, free, max(0, ceiling - dead), demand, not self._unknown)

    def _target(self, holding: Holding, division: Division, now_ns: int) -> int:
        """A node's part of a contended limit: by its part of the demand."""
        demand = holding.demand_at(now_ns)
        if division.demand <= 0 or demand < 1e-6:
            return 0
        return max(1, int(division.available * demand / division.demand))

    def _answer(
        self,
        name: str,
        bucket: str,
        use: RateUse,
        living: Collection[str],
        now_ns: int,
        shares: dict[str, RateShare],
    ) -> None:
        holding = self._buckets.get(bucket, {}).get(name)
        if holding is None or use.ages:
            return
        division = self._divide(bucket, living, now_ns)
        contended = now_ns < self._contended.get(bucket, 0)
        if contended and division.demand > division.limit:
            self._contended[bucket] = now_ns + CONTENDED_NS
        target = self._target(holding, division, now_ns)
        lacks = max(0, use.used + use.short - use.held) if use.short else 0
        ahead = division.free // (2 * len(living)) if len(living) > 1 else division.free
        grant = 0
        if not contended and use.used + holding.demand_at(now_ns) * AHEAD_S / 60 > use.held:
            grant = ahead
        if lacks:
            grant = min(division.free, max(lacks, ahead))
            if contended:
                grant = min(grant, max(0, target - use.held))
            if grant < lacks and division.all_known:
                self._contended[bucket] = now_ns + CONTENDED_NS
                contended = True
        units = min(use.held + grant, division.limit)
        if contended and use.held > target:
            units = target
        holding.held = max(use.held, units)
        if lacks or units != use.held or contended:
            coming = grant < lacks and (not division.all_known or self._may_come(name, bucket, division, now_ns))
            shares[bucket] = RateShare(
                units, target if contended else 0, coming, self._frees_ms(name, bucket, now_ns) if lacks else 0
            )

    def _call(
        self,
        name: str,
        told: Collection[str],
        living: Collection[str],
        now_ns: int,
        shares: dict[str, RateShare],
    ) -> None:
        """What the node holds of contended limits and did not mention."""
        for bucket, until_ns in self._contended.items():
            holding = self._buckets.get(bucket, {}).get(name)
            if holding is None or bucket in told or now_ns >= until_ns or holding.ages:
                continue
            target = self._target(holding, self._divide(bucket, living, now_ns), now_ns)
            if holding.held > target:
                shares[bucket] = RateShare(target, target)

    def _may_come(self, name: str, bucket: str, division: Division, now_ns: int) -> bool:
        """Whether somebody else holds more than its target and had not used it when it reported."""
        for other, holding in self._buckets[bucket].items():
            holder = self._holders[other]
            if other == name or holder.gone_ns or holding.ages:
                continue
            if holding.held > max(self._target(holding, division, now_ns), holding.used):
                return True
        return False

    def _frees_ms(self, name: str, bucket: str, now_ns: int) -> int:
        """When the first unit that another node has used comes back; 0: not known."""
        times = [
            holding.frees_ns - now_ns
            for other, holding in self._buckets[bucket].items()
            if other != name and holding.frees_ns > now_ns
        ]
        return max(1, min(times) // 1_000_000) if times else 0
