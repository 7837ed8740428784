"""How long barriers take: for metrics and alerts, and for nothing that decides."""

from schemas.histogram import Histogram

BOUNDS_US = (2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000)
"""Milliseconds with all nodes up, less than a second with a dead one."""


class BarrierTimes:
    """Times are of the elapsed clock, from when the change was recorded (or found open) to when it was complete."""

    def __init__(self) -> None:
        self.complete_us = Histogram(BOUNDS_US)
        self.overdue = 0
        """Whoever waited was told that it is still open."""
        self._since_ns: dict[int, int] = {}

    def begun(self, seq: int, now_ns: int) -> None:
        self._since_ns.setdefault(seq, now_ns)

    def ended(self, seq: int, now_ns: int) -> None:
        since_ns = self._since_ns.pop(seq, None)
        if since_ns is not None:
            self.complete_us.observe((now_ns - since_ns) // 1_000)

    def at_once(self) -> None:
        """Complete when it was first looked at."""
        self.complete_us.observe(0)

    def oldest_ns(self, now_ns: int) -> int:
        """Age of the oldest that is open; 0 if none is."""
        return now_ns - min(self._since_ns.values()) if self._since_ns else 0
