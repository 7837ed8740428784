"""A histogram of plain integers: what may stand on a hot path and is read when somebody asks for metrics."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """`bounds`: upper bounds of the buckets, inclusive, ascending; a last one without a bound is added.

    Values and bounds are integers of one unit, which the owner chooses.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self, unit: int = 1) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them; bounds are divided by `unit`."""
        cumulative, found = 0, []
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            cumulative += count
            found.append(("+Inf" if bound is None else f"{bound / unit:g}", float(cumulative)))
        return found
