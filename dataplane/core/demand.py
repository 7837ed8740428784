"""How much to borrow ahead of need, so that a request far from every cap awaits no ledger.

Each line remembers what was reserved since it was last topped up. At first a top-up asks for about a second of that
demand; the longer the line has been busy the more, up to eight seconds, and it asks again when six are left. So while
no control plane answers, as in a failover, a busy line goes on for at least five seconds; and a burst on a line that
was idle borrows no more than a second of itself. An idle line asks for nothing, and what it holds can be recalled.
Near a cap the ledger grants less, or nothing: the line is *dry* for a while, and every request asks for itself.
"""

from typing import Final

FIRST_NS: Final = 1_000_000_000
"""What a line that has just become busy borrows ahead: a burst is not taken for a habit."""

AHEAD_NS: Final = 8_000_000_000
"""What a line that has been busy for so long borrows ahead."""

REFILL_NS: Final = 2_000_000_000
REFILL_SHARE: Final = 0.8
"""It is filled up when so much of that is used, or this part of it, whichever is less: an answer takes milliseconds."""

IDLE_NS: Final = 5_000_000_000
"""A line that needed nothing for so long is busy anew, from the beginning."""

MIN_REQUESTS: Final = 4
"""At least so many of the last request's bound (G3 lends as much of its own accord)."""

MIN_SPAN_NS: Final = 20_000_000
"""A burst shorter than this is not taken for a rate."""


class Demand:
    """One line's consumption. Below `low_water` it wants a top-up, but not before `dry_until_ns`."""

    __slots__ = ("busy_since_ns", "dry_until_ns", "low_water", "since_ns", "taken")

    def __init__(self, bound: int, now_ns: int) -> None:
        self.taken = 0
        self.since_ns = now_ns
        self.busy_since_ns = now_ns
        self.low_water = 2 * bound
        self.dry_until_ns = 0

    def top_up(self, bound: int, free: int, now_ns: int) -> int:
        """What to ask for now, given the newest request's bound and what is free; begins a new span."""
        span_ns = max(MIN_SPAN_NS, now_ns - self.since_ns)
        if now_ns - self.since_ns > IDLE_NS:
            self.busy_since_ns = now_ns
        ahead_ns = min(AHEAD_NS, max(FIRST_NS, now_ns - self.busy_since_ns))
        wanted = self.taken * ahead_ns // span_ns
        refill = min(int(wanted * REFILL_SHARE), self.taken * REFILL_NS // span_ns)
        self.taken = 0
        self.since_ns = now_ns
        self.low_water = max(2 * bound, wanted - refill)
        return max(MIN_REQUESTS * bound, wanted - max(0, free))
