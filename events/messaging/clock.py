"""The clocks of a real process."""

import time


class SystemClock:
    """See `events.clock.Clock`."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def elapsed_ns(self) -> int:
        """Counts the time that the machine sleeps, where the system can tell (Linux); else, what it was awake."""
        return time.clock_gettime_ns(_ELAPSED)


_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
