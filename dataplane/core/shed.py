"""Shedding: who may queue for the node's attention, and who is told at once to come back later.

A node is one event loop, so there is one queue that matters: requests that have arrived and have not been looked at.
Its length is how many arrive in one turn of the loop; the time that they wait in it is how long a turn takes. Nothing
else counts as load: a request that waits for a vendor, a lease or a slow client's body costs no attention.

| the queue | the limit on it |
|---|---|
| stands: in each window of 10 ms somebody waited for 2.5 ms of work, for 100 ms | shrinks by a quarter each, to 16 |
| does not: nobody waited for so much in the last window | grows by an eighth, to 256 |

It shrinks from what was truly queued. A request is looked at several times before it is answered (when it came, when
its intent is in the log, when the vendor has answered), and waits a turn each time: so turns must be short. By CoDel's
rule a burst passes, a queue that stays does not. Within a second of the last shrinking there is no new wait of 100 ms.

What counts is work, not time: the wait is taken times the share of the window in which the node had its core. Where
other processes have it, turns are long too, and fewer requests would not make them shorter.

Who is shed at the limit: those of whom there are more in the queue than their fair share, which is the limit divided by
the flows in the queue. A flow is an agent, and all whom nobody knows are one flow. One below its share is admitted over
the limit, up to twice of it: a runaway fills its own share and no more. Only what is in the queue is counted, which
bounds the memory.

Fewer in a turn make shorter turns, and more of them: the limit costs no throughput.
"""

from collections.abc import Callable
from typing import Final

MS: Final = 1_000_000

TARGET_NS: Final = 2_500_000
WINDOW_NS: Final = 10 * MS
STANDING_NS: Final = 100 * MS
ALERT_NS: Final = 1000 * MS

FLOOR: Final = 16
"""So many at once are no overload, whatever a turn takes: what makes it long may be streams."""
CEILING: Final = 256
"""More would wait for some 25 ms: a burst that one turn should not take."""


class Shedder:
    """The queue and its limit. Times are elapsed nanoseconds. Each `arrive` that said yes ends by `start` or `gone`.

    `work_ns` tells how long this thread has had a core since it began; it is asked once a window.
    """

    __slots__ = (
        "_adapted_ns",
        "_alert_until_ns",
        "_flows",
        "_over_since_ns",
        "_peak",
        "_window_ends_ns",
        "_work_ns",
        "_worked_ns",
        "_worst_ns",
        "limit",
        "queued",
    )

    def __init__(self, work_ns: Callable[[], int]) -> None:
        self.limit = CEILING
        self.queued = 0
        self._flows: dict[str, int] = {}
        self._peak = 0
        self._worst_ns = 0
        self._window_ends_ns = 0
        self._over_since_ns = 0
        self._alert_until_ns = 0
        self._work_ns = work_ns
        self._worked_ns = work_ns()
        self._adapted_ns = 0

    def arrive(self, flow: str) -> bool:
        """A request has arrived. False: it is shed."""
        flows = self._flows
        own = flows.get(flow, 0)
        if self.queued >= self.limit and not self._below_share(own, len(flows) + (own == 0)):
            return False
        flows[flow] = own + 1
        self.queued += 1
        if self.queued > self._peak:  # noqa: PLR1730 - max() would cost more than all the rest
            self._peak = self.queued
        return True

    def _below_share(self, own: int, flows: int) -> bool:
        return self.queued < 2 * self.limit and own < self.limit // flows

    def start(self, flow: str, arrived_ns: int, now_ns: int) -> None:
        """It is being looked at."""
        self.gone(flow)
        waited_ns = now_ns - arrived_ns
        if waited_ns > self._worst_ns:  # noqa: PLR1730 - as above
            self._worst_ns = waited_ns
        if now_ns >= self._window_ends_ns:
            self._adapt(now_ns)

    def gone(self, flow: str) -> None:
        """It has left the queue: looked at, or its client has gone."""
        self.queued -= 1
        left = self._flows[flow] - 1
        if left:
            self._flows[flow] = left
        else:
            del self._flows[flow]

    def _adapt(self, now_ns: int) -> None:
        """A window is over."""
        if self._worst_ns * self._share_of_core(now_ns) > TARGET_NS:
            nobody_waited_ns = now_ns - self._worst_ns - self._window_ends_ns
            if not self._over_since_ns or nobody_waited_ns > WINDOW_NS:
                self._over_since_ns = now_ns
            if now_ns - self._over_since_ns >= STANDING_NS or now_ns < self._alert_until_ns:
                self._alert_until_ns = now_ns + ALERT_NS
                self.limit = min(self.limit, max(FLOOR, min(self.limit, self._peak) * 3 // 4))
        else:
            self._over_since_ns = 0
            self.limit = min(CEILING, self.limit + max(4, self.limit // 8))
        self._peak = self.queued
        self._worst_ns = 0
        self._window_ends_ns = now_ns + WINDOW_NS

    def _share_of_core(self, now_ns: int) -> float:
        """Since it was asked last."""
        worked_ns, elapsed_ns = self._work_ns(), now_ns - self._adapted_ns
        share = (worked_ns - self._worked_ns) / elapsed_ns if elapsed_ns > 0 else 1.0
        self._worked_ns, self._adapted_ns = worked_ns, now_ns
        return min(1.0, share)
