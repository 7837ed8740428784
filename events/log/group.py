"""Group commit: what waits for the next message, and how much of it one message takes.

A bounded queue of calls, in order. One call's events always share a message. Encoding happens when a
message is taken, because only then is its number known; a message that comes out too large, or an entry
that cannot be encoded, is found by halving. No I/O, no clock.
"""

import asyncio
import builtins
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from events.log.port import LogError, PayloadTooLarge

EventT = TypeVar("EventT")


class LogOverloaded(LogError):
    """Too much is waiting to be appended; nothing of this call was queued. Refuse the request (503)."""


class Appended(NamedTuple):
    """The events are stored, in message `n` of this log, at `sequence` of the stream.

    `first_sent_ns` is on the clock of `SoleWriterLog.proof_age_ns`. `duplicate`: stored by an earlier send
    than the one that was acknowledged, so it proves nothing about now and authorises nothing (L4).
    """

    sequence: int
    n: int
    first_sent_ns: int
    duplicate: bool


GIVE_UP_S: Final = 240.0
"""Below half of the streams' duplicate window (`events.log.streams`): no resend is ever stored a second time."""


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Bounds of one writer."""

    ack_timeout_s: float = 0.5
    """An answer later than this is of no use (`proof_ttl` is 0.4 s); the message is then sent again."""
    retry_pause_s: float = 0.005
    """First pause before a resend; it doubles up to the next figure."""
    retry_pause_max_s: float = 0.1
    """So that an append lands within about 0.1 s of the end of an outage."""
    give_up_s: float = GIVE_UP_S
    """A message that cannot be confirmed for so long ends the writer: its actor goes on under a new id (L3)."""
    batch_events: int = 512
    """Events in one message; more gain nothing (0.4 us each) and delay the first of them."""
    batch_bytes: int = 1 << 20
    """Bytes of one message; well below the server's limit, and a millisecond of disk."""
    queue_events: int = 16_384
    """Events waiting. At 40,000 a second this is 0.4 s, when the oldest waiter's patience is over too."""
    essential_events: int = 16_384
    """Room above `queue_events` for what must not be refused: settlements and releases of requests that
    are already admitted, and answers to the control plane."""


class Entry(Generic[EventT]):
    """One call's events, and who waits for them (None: nobody)."""

    __slots__ = ("events", "waiter")

    def __init__(self, events: Sequence[EventT], waiter: asyncio.Future[Appended] | None) -> None:
        self.events: Final = events
        self.waiter: Final = waiter

    def fail(self, error: Exception) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error)

    def succeed(self, appended: Appended) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(appended)


class Batch(NamedTuple, Generic[EventT]):
    """The calls that share one message."""

    entries: list[Entry[EventT]]
    payload: bytes


class Unwritable(NamedTuple, Generic[EventT]):
    """A call whose events do not fit into any message, or cannot be encoded. It has left the queue."""

    entry: Entry[EventT]
    error: builtins.Exception  # named in full: compiled, a tuple's types are looked up in the module alone


class GroupQueue(Generic[EventT]):
    """Calls that wait for the log, oldest first."""

    def __init__(self, settings: WriterSettings, encode: Callable[[int, Sequence[EventT]], bytes]) -> None:
        self._settings = settings
        self._encode = encode
        self._entries: deque[Entry[EventT]] = deque()
        self._events = 0
        # Events to try in the next message: halved when too large, doubled when small.
        self._take_events = settings.batch_events

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def events(self) -> int:
        """Events waiting."""
        return self._events

    def push(self, entry: Entry[EventT], *, essential: bool) -> None:
        """Raises LogOverloaded if there is no room."""
        room = self._settings.queue_events + (self._settings.essential_events if essential else 0)
        if self._events + len(entry.events) > room:
            raise LogOverloaded(f"{self._events} events wait for the log")
        self._entries.append(entry)
        self._events += len(entry.events)

    def take(self, n: int, max_bytes: int) -> Batch[EventT] | Unwritable[EventT]:
        """Take the oldest entries that fit into one message, encoded as the n-th. The queue is not empty."""
        limit = min(self._settings.batch_bytes, max_bytes)
        count = self._count_entries()
        while True:
            entries = list(islice(self._entries, count))
            events = [event for entry in entries for event in entry.events]
            encoded = self._try_encode(n, events, limit)
            if isinstance(encoded, bytes):
                if 2 * len(encoded) < limit:
                    self._take_events = min(self._settings.batch_events, 2 * self._take_events)
                self._pop(count)
                return Batch(entries, encoded)
            if count == 1:
                self._pop(1)
                return Unwritable(entries[0], encoded)
            # Half of them: either it fits now, or the bad entry ends up alone.
            count //= 2
            self._take_events = max(1, len(events) // 2)

    def put_back(self, batch: Batch[EventT]) -> None:
        """Return a batch that was refused unsent as too large; the next one will be smaller."""
        self._entries.extendleft(reversed(batch.entries))
        events = sum(len(entry.events) for entry in batch.entries)
        self._events += events
        self._take_events = max(1, events // 2)

    def drain(self) -> list[Entry[EventT]]:
        """Take everything out."""
        entries = list(self._entries)
        self._entries.clear()
        self._events = 0
        return entries

    def _try_encode(self, n: int, events: Sequence[EventT], limit: int) -> bytes | Exception:
        try:
            payload = self._encode(n, events)
        except Exception as error:  # noqa: BLE001 - what the passed-in encoder raises goes to the call's waiter
            return error
        return payload if len(payload) <= limit else PayloadTooLarge(len(payload), limit)

    def _count_entries(self) -> int:
        """How many of the oldest entries hold at most `_take_events` events; at least one."""
        count = events = 0
        for entry in self._entries:
            events += len(entry.events)
            if count and events > self._take_events:
                break
            count += 1
        return count

    def _pop(self, count: int) -> None:
        for _ in range(count):
            self._events -= len(self._entries.popleft().events)
