"""The control plane's wall clock, as a node knows it.

Expiry and windows follow the control plane's time, which the feed carries. A message shows the time at which it was
sent, so the estimate is late by its delay: of recent messages the one that was fastest is the best. Safety never
rests on this; the ledger decides windows by its own clock, and revocation needs no clock at all.
"""

from typing import Final

WINDOW_NS: Final = 10 * 1_000_000_000
"""How long a fast message stays the best: two clocks drift apart by far less than a millisecond in this time."""

STEP_NS: Final = 1_000_000_000
"""A time further back than any usual delay: the control plane's clock was set back, or another one leads."""


BACK_NS: Final = 120 * 1_000_000_000
"""A leader is behind the one before by a minute at most (controlplane.control_clock): the node's time stands still
until it has come up, so that nothing that has expired here comes to life again. What is further back is followed, for
no window that is to come can be borrowed from.
"""


class ControlTime:
    """The estimate: `offset_ns` is the control plane's time less the node's own steady clock; None before anything
    was heard. Times below `floor_ns` were told before, and are over.
    """

    __slots__ = ("_best_at_ns", "floor_ns", "offset_ns")

    def __init__(self) -> None:
        self.offset_ns: int | None = None
        self.floor_ns = 0
        self._best_at_ns = 0

    def now_ns(self, elapsed_ns: int) -> int:
        """The control plane's time; 0 before anything was heard."""
        if self.offset_ns is None:
            return 0
        now_ns = self.offset_ns + elapsed_ns
        return max(now_ns, self.floor_ns)

    def observe(self, wall_ns: int, elapsed_ns: int) -> None:
        """A message sent at the control plane's `wall_ns` has arrived at `elapsed_ns`."""
        offset_ns = wall_ns - elapsed_ns
        best_ns = self.offset_ns
        stale = elapsed_ns - self._best_at_ns > WINDOW_NS
        if best_ns is None or offset_ns >= best_ns or stale or best_ns - offset_ns > STEP_NS:
            if best_ns is not None and offset_ns < best_ns:
                told_ns = self.now_ns(elapsed_ns)
                self.floor_ns = told_ns if told_ns - wall_ns <= BACK_NS else 0
            self.offset_ns = offset_ns
            self._best_at_ns = elapsed_ns
