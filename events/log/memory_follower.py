"""Follower of a stream in memory: a pointer into it, and a frontier up to which this client may see."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from events.log.faults import StreamFaults
from events.log.follower import MessageIterator
from events.log.port import LogRewound, LogTrimmed, Stored, StreamState
from events.messaging.delay import later
from events.subjects import matches


class _Source(Protocol):
    def state(self) -> StreamState: ...
    def between(self, after: int, through: int) -> Iterator[Stored]: ...
    def attach(self, follower: "MemoryFollower") -> None: ...
    def detach(self, follower: "MemoryFollower") -> None: ...


class MemoryFollower(MessageIterator):
    """See `events.log.port.Follower`. It attaches to the stream at once, so a delay counts from the store."""

    def __init__(
        self,
        stream: _Source,
        faults: StreamFaults,
        *,
        after: int,
        filters: Sequence[str],
        accept_trimmed: bool,
    ) -> None:
        self._stream = stream
        self._faults = faults
        self._filters = filters
        self._accept_trimmed = accept_trimmed
        self._position = after
        self._scanned = after
        self._frontier = stream.state().last_sequence
        self._wake: asyncio.Future[None] | None = None
        stream.attach(self)

    @property
    def position(self) -> int:
        return self._position

    @property
    def lag(self) -> int:
        return sum(map(self._wants, self._stream.between(self._scanned, self._frontier)))

    @property
    def caught_up(self) -> bool:
        return not any(map(self._wants, self._stream.between(self._scanned, self._frontier)))

    def stored(self, sequence: int) -> None:
        """Called by the stream: there is a new message."""
        later(self._faults.delivery_delay_s(sequence), partial(self._show, sequence))

    def _show(self, sequence: int) -> None:
        # Monotone: what comes early shows everything before it, as an ordered stream does.
        self._frontier = max(self._frontier, sequence)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next_batch(self, max_messages: int = 1_000, timeout_s: float | None = None) -> list[Stored]:
        try:
            async with asyncio.timeout(timeout_s):
                while not (batch := self._take(max_messages)):
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        except TimeoutError:
            return []
        return batch

    def _take(self, max_messages: int) -> list[Stored]:
        self._check_ends()
        batch: list[Stored] = []
        for stored in self._stream.between(self._scanned, self._frontier):
            if not self._filters and not self._accept_trimmed and stored.sequence != self._scanned + 1:
                if batch:
                    return batch  # hand out what is sound; the next call meets the hole
                raise LogTrimmed(self._scanned, stored.sequence)
            self._scanned = stored.sequence
            if self._wants(stored):
                batch.append(stored)
                self._position = stored.sequence
                if len(batch) >= max_messages:
                    return batch
        if self._accept_trimmed or self._filters:
            self._scanned = max(self._scanned, self._frontier)
        return batch

    def _check_ends(self) -> None:
        state = self._stream.state()
        if state.last_sequence < self._scanned:
            raise LogRewound(self._scanned, state.last_sequence)
        if not self._accept_trimmed and state.first_sequence > self._scanned + 1:
            raise LogTrimmed(self._scanned, state.first_sequence)

    def _wants(self, stored: Stored) -> bool:
        return not self._filters or any(matches(wanted, stored.subject) for wanted in self._filters)

    async def aclose(self) -> None:
        self._stream.detach(self)
