"""The two clocks of a process, passed in wherever time is needed, so that a simulation can bring its own."""

from typing import Protocol


class Clock(Protocol):
    """Nobody compares the two: one may be set back by hand, the other means nothing outside this machine."""

    def wall_ns(self) -> int:
        """UTC nanoseconds, for readers of events. No rule of safety reads it."""

    def elapsed_ns(self) -> int:
        """Nanoseconds that only go forward and go on while the machine sleeps (`CLOCK_BOOTTIME`)."""
