"""The leader's clock: its machine's, but never behind the time that the log has seen.

Windows and expiry follow this time (it travels with the feed), so it must not go back: an hour that was closed would be
open again, and its cap with it; a key that had expired would work again. Machines' clocks do go back: they are set, and
a standby's may be behind the leader's that it follows. So a leadership begins no earlier than the newest event of the
control log, and a clock that is set back is not followed back: time goes on at half its pace until the clock has come
up to it. A clock that is set forward is believed, since standing still is no better guess.
"""

from events.clock import Clock

MARK_NS = 60 * 1_000_000_000
"""An idle leader puts a mark into the log this often: a standby's clock may then be behind by so much and no more."""


class ControlClock:
    """See the module's text. `floor_ns`: the newest time in the log."""

    def __init__(self, clock: Clock, floor_ns: int) -> None:
        self._clock = clock
        self._newest_ns = floor_ns
        self._at_ns = clock.elapsed_ns()

    def elapsed_ns(self) -> int:
        return self._clock.elapsed_ns()

    def wall_ns(self) -> int:
        elapsed_ns = self._clock.elapsed_ns()
        slow_ns = self._newest_ns + (elapsed_ns - self._at_ns) // 2
        self._newest_ns = max(self._clock.wall_ns(), slow_ns)
        self._at_ns = elapsed_ns
        return self._newest_ns
