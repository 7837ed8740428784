"""This machine's clocks (events.clock.Clock)."""

import time
from functools import partial

# Darwin has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on while the machine sleeps, which is what matters.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Reads the system's clocks. Callables of C rather than methods: a request reads them a dozen times."""

    def __init__(self) -> None:
        self.wall_ns = time.time_ns
        self.elapsed_ns = partial(time.clock_gettime_ns, _ELAPSED)
