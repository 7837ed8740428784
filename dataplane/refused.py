"""Refusals on record, so that a loop of them can neither flood the log nor go uncounted.

The first refusal of a key with a code is an event of its own at once. Its repeats within a second become one event
with their exact count, then the next second's, until a second passes without any. While the log is slow nothing is
posted and the counts grow where they are.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from events.types import NodeEvent, RequestRefused

WINDOW_NS = 1_000_000_000

MAX_ENTRIES = 4_096
"""Pairs of key and code that are refused within one second; beyond it all others share one entry per code."""


class _Entry(msgspec.Struct):
    """`pending`: what was refused since the last event; its count is 0 while there is nothing."""

    until_ns: int
    pending: RequestRefused | None = None


class Refusals:
    """Counts refusals; `post` appends events. Times are elapsed nanoseconds."""

    def __init__(self, post: Callable[[Sequence[NodeEvent]], None]) -> None:
        self._post = post
        self._entries: dict[tuple[str, str], _Entry] = {}
        self.total = 0

    def note(self, event: RequestRefused, now_ns: int, *, slow: bool) -> None:
        """Record one refusal. `slow`: the log is stalled, so post nothing now."""
        self.total += 1
        place = (event.who.key, event.code)
        entry = self._entries.get(place)
        if entry is None and len(self._entries) >= MAX_ENTRIES:
            place = ("", event.code)
            entry = self._entries.get(place)
        if entry is None:
            self._entries[place] = _Entry(now_ns + WINDOW_NS, event if slow else None)
            if not slow:
                self._post((event,))
        elif entry.pending is None:
            entry.pending = event
        else:
            last_at_ns = max(entry.pending.last_at_ns, event.last_at_ns)
            entry.pending = replace(entry.pending, count=entry.pending.count + 1, last_at_ns=last_at_ns)

    def tell(self, event: RequestRefused) -> None:
        """Record a refusal by itself. For requests that were admitted first: each has cost two events already."""
        self.total += 1
        self._post((event,))

    def flush(self, now_ns: int, *, slow: bool = False, all_now: bool = False) -> None:
        """Post what a window has gathered, if it is over. `all_now`: whatever there is (the node is stopping)."""
        if slow:
            return
        due = [(place, entry) for place, entry in self._entries.items() if all_now or entry.until_ns <= now_ns]
        for place, entry in due:
            if entry.pending is None:
                del self._entries[place]
                continue
            self._post((entry.pending,))
            entry.pending = None
            entry.until_ns = now_ns + WINDOW_NS
