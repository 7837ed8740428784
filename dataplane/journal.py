"""What a node must get into a log of its own, whichever incarnation it writes under by then.

Intents belong to one incarnation: if it is fenced before they are acknowledged they are worth nothing. Ends of requests
(`RequestSettled`, `RequestReleased`) and refusals belong to the node: if a fence cuts off the log before they are
acknowledged, the next incarnation's log gets them (rule F3). They may then be in both logs; folds take a request's end
once, by its id.

Nobody waits for a request's end, and only one append is in flight at a time (L1): an end that was appended at once
would make the next request's intent wait for it. So ends wait a few milliseconds for an intent to share its message,
and go before it: what they free may be what the intent reserves.

What is posted is kept until it is acknowledged: at most the ends of the requests in flight, which the proxy bounds,
and the refusals, which `dataplane.refused` bounds.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from events.log.group import Appended
from events.log.port import LogError
from events.log.writer import Fenced, LogClosed, SoleWriterLog
from events.types import NodeEvent, RequestRefused, RequestReleased, RequestSettled

NodeLog = SoleWriterLog[NodeEvent]

_LASTING: Final = (RequestSettled, RequestReleased, RequestRefused)
_log = logging.getLogger(__name__)

PATIENCE_S: Final = 0.005
"""How long an end waits for company. Short, because what is not in the log yet is unknown if the process is killed."""

GROUP_EVENTS: Final = 64
"""So many go at once: they fit into any message."""

Posted = tuple[Sequence[NodeEvent], "asyncio.Future[Appended]"]


class Journal:
    """The node's side of its current log, if it has one."""

    def __init__(self) -> None:
        self._log: NodeLog | None = None
        self._posted: deque[Posted] = deque()
        self._waiting: deque[Sequence[NodeEvent]] = deque()
        self._ends: list[NodeEvent] = []
        self._ticking = False

    @property
    def waiting(self) -> int:
        """Posts that no log has taken yet. Above zero nothing new may be admitted."""
        return len(self._waiting)

    @property
    def settled(self) -> bool:
        """Whether everything posted is acknowledged."""
        self._drop_acknowledged()
        return not self._posted and not self._waiting and not self._ends

    def attach(self, log: NodeLog) -> None:
        """From now on write to `log`, beginning with what the one before could not."""
        self._log = log
        self.retry()

    def detach(self) -> None:
        """The log has ended. What it did not acknowledge, and outlives it, waits for the next one."""
        self._log = None
        self.flush()
        unsure = []
        for events, stored in self._posted:
            if not _acknowledged(stored):
                unsure.append(events)
                stored.add_done_callback(_retrieved)
        self._posted.clear()
        waiting, self._waiting = self._waiting, deque()
        for events in (*unsure, *waiting):
            self._post(events)

    def end(self, event: NodeEvent) -> None:
        """Append the end of a request: soon, and before the next intent (who appends one calls `flush` first)."""
        self._ends.append(event)
        if len(self._ends) >= GROUP_EVENTS:
            self.flush()
        elif not self._ticking:
            # Left to run when the ends go earlier: one timer in this time is cheaper than one for each of them.
            self._ticking = True
            asyncio.get_running_loop().call_later(PATIENCE_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self.flush()

    def flush(self) -> None:
        """Append the ends that wait for company."""
        if self._ends:
            ends, self._ends = self._ends, []
            self._post(ends)

    def post(self, events: Sequence[NodeEvent]) -> None:
        """Append events that nobody waits for, in order; keep them while no log takes them."""
        self.flush()
        self._post(events)

    def _post(self, events: Sequence[NodeEvent]) -> None:
        if self._log is None:
            # In another incarnation's log the rest would mean nothing: leases are void, positions are told anew.
            if lasting := tuple(event for event in events if isinstance(event, _LASTING)):
                self._waiting.append(lasting)
            return
        if self._waiting:
            self._waiting.append(events)
            return
        try:
            stored = self._log.append_nowait(events, essential=True)
        except LogError as error:
            _log.error("the log takes nothing now: %s", error)
            self._waiting.append(events)
            return
        posted = self._posted
        posted.append((events, stored))
        if posted[0][1].done():
            self._drop_acknowledged()

    def retry(self) -> None:
        """Offer the log what is waiting. Called on attaching and now and then."""
        waiting, self._waiting = self._waiting, deque()
        for events in waiting:
            self._post(events)

    def _drop_acknowledged(self) -> None:
        posted = self._posted
        while posted and posted[0][1].done():
            events, stored = posted.popleft()
            if _acknowledged(stored):
                continue
            if isinstance(stored.exception(), Fenced | LogClosed):
                self._waiting.append(events)
            else:
                names = [type(event).__name__ for event in events]
                _log.critical("events lost, they cannot be written: %s", names)


def _acknowledged(stored: "asyncio.Future[Appended]") -> bool:
    return stored.done() and not stored.cancelled() and stored.exception() is None


def _retrieved(stored: "asyncio.Future[Appended]") -> None:
    """Nobody waits for it any more, so its exception must not be reported as forgotten."""
    if not stored.cancelled():
        stored.exception()
