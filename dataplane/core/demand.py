"""How much to borrow ahead of need, so that a request far from every cap awaits no ledger.

Each line remembers what was reserved since it was last topped up. A top-up asks for about a second of that demand and
sets a low-water mark at a fifth of it: an answer takes milliseconds, so the lease never runs dry on the way. An idle
line asks for nothing, and what it holds can be recalled. Near a cap the ledger grants less, or nothing: the line is
*dry* for a while, and every request asks for itself.
"""

AHEAD_NS = 1_000_000_000
LOW_SHARE = 5
"""The low-water mark is this part of what is asked for."""

MIN_REQUESTS = 4
"""At least so many of the last request's bound (G3 lends as much of its own accord)."""

MIN_SPAN_NS = 20_000_000
"""A burst shorter than this is not taken for a rate."""


class Demand:
    """One line's consumption. Below `low_water` it wants a top-up, but not before `dry_until_ns`."""

    __slots__ = ("dry_until_ns", "low_water", "since_ns", "taken")

    def __init__(self, bound: int, now_ns: int) -> None:
        self.taken = 0
        self.since_ns = now_ns
        self.low_water = 2 * bound
        self.dry_until_ns = 0

    def top_up(self, bound: int, now_ns: int) -> int:
        """What to ask for now, given the newest request's bound; begins a new span."""
        span_ns = max(MIN_SPAN_NS, now_ns - self.since_ns)
        amount = max(MIN_REQUESTS * bound, self.taken * AHEAD_NS // span_ns)
        self.taken = 0
        self.since_ns = now_ns
        self.low_water = max(2 * bound, amount // LOW_SHARE)
        return amount
