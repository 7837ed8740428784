"""This machine's clocks (events.clock.Clock)."""

import time

# Darwin has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on while the machine sleeps, which is what matters.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Reads the system's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def elapsed_ns(self) -> int:
        return time.clock_gettime_ns(_ELAPSED)
