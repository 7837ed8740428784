"""One connection to an upstream, and the one exchange that it carries at a time.

| state  | meaning                                      | bytes come | stream ends                 | deadline         |
|--------|----------------------------------------------|------------|-----------------------------|------------------|
| idle   | open, no exchange: pooled, or handed over    | closed     | closed                      | closed           |
| head   | request going out or gone, no final head yet | read       | ConnectionLost              | FirstByteTimeout |
| body   | head delivered, body arriving                | read       | complete, or ConnectionLost | IdleTimeout      |
| closed | transport closing or gone                    | ignored    | -                           | aborted          |

head and body also end in TotalTimeout, in Aborted, and by malformed bytes in ProtocolViolation. From body the way
is back to idle if the framing says so and every byte of the request has left; otherwise to closed.

**The send** (rule A3, docs/PROTOCOL.md) is `start`: with the write buffers known to be empty it calls `before_send`,
which may forbid the sending, and then writes, with no await and no callback in between. The transport writes to the
socket at once, within that call. A body larger than a slice follows slice by slice whenever the buffers
are empty again; that needs no task, so an upload and an early answer never wait for each other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol, cast

from dataplane.upstream.errors import (
    Aborted,
    ConnectionLost,
    FirstByteTimeout,
    IdleTimeout,
    TotalTimeout,
    UpstreamError,
)
from dataplane.upstream.parse import ResponseParser
from dataplane.upstream.request import Request
from dataplane.upstream.response import UpstreamResponse
from dataplane.upstream.settings import UpstreamSettings
from dataplane.upstream.watchdog import Watchdog
from dataplane.upstream.wire import Wire

SLICE_BYTES: Final = 256 * 1024
"""The most that is given to a transport at once: what a socket takes is sent, the rest is copied and buffered."""


_LINGER_S: Final = 1.0
"""How long a polite close (TLS close_notify, last bytes) may take before the transport is aborted."""


class Owner(Protocol):
    """The pool, as far as a connection needs it."""

    def put(self, connection: Connection) -> None:
        """The connection is idle again."""

    def leave(self, connection: Connection) -> None:
        """The connection is closed (or closing) and its slot free; called once."""

    def lost(self, connection: Connection) -> None:
        """The transport is gone."""


class Connection(asyncio.Protocol):
    """See the module's page. `kept`: it has lain idle, so the upstream may be closing it. `deadline_s`: see the
    table.
    """

    __slots__ = (
        "_clock",
        "_loop",
        "_name",
        "_owner",
        "_parser",
        "_response",
        "_settings",
        "_total_deadline_s",
        "_unsent",
        "_watchdog",
        "_wire",
        "_write_paused",
        "closed",
        "deadline_s",
        "kept",
    )

    def __init__(
        self, owner: Owner, name: str, settings: UpstreamSettings, clock: Callable[[], float], watchdog: Watchdog
    ) -> None:
        self._owner = owner
        self._name = name
        self._settings = settings
        self._clock = clock
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()
        self._parser = ResponseParser(settings.max_header_bytes)
        self._wire: Wire | None = None
        self._response: UpstreamResponse | None = None
        self._unsent: memoryview | None = None
        self._write_paused = False
        self._total_deadline_s = 0.0
        self.closed = False
        self.kept = False
        self.deadline_s = math.inf  # the dialler has its own time-out

    # Opening.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Plain TCP is up. (Over TLS `attach` is called once the handshake is done.)"""
        stream = cast("asyncio.Transport", transport)
        self.attach(stream, stream)

    def attach(self, transport: asyncio.Transport, raw: asyncio.Transport) -> None:
        """Take the transports into use: `raw` is the TCP one, the same as `transport` without TLS."""
        self._wire = Wire(transport, raw)
        if self.closed:  # it was discarded while the handshake ended
            transport.abort()
            return
        self._await_use(self._settings.keepalive_s)

    @property
    def opened(self) -> bool:
        """There is a transport, whose end will be told to the owner."""
        return self._wire is not None

    @property
    def busy(self) -> bool:
        """An exchange has begun and not ended."""
        return self._response is not None

    # Sending.

    def usable(self, now_s: float) -> bool:
        """Whether a request can be sent at this instant."""
        wire = self._wire
        return not self.closed and wire is not None and now_s < self.deadline_s and wire.ready(kept=self.kept)

    def start(
        self, request: Request, before_send: Callable[[], None], now_s: float, total_deadline_s: float
    ) -> UpstreamResponse:
        """Ask `before_send`, then write. `usable` was true in the same stretch. If `before_send` raises, nothing
        was written and the connection is idle as before.
        """
        wire = self._wire
        assert wire is not None  # noqa: S101 - usable() said so; for the type checker
        before_send()
        # The point of no return: from here on bytes of the request may have left.
        response = UpstreamResponse(self, self._loop)
        self._response = response
        self._parser.begin(response, head_only=request.head_only)
        self._total_deadline_s = total_deadline_s
        self._set_deadline(now_s + self._settings.first_byte_timeout_s)
        body = request.body
        if len(body) <= SLICE_BYTES:
            wire.transport.write(request.head + body if body else request.head)
        else:
            view = memoryview(body)
            self._unsent = view[SLICE_BYTES:]
            wire.transport.write(request.head + view[:SLICE_BYTES])
            self._pump()
        return response

    def _pump(self) -> None:
        """Give the transport slices of the body for as long as the socket takes them."""
        wire = self._wire
        while self._unsent is not None and wire is not None and not self._write_paused and not self.closed:
            piece, rest = self._unsent[:SLICE_BYTES], self._unsent[SLICE_BYTES:]
            self._unsent = rest if len(rest) else None
            wire.transport.write(piece)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        response = self._response
        if response is not None and not self._parser.head_done:
            self._set_deadline(self._clock() + self._settings.first_byte_timeout_s)
        elif response is not None:
            self._keep_pace(response)
        self._pump()

    # Receiving.

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.discard()
            return
        response.answered = True
        parser = self._parser
        try:
            parser.feed(data)
        except UpstreamError as failure:
            failure.detail = f"{self._name}: {failure.detail}"
            self._fail(failure)
            return
        if parser.done:
            self._finish(response)
        elif parser.head_done:
            self._stop_upload_if_refused(response)
            self._keep_pace(response)
            response.wake()

    def _keep_pace(self, response: UpstreamResponse) -> None:
        """Read no further than the reader follows; while it is the reader who lags only the total time runs."""
        if response.buffered_bytes > self._settings.read_high_water_bytes:
            if self._wire is not None:
                self._wire.pause_reading()
            self._set_deadline(self._total_deadline_s)
        else:
            self._set_deadline(self._clock() + self._settings.idle_timeout_s)

    def _stop_upload_if_refused(self, response: UpstreamResponse) -> None:
        """An early error answer means that the rest of the body is not wanted (RFC 9112, 9.5); an early success
        may be a stream that goes both ways.
        """
        if self._unsent is not None and response.status >= 300:
            self._unsent = None
            self._parser.reusable = False
            response.keep_alive = False

    def resume(self, response: UpstreamResponse) -> None:
        if self._response is response and self._wire is not None and self._wire.resume_reading():
            self._set_deadline(self._clock() + self._settings.idle_timeout_s)

    def eof_received(self) -> None:
        response, wire = self._response, self._wire
        if response is None:
            self.discard()
        elif wire is not None and wire.ended_properly() and self._parser.feed_end():
            self._finish(response)
        else:
            self._fail(self._lost_error("closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        why = "reset the connection" if exc is not None else "closed the connection"
        self._fail(self._lost_error(why))
        self._owner.lost(self)

    # Ending.

    def _finish(self, response: UpstreamResponse) -> None:
        """The answer is complete: idle again, or closed if the framing forbids another or bytes are unsent."""
        self._response = None
        clean = self._unsent is None and not self._write_paused
        reusable = clean and self._parser.reusable and not self.closed
        response.keep_alive = reusable
        response.finish()
        if not reusable:
            self.close(at_once=not clean)
            return
        if self._wire is not None:
            self._wire.resume_reading()
        hint_s = self._parser.keepalive_s
        self._await_use(self._settings.keepalive_s if hint_s is None else hint_s)
        self._owner.put(self)

    def _await_use(self, limit_s: float) -> None:
        self.deadline_s = self._clock() + min(limit_s, self._settings.keepalive_s)
        self._watchdog.watch(self.deadline_s)

    def abort(self, response: UpstreamResponse) -> None:
        if self._response is response:
            self._fail(Aborted(f"{self._name}: the answer was aborted by this side", sent=True))

    def expire(self, now_s: float) -> None:
        """The deadline has passed."""
        if self.closed:
            self.deadline_s = math.inf
            if self._wire is not None:
                self._wire.abort()
        elif self._response is None:
            self.close()
        elif now_s >= self._total_deadline_s:
            limit_s = self._settings.total_timeout_s
            self._fail(TotalTimeout(f"{self._name}: not complete after {limit_s:g} s", sent=True))
        elif not self._parser.head_done:
            limit_s = self._settings.first_byte_timeout_s
            self._fail(FirstByteTimeout(f"{self._name}: no answer within {limit_s:g} s", sent=True))
        else:
            limit_s = self._settings.idle_timeout_s
            self._fail(IdleTimeout(f"{self._name}: nothing more came for {limit_s:g} s", sent=True))

    def discard(self) -> None:
        """Close at once, whatever the state; an exchange in progress fails as lost."""
        self._fail(self._lost_error("the connection was discarded"))

    def close(self, *, at_once: bool = False) -> None:
        """Leave the pool and close the transport; without `at_once` what is buffered is still written."""
        self._unsent = None
        if self._wire is not None:
            if at_once:
                self._wire.abort()
            else:
                self._wire.close()
        if not self.closed:
            self.closed = True
            self.deadline_s = self._clock() + _LINGER_S
            self._watchdog.watch(self.deadline_s)
            self._owner.leave(self)

    def _fail(self, failure: UpstreamError) -> None:
        response, self._response = self._response, None
        self.close(at_once=True)
        if response is not None:
            response.fail(failure)

    def _lost_error(self, what: str) -> ConnectionLost:
        progress = "in the middle of the body" if self._parser.head_done else "before the head was complete"
        return ConnectionLost(f"{self._name}: {what} {progress}", sent=True)

    def _set_deadline(self, deadline_s: float) -> None:
        self.deadline_s = min(deadline_s, self._total_deadline_s)
        self._watchdog.watch(self.deadline_s)
