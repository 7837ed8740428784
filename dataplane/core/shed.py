"""Shedding: who may queue for the node's attention, and who is told at once to come back later.

A node is one event loop, so there is one queue that matters: requests that have arrived and have not been looked at.
Its length is how many arrive in one turn of the loop; the time that they wait in it is how long a turn takes. Nothing
else counts as load: a request that waits for a vendor, a lease or a slow client's body costs no attention.

| the queue | the limit on it |
|---|---|
| stands: in each window of 10 ms somebody waited over 5 ms, for 100 ms | shrinks by a quarter each window, to 32 |
| stands for half a second more, over 20 ms: turns are long for another reason (streams) | shrinks on, to 8 |
| does not: nobody waited so long in the last window | grows by an eighth, to 256 |

It shrinks from what was truly queued. 5 and 100 ms are CoDel's figures: a burst passes, a queue that stays does not.
Within a second of the last shrinking there is no new wait of 100 ms.

Who is shed at the limit: those of whom there are more in the queue than their fair share, which is the limit divided by
the flows in the queue. A flow is an agent, and all whom nobody knows are one flow. One below its share is admitted over
the limit, up to twice of it: a runaway fills its own share and no more. Only what is in the queue is counted, which
bounds the memory.

Fewer in a turn make shorter turns, and more of them: the limit costs no throughput.
"""

MS = 1_000_000

TARGET_NS = 5 * MS
WINDOW_NS = 10 * MS
STANDING_NS = 100 * MS
STUCK_NS = 600 * MS
STUCK_TARGET_NS = 20 * MS
ALERT_NS = 1000 * MS

FLOOR = 32
"""As many at once are no overload, whatever a turn takes: some 3 ms of work."""
STUCK_FLOOR = 8
"""Where fewer newcomers are the only relief. Not less: what makes turns long may be another process on the core, which
fewer requests would not end."""
CEILING = 256
"""More would wait for some 25 ms: a burst that one turn should not take."""


class Shedder:
    """The queue and its limit. Times are elapsed nanoseconds. Each `arrive` that said yes ends by `start` or `gone`."""

    __slots__ = (
        "_alert_until_ns",
        "_flows",
        "_over_since_ns",
        "_peak",
        "_window_ends_ns",
        "_worst_ns",
        "limit",
        "queued",
    )

    def __init__(self) -> None:
        self.limit = CEILING
        self.queued = 0
        self._flows: dict[str, int] = {}
        self._peak = 0
        self._worst_ns = 0
        self._window_ends_ns = 0
        self._over_since_ns = 0
        self._alert_until_ns = 0

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
        if self._worst_ns > TARGET_NS:
            nobody_waited_ns = now_ns - self._worst_ns - self._window_ends_ns
            if not self._over_since_ns or nobody_waited_ns > WINDOW_NS:
                self._over_since_ns = now_ns
            standing_ns = now_ns - self._over_since_ns
            if standing_ns >= STANDING_NS or now_ns < self._alert_until_ns:
                self._alert_until_ns = now_ns + ALERT_NS
                stuck = standing_ns >= STUCK_NS and self._worst_ns > STUCK_TARGET_NS
                floor = STUCK_FLOOR if stuck else FLOOR
                self.limit = min(self.limit, max(floor, min(self.limit, self._peak) * 3 // 4))
        else:
            self._over_since_ns = 0
            self.limit = min(CEILING, self.limit + max(4, self.limit // 8))
        self._peak = self.queued
        self._worst_ns = 0
        self._window_ends_ns = now_ns + WINDOW_NS
