"""The loop of one client's connection: aiohttp's own, cut down to what a proxy needs.

Before Python 3.12 aiohttp runs every request in a task of its own, so that context variables that one handler sets are
not seen by the next. The proxy's handlers set none, and a task costs as much as a request's admission does. So a
connection's requests are served one after the other in the task that the connection has anyway; and between an answer
and the wait for the next request there is no turn of the loop, in which that could come unseen by the door. Requests
and answers are the proxy's own, without what aiohttp has for others. Access log and debug log are left out, and so are
upgrades, of which the proxy knows none: whoever asked for one gets an answer, and his connection is closed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage
from aiohttp.web import RequestHandler
from aiohttp.web_protocol import ERROR, _ErrInfo

from dataplane.answer import Answer, client_keeps_up, lags, whole
from dataplane.incoming import Incoming, Unread

_MALFORMED = ERROR._replace(raw_headers=())
"""Stands for what could not be read."""

Handler = Callable[[Incoming], Awaitable[Answer]]


class ServingLoop(RequestHandler):
    """A connection whose requests share its task. `last`: its next answer is its last."""

    __slots__ = ("_serve", "client", "digest", "last", "token", "unread")

    def __init__(self, manager: Any, serve: Handler, unread: Unread, **options: Any) -> None:
        super().__init__(manager, **options)
        self._serve = serve
        self.unread = unread
        self.client = ""
        self.token = b""
        self.digest = b""
        self.last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = self.peername
        self.client = str(name[0]) if isinstance(name, tuple) else name or ""

    async def drained(self) -> None:
        await self._drain_helper()

    def refuse_malformed(self, request: Incoming) -> Answer:
        """The answer to what the parser has refused."""
        return whole(HTTPStatus.BAD_REQUEST, [], b"", request, keep_alive=False)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - the base's signature
        """Read on. Whoever takes a body asks for it, even where nothing was held back; then there is nothing to do."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    async def start(self) -> None:
        """Serve until the connection closes. The base class runs this, once."""
        loop = self._loop
        try:
            while not self._force_close:
                if not self._messages:
                    self._waiter = loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                message, payload = self._messages.popleft()
                self._make_room()
                if not await self._serve_one(message, payload):
                    break
                self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
                if self._keepalive_handle is None:
                    self._keepalive_handle = loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - the edge of a connection: named, and closed
            self.log_exception(exc_info=error)
            self.force_close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _make_room(self) -> None:
        """A message was taken, so the parser may go on if too many were waiting."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve_one(self, message: "RawRequestMessage | _ErrInfo", payload: StreamReader) -> bool:
        """Serve one request. False: it was the connection's last."""
        manager = self._manager
        if manager is None:
            return False  # lost between the message's arrival and now
        manager.requests_count += 1
        malformed = isinstance(message, _ErrInfo)
        if isinstance(message, _ErrInfo):
            message = _MALFORMED
        keep_alive = not (message.should_close or self.last or self._upgraded)
        request = Incoming(message, payload, self, keep_alive=keep_alive)
        self._request_in_progress = True
        self._current_request = request  # type: ignore[assignment]  # what the base tells of a lost connection, it takes
        try:
            answer = self.refuse_malformed(request) if malformed else await self._serve(request)
            transport = self.transport
            gone = not answer.send(transport) or (lags(transport) and not await client_keeps_up(request))
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        if gone:
            return False
        self._keepalive = answer.keep_alive
        if not request.complete:
            await self._linger(payload)
        return answer.keep_alive and not self._close and not self._force_close

    async def _linger(self, payload: StreamReader) -> None:
        """Read the rest of a body that nobody wanted, for a while: closing at once could reset the connection, and the
        client would not see the answer.
        """
        if not self._force_close:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lingering_time):
                    while not payload.is_eof():
                        await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()
