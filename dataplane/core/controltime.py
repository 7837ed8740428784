"""The control plane's wall clock, as a node knows it.

Expiry and windows follow the control plane's time, which the feed carries. A message shows the time at which it was
sent, so the estimate is late by its delay: of recent messages the one that was fastest is the best. Safety never
rests on this; the ledger decides windows by its own clock, and revocation needs no clock at all.
"""

WINDOW_NS = 10 * 1_000_000_000
"""How long a fast message stays the best: two clocks drift apart by far less than a millisecond in this time."""

STEP_NS = 1_000_000_000
"""A time further back than any usual delay: the control plane's clock was set back, or another one leads."""


class ControlTime:
    """The estimate: `offset_ns` is the control plane's time less the node's own steady clock; None before anything
    was heard.
    """

    __slots__ = ("_best_at_ns", "offset_ns")

    def __init__(self) -> None:
        self.offset_ns: int | None = None
        self._best_at_ns = 0

    def observe(self, wall_ns: int, elapsed_ns: int) -> None:
        """A message sent at the control plane's `wall_ns` has arrived at `elapsed_ns`."""
        offset_ns = wall_ns - elapsed_ns
        best_ns = self.offset_ns
        stale = elapsed_ns - self._best_at_ns > WINDOW_NS
        if best_ns is None or offset_ns >= best_ns or stale or best_ns - offset_ns > STEP_NS:
            self.offset_ns = offset_ns
            self._best_at_ns = elapsed_ns
