"""The other queue: intents that wait for the log. It is short by itself, until the log is asked for more than it takes.

A node has one append in flight, and all that waits meanwhile goes with the next. So nothing waits for more than two
appends; but a log that is asked for too much takes longer, more wait for the next append, and that one takes longer
still. The node itself is not busy then, its door has no queue, and yet everybody waits.

| the log | the limit on what may wait for it |
|---|---|
| for 50 ms appends took over 8 ms, and over three times the best of late | shrinks by a quarter each 10 ms, to 128 |
| does better | grows by an eighth, until there is none |
| acknowledges nothing for 300 ms | none: that is no load but an outage, and is refused as what it is |

It shrinks from what an append truly carried, and soon: each append carries twice what the one before did. A log that is
merely slow (far away, on slow disks) is not overloaded: it is measured against its own best of the last 10 to 20 s
without a limit (with one, the best would grow with the load). Fewer than 128 events are no load for any log.

Over the limit only those are let in, up to twice of it, from whom less than the mean of all agents has come of late: a
runaway does not keep another from the log.
"""

from typing import Final

MS: Final = 1_000_000

SLOW_US: Final = 8_000
TIMES_BEST: Final = 3
WINDOW_NS: Final = 10 * MS
STANDING_NS: Final = 50 * MS
OUTAGE_NS: Final = 300 * MS
BEST_OF_NS: Final = 10_000 * MS
COUNTED_NS: Final = 100 * MS

FLOOR: Final = 128
CEILING: Final = 4_096
"""No limit: the writer's own bound on its queue is the next one."""


class Backlog:
    """The limit on events that wait for the log. Times are elapsed nanoseconds."""

    __slots__ = (
        "_appends",
        "_best_until_ns",
        "_best_us",
        "_came",
        "_counted_until_ns",
        "_events",
        "_former_best_us",
        "_over_since_ns",
        "_took_us",
        "limit",
        "look_at_ns",
    )

    def __init__(self) -> None:
        self.limit = CEILING
        self.look_at_ns = 0
        """When `look` is due."""
        self._appends = self._events = self._took_us = 0
        self._best_us = self._former_best_us = float("inf")
        self._best_until_ns = 0
        self._over_since_ns = 0
        self._came: dict[str, int] = {}
        self._counted_until_ns = 0

    def admits(self, flow: str, waiting: int, now_ns: int) -> bool:
        """Whether one more request of `flow` may wait, with `waiting` events. Asked while there is a limit."""
        came = self._came
        if now_ns >= self._counted_until_ns:
            self._counted_until_ns = now_ns + COUNTED_NS
            came.clear()
        came[flow] = own = came.get(flow, 0) + 1
        if waiting < self.limit:
            return True
        return waiting < 2 * self.limit and own * len(came) < sum(came.values())

    def look(self, now_ns: int, appends: int, events: int, took_us: int, stalled_ns: int) -> None:
        """A window is over. The figures are of all appends so far; `stalled_ns` is the age of the one in flight."""
        self.look_at_ns = now_ns + WINDOW_NS
        done, carried, spent_us = appends - self._appends, events - self._events, took_us - self._took_us
        self._appends, self._events, self._took_us = appends, events, took_us
        if stalled_ns > OUTAGE_NS:
            self.limit, self._over_since_ns = CEILING, 0
            return
        if not done:
            return
        mean_us = spent_us / done
        if mean_us > max(SLOW_US, TIMES_BEST * self._best(now_ns, mean_us)):
            self._over_since_ns = self._over_since_ns or now_ns
            if now_ns - self._over_since_ns >= STANDING_NS:
                self.limit = max(FLOOR, int(min(self.limit, carried / done)) * 3 // 4)
        elif self.limit < CEILING or self._over_since_ns:
            self._over_since_ns = 0
            self.limit = min(CEILING, self.limit + self.limit // 8)

    def _best(self, now_ns: int, mean_us: float) -> float:
        """The shortest mean of this stretch of 10 s and the one before; while there is a limit no stretch ends."""
        if now_ns >= self._best_until_ns and not self._over_since_ns and self.limit >= CEILING:
            self._best_until_ns = now_ns + BEST_OF_NS
            self._former_best_us, self._best_us = self._best_us, mean_us
        self._best_us = min(self._best_us, mean_us)
        return min(self._best_us, self._former_best_us)
