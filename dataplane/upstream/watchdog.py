"""Deadlines of all connections with one timer.

Arming and cancelling a timer for each request costs more than the rest of the bookkeeping. Deadlines here are only
fields; the one timer is set to the earliest of them. Since every deadline is "now plus a constant", a new one is
almost never earlier than the one that is armed, and the hot path is a comparison. When the timer fires it looks at
every connection (hundreds; microseconds), which happens about once per shortest constant.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

_SHORTEST_DELAY_S: Final = 0.001  # a deadline a few nanoseconds ahead must not spin the loop


class Watched(Protocol):
    """`deadline_s`: on the client's clock. `expire` is called once it has passed, and must move or end it."""

    deadline_s: float

    def expire(self, now_s: float) -> None: ...


class Watchdog:
    """Calls `expire` on each member whose deadline has passed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._members: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = math.inf

    def add(self, member: Watched) -> None:
        self._members.add(member)
        self.watch(member.deadline_s)

    def discard(self, member: Watched) -> None:
        self._members.discard(member)

    def watch(self, deadline_s: float) -> None:
        """Some member's deadline is now this."""
        if deadline_s < self._armed_s:
            self._arm(deadline_s)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed_s = None, math.inf

    def _arm(self, deadline_s: float) -> None:
        self.stop()
        delay_s = max(_SHORTEST_DELAY_S, deadline_s - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)
        self._armed_s = deadline_s

    def _fire(self) -> None:
        self._armed_s = math.inf
        now_s = self._clock()
        for member in [member for member in self._members if member.deadline_s <= now_s]:
            member.expire(now_s)
        if self._members:
            self.watch(min(member.deadline_s for member in self._members))
