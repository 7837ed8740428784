"""Rate limits of one node: at most so many units in any minute, of a share that the control plane moves between nodes.

A limit of L a minute is divided: this node holds a *share* of it, and what it has let through in the last minute never
exceeds that share. The shares of all nodes together never exceed L, so neither does the cluster in any minute, however
demand moves; and since a minute is a sliding one, a burst of all L at once is fine. Requests count one unit. Tokens
count by the bound, and `correct` puts the figure right once the answer is known. Bounds are far above what is used, so
a large one passes already when a quarter of the limit is free: it counts as all that is left, and what it uses above
that is owed.

| what happens | the share |
|---|---|
| the control plane grants more | grows at once |
| it calls some back | falls at once to what was used in the last minute, then with it down to the target |
| it does not answer for long | falls to an even part (dataplane.rates) |
| nothing was used for a minute | is given up |

A burst that spends a whole minute comes back as a burst, and so for ever while demand is above the limit: then half of
each minute would be full and half of it empty. So for a minute after a refusal the second half of the share is let
through at the *pace* of the limit (a sixtieth a second), which evens it out within two minutes.

Uses are counted in slots of half a second, each until its last moment is a minute ago: a unit comes back 60 to 60.5 s
after it was taken. Exact timestamps would cost memory for 0.8% more.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

SLOT_NS: Final = 250_000_000
SLOTS: Final = 241
"""After so many slots a use is at least a minute old."""

MINUTE_NS: Final = 60 * 1_000_000_000

LARGEST_PART: Final = 4
"""A bound above this part of a limit passes when this part is free."""

PACE: Final = 1.5
"""Times the even pace. Above one, so that what went unused while demand moved between nodes is made up for."""

PACE_BURST: Final = 20
PACE_LEAST: Final = 5
"""A twentieth of the limit goes at once, and five units always: small limits know no pace."""

MAX_WINDOWS: Final = 50_000
"""Limits in use within a minute, per node (a kilobyte each at most). Above it the oldest half is forgotten."""

UNKNOWN_WAIT_S: Final = 1.0
"""When other nodes hold the whole limit and nobody has said when something comes free."""


class Take:
    """`amount` units wanted of the limit `bucket`, which allows `per_minute` over all nodes; `tokens` or requests."""

    __slots__ = ("amount", "bucket", "per_minute", "tokens")

    def __init__(self, bucket: str, per_minute: int, amount: int, *, tokens: bool = False) -> None:
        self.bucket: Final = bucket
        self.per_minute: Final = per_minute
        self.amount: Final = amount
        self.tokens: Final = tokens


class TooFast(NamedTuple):
    """The limit that is in the way, and the time until the same request fits (as far as this node knows).

    `paced`: there is room in the share, so a larger one would not help.
    """

    bucket: str
    per_minute: int
    retry_after_s: float
    paced: bool = False


Taken = tuple[int, int]
"""Units, and the slot in which they were taken."""


class Window:
    """One limit at this node.

    `share`: what may be used in any minute, and `used` of it in the last; `target`: where it should fall to;
    `reported`: the share as the control plane knows it. `part`: this node's part of the demand while there is too
    much of it, else 0; `level`: what may go out at this pace, at `level_ns`. `wanted` and `short`: units asked for,
    and refused, since the last report. `denied_until_ns`: before that there is nothing to be had elsewhere, and
    `frees_at_ns` is when there may be (0: not known). `coming`: somebody else is giving back.
    """

    __slots__ = (
        "coming",
        "denied_until_ns",
        "frees_at_ns",
        "level",
        "level_ns",
        "paced_until_ns",
        "part",
        "per_minute",
        "reported",
        "share",
        "short",
        "slots",
        "target",
        "touched",
        "used",
        "wanted",
    )

    def __init__(self, per_minute: int, slot: int) -> None:
        self.per_minute = per_minute
        self.slots: deque[list[int]] = deque()
        self.used = 0
        self.share = 0
        self.target = 0
        self.wanted = 0
        self.short = 0
        self.denied_until_ns = 0
        self.frees_at_ns = 0
        self.coming = False
        self.part = 0
        self.paced_until_ns = 0
        self.level = 0.0
        self.level_ns = 0
        self.reported = 0
        self.touched = slot

    def turn(self, slot: int) -> None:
        """Forget what is more than a minute ago."""
        slots = self.slots
        while slots and slots[0][0] <= slot - SLOTS:
            self.used -= slots.popleft()[1]

    def settle(self) -> None:
        """Let the share fall towards its target, as far as what was used allows."""
        if self.share > self.target:
            self.share = max(self.target, min(self.share, self.used))

    def add(self, slot: int, units: int) -> None:
        """Count units in the newest slot."""
        slots = self.slots
        if slots and slots[-1][0] >= slot:
            slots[-1][1] += units
        else:
            slots.append([slot, units])
        self.used += units

    def give_back(self, slot: int, units: int) -> None:
        """Uncount units that were taken in a slot, if that is less than a minute ago."""
        for place in reversed(self.slots):
            if place[0] <= slot:
                if place[0] == slot:
                    place[1] -= units
                    self.used -= units
                return

    def pace(self, units: int, now_ns: int) -> int:
        """How long such a request must wait for its turn; 0: it need not."""
        rate = PACE * (self.part or self.per_minute) / MINUTE_NS
        burst = max(PACE_LEAST, self.per_minute / PACE_BURST)
        self.level = min(burst, self.level + (now_ns - self.level_ns) * rate)
        self.level_ns = now_ns
        missing = min(units, burst) - self.level
        # Levels are sums of floats: what is missing below a millionth of a unit is rounding.
        return math.ceil(missing / rate) if missing > 1e-6 else 0

    def refuse(self, units: int, now_ns: int) -> None:
        """There is no room. Who holds the whole limit keeps the pace for a minute; others are told by their part."""
        self.short += units
        if self.share >= self.per_minute:
            if now_ns >= self.paced_until_ns:
                self.level, self.level_ns = float(PACE_LEAST), now_ns
            self.paced_until_ns = now_ns + MINUTE_NS

    def wait_ns(self, units: int, now_ns: int) -> int:
        """How long until `units` fit: by what comes back here, or by what was said of other nodes."""
        if units > self.share:
            known_ns = self.frees_at_ns - now_ns
            return known_ns if known_ns > 0 else int(UNKNOWN_WAIT_S * 1e9)
        missing = self.used + units - self.share
        for slot, count in self.slots:
            missing -= count
            if missing <= 0:
                return (slot + SLOTS) * SLOT_NS - now_ns
        return MINUTE_NS


class RateLimits:
    """The windows of one node. Times are elapsed nanoseconds of one clock."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, takes: Sequence[Take], now_ns: int, *, again: bool = False) -> list[Taken] | TooFast:
        """Take from all limits and say how much of each; or from none, and say which is short for longest.

        `again`: the same request has asked before, and is no new demand.
        """
        slot = now_ns // SLOT_NS
        found: list[tuple[Window, int]] = []
        worst: TooFast | None = None
        for take in takes:
            window = self._windows.get(take.bucket)
            if window is None:
                window = self._open(take, slot)
            else:
                window.turn(slot)
                window.per_minute = take.per_minute
            units = min(take.amount, take.per_minute)
            if not again:
                window.wanted += units
            window.touched = slot
            if window.share > window.target:
                window.settle()
            wait_ns, paced = 0, False
            room = min(window.share, take.per_minute) - window.used
            if units > room:
                least = min(units, max(1, take.per_minute // LARGEST_PART))
                if least > room:
                    window.refuse(units, now_ns)
                    wait_ns = window.wait_ns(least, now_ns)
                units = room
            if not wait_ns and (window.part or now_ns < window.paced_until_ns):
                wait_ns, paced = window.pace(units, now_ns), True
            if wait_ns and (worst is None or wait_ns / 1e9 > worst.retry_after_s):
                worst = TooFast(take.bucket, take.per_minute, wait_ns / 1e9, paced)
            found.append((window, units))
        if worst is not None:
            return worst
        # Nothing is in the way any more: take from all.
        taken: list[Taken] = []
        for window, units in found:
            window.add(slot, units)
            if window.level_ns == now_ns:
                window.level -= units
            taken.append((units, slot))
        return taken

    def correct(self, bucket: str, taken: Taken, actual: int, now_ns: int) -> None:
        """So much was used of what `take` took: less comes back at once, more is counted from now on."""
        window = self._windows.get(bucket)
        if window is None:
            return
        slot = now_ns // SLOT_NS
        window.turn(slot)
        units, at_slot = taken
        if actual < units:
            window.give_back(at_slot, units - actual)
            window.level += units - actual
        elif actual > units:
            window.add(slot, actual - units)

    def window(self, bucket: str) -> Window | None:
        """The limit's window; None if it was not used within a minute."""
        return self._windows.get(bucket)

    def items(self, now_ns: int) -> Iterator[tuple[str, Window]]:
        """All windows, turned and settled. They may be dropped meanwhile."""
        slot = now_ns // SLOT_NS
        for bucket, window in tuple(self._windows.items()):
            window.turn(slot)
            window.settle()
            yield bucket, window

    def drop(self, bucket: str) -> None:
        self._windows.pop(bucket, None)

    def _open(self, take: Take, slot: int) -> Window:
        if len(self._windows) >= MAX_WINDOWS:
            by_age = sorted(self._windows, key=lambda name: self._windows[name].touched)
            for name in by_age[: MAX_WINDOWS // 2]:
                del self._windows[name]
        window = self._windows[take.bucket] = Window(take.per_minute, slot)
        return window


def retry_after_s(too_fast: TooFast) -> float:
    """The wait rounded up to milliseconds, so that whoever obeys it is let in."""
    return math.ceil(too_fast.retry_after_s * 1000) / 1000
