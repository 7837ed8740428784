"""The HTTP server: aiohttp's low-level one, with answers of our own for what its parser refuses.

An `Application` would route, sign and log what the proxy does itself; the plain `Server` calls one handler. Its parser
is kept strict: conflicting framings, repeated lengths and malformed headers never reach the handler. Exceptions are
logged by type alone, since their texts quote what a client sent.
"""

import asyncio
import logging
import math
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, NoReturn, cast

from aiohttp import StreamReader, web
from aiohttp.web import BaseRequest, RequestHandler

from dataplane.adapters import neutral
from dataplane.answer import UNREAD_BYTES, Answer, whole
from dataplane.door import RETRY_AFTER_S, Door, Shed
from dataplane.heads import message
from dataplane.incoming import Incoming, Unread
from dataplane.serving import Handler, ServingLoop
from schemas import ids
from schemas.refusals import Refusal, refuse

KEEPALIVE_S = 75.0
"""An idle connection, and the head of a request, may take this long; longer than clients' pools keep theirs."""

MAX_LINE_BYTES = 8190
MAX_FIELD_BYTES = 16384
"""Of one header: some SDKs send long user agents, and cookies are long; twice what servers usually take."""

READ_BYTES = 256 * 1024
"""Read-ahead per connection: a chat request with its history fits, and is read without a pause."""

HEAD_TIMEOUT_S = 10.0
"""The head of a request must be complete so long after its first byte."""

MAX_CONNECTIONS = 20_000
"""Twice as many idle streams as a node is built for; less where the system allows fewer open files."""

BACKLOG = 1024
"""Connections that wait to be accepted."""

HAND_OVER_POLL_S = 0.02

LINGER_S = 5.0
"""After a refusal the rest of a body is read for so long, so that the client sees the answer and not a reset."""

_MALFORMED = refuse("request_malformed", "the message is not well-formed HTTP/1.1")
_LATE = refuse("request_timeout", "the head of the request did not arrive in time")
_FULL = refuse("overloaded", "this node serves no more connections now", retry_after_s=RETRY_AFTER_S)
_log = logging.getLogger(__name__)


class _Connection(ServingLoop):
    """One client's connection, with what the door remembers on it (dataplane.door)."""

    __slots__ = ("_aligned", "_body", "_door", "_late", "_skip", "arrived_ns", "flow", "turned_away")

    def __init__(self, server: "ProxyServer", **options: Any) -> None:
        super().__init__(server, server.serve, server.unread, **options)
        self.last = server.leaving
        self._door = server.door
        self._late: asyncio.TimerHandle | None = None
        self._skip = 0
        self._aligned = True
        self._body: StreamReader | None = None
        self.arrived_ns = 0
        self.turned_away = False
        self.flow = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or say that there are too many."""
        server = self._manager
        if isinstance(server, ProxyServer) and len(server.connections) >= server.max_connections:
            self._manager = None  # nothing was begun, so nothing is to be ended
            self._force_close = True
            _say(cast("asyncio.Transport", transport), _FULL, server.new_id())
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_is_here()
        if self._door is not None:
            self._door.withdraw(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Let the door see what begins a request; the rest goes to the parser."""
        if self._skip:
            data, self._skip = data[self._skip :], max(0, self._skip - len(data))
            if not data:
                return
        door, waiter = self._door, self._waiter
        if door is None or waiter is None or waiter.done() or self._late is not None or not data:
            self._more(data, waiter)
            return
        shed = door.arrive(self, data, plain=self._aligned)
        if shed is not None:
            self._turn_away(shed)
            return
        super().data_received(data)
        if not waiter.done():
            self._await_head()
        elif self._messages:
            # Did the bytes end where this message ends, or where its body goes on? Else the parser holds some of the
            # next one, and whatever comes then is not its beginning.
            self._body = self._messages[-1][1]
            ended = data.find(b"\r\n\r\n") + 4 + self._body.total_bytes == len(data)
            self._aligned = ended and len(self._messages) == 1

    def _more(self, data: bytes, waiter: asyncio.Future[None] | None) -> None:
        """Bytes that do not begin a request, or not for sure."""
        body = self._body
        before = body.total_bytes if body is not None else 0
        super().data_received(data)
        if data and (body is None or body.total_bytes - before != len(data)):
            self._aligned = False
        if waiter is not None and waiter.done():
            self._head_is_here()

    def _turn_away(self, shed: Shed) -> None:
        transport = self.transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > UNREAD_BYTES:  # it asks and asks, and reads no answer
            transport.abort()
            return
        transport.write(shed.answer)
        self._skip = shed.rest
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S

    def _await_head(self) -> None:
        """A part of a head has come: it is no request yet, and must become one in time."""
        if self._door is not None:
            self._door.withdraw(self)
        self.turned_away = False
        self._late = self._loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def idle(self, before_s: float) -> bool:
        """Whether there is no request, nor a part of one, and the last answer was given before then (loop's time)."""
        waiter, transport = self._waiter, self.transport
        if waiter is None or waiter.done() or self._late is not None or self._skip or transport is None:
            return False
        return self._next_keepalive_close_time - KEEPALIVE_S <= before_s and not _bytes_wait(transport)

    def _head_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        server, transport = self._manager, self.transport
        if isinstance(server, ProxyServer) and transport is not None:
            _say(transport, _LATE, server.new_id())
        self.force_close()

    def refuse_malformed(self, request: Incoming) -> Answer:
        server = self._manager
        if self._door is not None:
            self._door.withdraw(self)
        name = server.new_id() if isinstance(server, ProxyServer) else ""
        rendered = neutral.refuse(_MALFORMED, _MALFORMED.kind.status, name)
        return whole(rendered.status, rendered.headers, rendered.body, request, keep_alive=False)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        _log.warning("a connection failed: %s", type(error).__name__ if isinstance(error, BaseException) else args[:1])


def _bytes_wait(transport: asyncio.BaseTransport) -> bool:
    """Whether something has come that the loop has not read yet: closing now would reset it unseen."""
    connected = transport.get_extra_info("socket")
    if connected is None or transport.is_closing():
        return False
    arrived = select.poll()
    arrived.register(connected.fileno(), select.POLLIN)
    return bool(arrived.poll(0))


def _say(transport: asyncio.Transport, refusal: Refusal, request_id: str) -> None:
    """Refuse whatever the client wants, and close."""
    rendered = neutral.refuse(refusal, refusal.kind.status, request_id)
    transport.write(message(rendered.status, rendered.headers, rendered.body, b"Connection: close\r\n"))
    transport.close()


async def _never_called(_: BaseRequest) -> NoReturn:
    """The server insists on a handler for its own kind of requests; its connections make ours."""
    raise RuntimeError("a connection made a request of the server's kind")


class ProxyServer(web.Server):
    """Makes one `_Connection` per client. `draw(n)` gives n random bytes, for the ids of refused messages.

    `door`: counts what arrives and refuses what is too much; None: everything goes on.
    """

    def __init__(self, handler: Handler, draw: Callable[[int], bytes], door: Door | None, max_connections: int) -> None:
        super().__init__(_never_called)
        self.serve = handler
        self._draw = draw
        self.door = door
        self.leaving = False
        self.max_connections = max_connections
        self.unread = Unread()

    def new_id(self) -> str:
        return ids.request_id(self._draw(ids.ID_BYTES))

    def leave(self) -> None:
        """Serve on, but let every answer be the last on its connection."""
        self.leaving = True
        for connection in self.connections:
            if isinstance(connection, _Connection):
                connection.last = True

    def close_idle(self, before_s: float = math.inf) -> None:
        """Close the connections on which nothing has been going on since then (loop's time)."""
        for connection in self.connections:
            if isinstance(connection, _Connection) and connection.idle(before_s):
                connection.force_close()

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            read_bufsize=READ_BYTES,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )


class Listening:
    """A running server. `port`: where it listens."""

    def __init__(self, server: ProxyServer, listener: asyncio.Server) -> None:
        self._server = server
        self._listener = listener
        self.port: int = listener.sockets[0].getsockname()[1]

    async def hand_over(self, idle_s: float, limit_s: float) -> None:
        """Accept nothing more; serve what is connected until it has gone, at most for `limit_s`.

        Each answer from now on tells its client to connect anew; what stays idle for `idle_s` is closed. An answer that
        was begun before did not tell: its connection has its time, too.
        """
        self._listener.close()
        self._server.leave()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while self._server.connections and loop.time() - began_s < limit_s:
            if loop.time() - began_s >= idle_s:
                self._server.close_idle(loop.time() - idle_s)
            await asyncio.sleep(HAND_OVER_POLL_S)

    def stop_accepting(self) -> None:
        """Take no new connections; idle ones are closed, the others go on."""
        self._listener.close()
        self._server.leave()
        self._server.close_idle()

    async def close(self, grace_s: float) -> None:
        """Close all connections, after at most `grace_s`."""
        self._listener.close()
        await self._server.shutdown(grace_s)


async def listen(
    handler: Handler,
    draw: Callable[[int], bytes],
    host: str,
    port: int,
    *,
    shared: bool,
    listener: socket.socket | None = None,
    door: Door | None = None,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
) -> Listening:
    """Serve `handler`. `shared`: several processes may listen on the port, and the system divides the connections.
    `listener`: a socket that is bound already, and stays open for others when this process closes it. `tls`: serve
    HTTPS with it.

    Raises OSError if the address cannot be had.
    """
    server = ProxyServer(handler, draw, door, max_connections)
    loop = asyncio.get_running_loop()
    if listener is not None:
        made = await loop.create_server(server, sock=listener, backlog=BACKLOG, ssl=tls)
    else:
        made = await loop.create_server(server, host, port, reuse_port=shared or None, backlog=BACKLOG, ssl=tls)
    return Listening(server, made)
