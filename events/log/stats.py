"""What a log's writer counts: integers that cost a message next to nothing, for metrics alone."""

from collections import Counter

from schemas.histogram import Histogram

APPEND_BOUNDS_US = (500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
"""One fsynced stream takes 0.5 to 4 ms; above the last figure requests are refused."""

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class AppendStats:
    """Shared by all writers of one process that write the same kind of log, one after the other."""

    __slots__ = ("append_us", "batch_events", "bytes", "retries")

    def __init__(self) -> None:
        self.append_us = Histogram(APPEND_BOUNDS_US)
        """From the first send of a message to its acknowledgement, in microseconds."""
        self.batch_events = Histogram(BATCH_BOUNDS)
        self.bytes = 0
        self.retries: Counter[str] = Counter()
        """Messages sent again, by why (`AppendUncertain.reason`)."""

    def stored(self, took_ns: int, events: int, size_bytes: int) -> None:
        """A message was acknowledged."""
        self.append_us.observe(took_ns // 1_000)
        self.batch_events.observe(events)
        self.bytes += size_bytes
