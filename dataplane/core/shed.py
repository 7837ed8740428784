"""Shedding: how many requests a node has in hand at once, and who is told at once to come back later.

A node is one event loop. A request is looked at several times before it is answered (when it came, when its intent is
in the log, when the vendor has answered), and each time waits for the turn that all the others make together. So what
it takes follows from how many are in hand: those at the door, which nobody has looked at, and those whose intents wait
for the log. Nothing else counts as load: a request that waits for a vendor, a lease or a slow client's body costs no
attention.

| it is | when | the limit on what is in hand |
|---|---|---|
| an overload | for 100 ms the queue at the door stood | falls by 1/4 of what is in hand, each 10 ms |
| still one | somebody waited at the door for 0.5 ms, and more than 1/8 was turned away | falls by 1/4 |
| none | else | grows by 1/8 each 10 ms, until there is none |

By CoDel's rule a burst passes, a queue that stays does not. It stands while nobody is looked at within 0.1 ms, somebody
waits for 2.5 ms, and more than 128 are in hand. It is brought down further than to where it began to stand, else it
would stay just below; but not below 32 in hand, with which a node always has something to do. An overload is over when
the limit has not had to fall for a second.

Only the wait at the door counts, since it is work alone. And it is work, not time: the wait is taken times the share of
the window in which the node had its core; where other processes have it, turns are long too, and fewer requests would
not make them shorter. Nor would they in two cases more, in which the limit grows:

- While requests are refused nobody is at the door for 4 ms: all in hand wait for a slow log.
- More than twice the limit are turned away in a turn: what takes the time is to refuse, clients that try again at once.

Who is shed at the limit: those of whom there are more in hand than their fair share, which is the limit divided by the
flows in hand. A flow is an agent, and all whom nobody knows are one flow. One below its share is admitted over the
limit, up to twice of it: a runaway fills its own share and no more. Only what is in hand is counted, which bounds the
memory.
"""

from collections.abc import Callable
from typing import Final

MS: Final = 1_000_000

STANDS_NS: Final = 2_500_000
AT_ONCE_NS: Final = 100_000
TARGET_NS: Final = 500_000
PAUSE_NS: Final = 4 * MS
"""Several turns."""
WINDOW_NS: Final = 10 * MS
STANDING_NS: Final = 100 * MS
ALERT_NS: Final = 1000 * MS

MANY: Final = 128
"""So many in hand are no overload: so many clients with one request each, served as fast as they ask."""
FLOOR: Final = 32
"""Fewer share each turn's and each append's own cost: with 16 or 24 in hand a node carries up to a tenth less."""
CEILING: Final = 4_096
"""No limit: the log's bound on its queue is the next one."""
TURN: Final = 256
"""At the door, whatever the limit. More would wait for some 25 ms: a burst that one turn should not take."""
REFUSES: Final = 8
"""An overload goes on while more than one of so many is turned away."""


class Shedder:
    """What is in hand, and its limit. Times are elapsed nanoseconds.

    Each `arrive` that said yes ends by `start` or `withdraw`, each `hold` by `release`. `work_ns` tells how long this
    thread has had a core since it began; it is asked once a window.
    """

    __slots__ = (
        "_adapted_ns",
        "_alert_until_ns",
        "_came",
        "_flows",
        "_in_a_row",
        "_least_ns",
        "_looked_ns",
        "_most_in_a_row",
        "_over_since_ns",
        "_pause_ns",
        "_peak",
        "_refused",
        "_window_ends_ns",
        "_work_ns",
        "_worked_ns",
        "_worst_ns",
        "in_hand",
        "limit",
        "queued",
    )

    def __init__(self, work_ns: Callable[[], int]) -> None:
        self.limit = CEILING
        self.in_hand = 0
        self.queued = 0
        """Of those in hand, at the door."""
        self._flows: dict[str, int] = {}
        self._peak = 0
        self._came = self._refused = 0
        self._in_a_row = self._most_in_a_row = 0
        self._looked_ns = self._pause_ns = 0
        self._least_ns = self._worst_ns = 0
        self._window_ends_ns = 0
        self._over_since_ns = 0
        self._alert_until_ns = 0
        self._work_ns = work_ns
        self._worked_ns = work_ns()
        self._adapted_ns = 0

    def arrive(self, flow: str, now_ns: int) -> bool:
        """A request has arrived. False: it is shed."""
        flows = self._flows
        own = flows.get(flow, 0)
        self._came += 1
        full = self.in_hand >= self.limit or self.queued >= TURN
        if full and not self._below_share(own, len(flows) + (own == 0)):
            self._refused += 1
            self._in_a_row += 1
            if not self.queued:  # all in hand have been looked at: no `start` will tell that nobody waits
                self._pause_ns = max(self._pause_ns, now_ns - self._looked_ns)
                if now_ns >= self._window_ends_ns:
                    self._adapt(now_ns)
            return False
        flows[flow] = own + 1
        self.queued += 1
        self.in_hand += 1
        if self.in_hand > self._peak:  # noqa: PLR1730 - max() would cost more than all the rest
            self._peak = self.in_hand
        return True

    def _below_share(self, own: int, flows: int) -> bool:
        """Of whichever limit is reached."""
        for count, limit in ((self.in_hand, self.limit), (self.queued, TURN)):
            if count >= 2 * limit or (count >= limit and own >= limit // flows):
                return False
        return True

    def start(self, flow: str, arrived_ns: int, now_ns: int) -> None:
        """It is being looked at."""
        self.withdraw(flow)
        self._looked_ns = now_ns
        if self._in_a_row:
            self._most_in_a_row = max(self._most_in_a_row, self._in_a_row)
            self._in_a_row = 0
        waited_ns = now_ns - arrived_ns
        if waited_ns > self._worst_ns:  # noqa: PLR1730 - as above
            self._worst_ns = waited_ns
        if waited_ns < self._least_ns:  # noqa: PLR1730 - as above
            self._least_ns = waited_ns
        if now_ns >= self._window_ends_ns:
            self._adapt(now_ns)

    def withdraw(self, flow: str) -> None:
        """It has left the door: looked at, or its client has gone."""
        self.queued -= 1
        self.release(flow)

    def hold(self, flow: str) -> None:
        """One that was looked at is in hand again, while its intent waits for the log."""
        self._flows[flow] = self._flows.get(flow, 0) + 1
        self.in_hand += 1

    def release(self, flow: str) -> None:
        """It is in hand no more."""
        self.in_hand -= 1
        left = self._flows[flow] - 1
        if left:
            self._flows[flow] = left
        else:
            del self._flows[flow]

    def _adapt(self, now_ns: int) -> None:
        """A window is over."""
        worst_ns = self._worst_ns * self._share_of_core(now_ns)
        over = worst_ns > STANDS_NS and self._least_ns > AT_ONCE_NS and self._peak > MANY
        if not over:
            self._over_since_ns = 0
        elif not self._over_since_ns or now_ns - self._worst_ns - self._window_ends_ns > WINDOW_NS:
            self._over_since_ns = now_ns  # before the one that waited so long nobody had waited for a window
        alert = now_ns < self._alert_until_ns
        if over:
            falls, in_hand = alert or now_ns - self._over_since_ns >= STANDING_NS, min(self.limit, self._peak)
        else:
            turned_away = REFUSES * self._refused > self._came
            falls, in_hand = alert and turned_away and worst_ns > TARGET_NS, self.limit
        floor = max(FLOOR, self._most_in_a_row // 2)
        if falls and self._pause_ns < PAUSE_NS and self.limit >= floor:
            self._alert_until_ns = now_ns + ALERT_NS
            self.limit = min(self.limit, max(floor, in_hand * 3 // 4))
        else:
            self.limit = min(CEILING, self.limit + self.limit // 8)
        self._peak = self.in_hand
        self._came = self._refused = self._most_in_a_row = self._pause_ns = 0
        self._least_ns, self._worst_ns = now_ns, 0
        self._window_ends_ns = now_ns + WINDOW_NS

    def _share_of_core(self, now_ns: int) -> float:
        """Since it was asked last."""
        worked_ns, elapsed_ns = self._work_ns(), now_ns - self._adapted_ns
        share = (worked_ns - self._worked_ns) / elapsed_ns if elapsed_ns > 0 else 1.0
        self._worked_ns, self._adapted_ns = worked_ns, now_ns
        return min(1.0, share)
