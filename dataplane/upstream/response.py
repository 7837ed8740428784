"""One answer: its head, and its body as a bounded stream between the connection and one reader.

The connection puts bytes in as they arrive, without waiting; the reader takes everything that is there in one piece.
While more than the high-water mark lies here the connection reads no further, so a slow client slows the
vendor down instead of filling memory. Once the body is complete the connection is already serving somebody else, and
only this buffer is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from dataplane.upstream.errors import Aborted, BodyTooLarge, UpstreamError
from dataplane.upstream.framing import Framing


class Source(Protocol):
    """The connection, as far as an answer needs it."""

    def resume(self, response: UpstreamResponse) -> None:
        """The reader has taken what was buffered: read on, if reading had paused."""

    def abort(self, response: UpstreamResponse) -> None:
        """Close the connection if it still belongs to this answer, and fail the answer."""


class UpstreamResponse:
    """What the upstream answered. `send` returns it as soon as the final head is there.

    status, reason, headers: as sent; names keep their case, repeats and order; hop-by-hop ones are included.
    content_length: bytes of body to come; 0 where there is none (HEAD, 204, 304, whatever the headers announce),
        None if only the end will tell.
    keep_alive: whether the connection can serve another request after this answer.

    The reader must read to the end, or call `abort`, or use `with response:`, which aborts what was not read.
    There is one reader at a time; a cancelled read loses nothing.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_failure",
        "_loop",
        "_source",
        "_stopped",
        "_take",
        "_waiter",
        "answered",
        "buffered_bytes",
        "content_length",
        "headers",
        "keep_alive",
        "reason",
        "status",
    )

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        """`loop`: the running one. (To ask for it is a system call in Python 3.11, and each answer is waited for.)"""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.content_length: int | None = None
        self.keep_alive = False
        self.buffered_bytes = 0
        self.answered = False  # any byte at all has come back
        self._chunks: list[bytes] = []
        self._source: Source | None = source
        self._ended = False
        self._stopped = False
        self._failure: UpstreamError | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = loop

    # For the reader.

    @property
    def complete(self) -> bool:
        """The whole body has arrived (some of it perhaps still to be taken) and the connection is free again."""
        return self._ended and self._failure is None

    async def read_chunk(self) -> bytes:
        """Everything that has arrived and was not yet read; waits for at least a byte. `b""`: the body has ended.

        Raises, after the last byte that did arrive, the UpstreamError that cut the body short.
        """
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._wait()
        return self.take_buffered()

    async def hand_over(self, take: Callable[[bytes], bool]) -> bool:
        """Give `take` what arrives, as it arrives: in the connection's own callback, without a turn of the loop.

        True: the body has ended, and all of it was taken. False: `take` said so, and gets nothing more. Raises, after
        the last byte that did arrive, the UpstreamError that cut the body short; and what `take` raises.
        """
        self._stopped = False
        self._take = take
        try:
            while not self._stopped:
                if self._chunks:  # come before this began, or between a wake-up and now
                    self._stopped = not take(self.take_buffered())
                elif self._failure is not None:
                    raise self._failure
                elif self._ended:
                    return True
                else:
                    await self._wait()
        finally:
            self._take = None
        return False

    def take_buffered(self) -> bytes:
        """What has arrived and was not yet read, without waiting; `b""` if nothing has."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered_bytes = 0
        if self._source is not None:
            self._source.resume(self)
        return data

    async def read(self, limit_bytes: int) -> bytes:
        """The rest of the body. Raises BodyTooLarge (and closes the connection) beyond the limit."""
        parts: list[bytes] = []
        size = self.content_length or 0
        while size <= limit_bytes:
            chunk = await self.read_chunk()
            if not chunk:
                return b"".join(parts)
            parts.append(chunk)
            if self.content_length is None:
                size += len(chunk)
        self.abort()
        raise BodyTooLarge(f"the answer's body exceeds {limit_bytes} bytes", sent=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def abort(self) -> None:
        """Close the connection now, even in the middle of sending the request; drop what was not read.

        May be called at any time, any number of times, and by another task than the reader, which is then woken
        with `Aborted`. After a body that was read to its end it does nothing.
        """
        if self._source is not None:
            self._source.abort(self)
        elif self._chunks:
            self._failure = _aborted()
        self._chunks.clear()
        self.buffered_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    async def wait_head(self) -> None:
        """Wait for the final head; raise what came instead. Called by `send`."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("an answer has one reader at a time")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # For the connection.

    def take_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], framing: Framing) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.content_length = framing.length
        self.keep_alive = framing.keep_alive

    def take_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self.buffered_bytes += len(data)

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._take is not None and self._chunks:
            try:
                self._stopped = not self._take(self.take_buffered())
            except Exception as error:  # noqa: BLE001 - the reader's, so it is the reader who hears of it
                waiter.set_exception(error)
                return
            if not self._stopped and not self._ended and self._failure is None:
                return
        waiter.set_result(None)

    def finish(self) -> None:
        """The body is complete; the connection is no longer this answer's."""
        self._ended = True
        self._source = None
        self.wake()

    def fail(self, failure: UpstreamError) -> None:
        """Nothing more will come; the connection is gone."""
        self._failure = failure
        self._source = None
        self.wake()


def _aborted() -> Aborted:
    return Aborted("the answer was aborted by this side", sent=True)
