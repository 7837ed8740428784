"""The HTTP server: aiohttp's low-level one, with answers of our own for what its parser refuses.

An `Application` would route, sign and log what the proxy does itself; the plain `Server` calls one handler. Its parser
is kept strict: conflicting framings, repeated lengths and malformed headers never reach the handler. Exceptions are
logged by type alone, since their texts quote what a client sent.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web import BaseRequest, RequestHandler, StreamResponse

from dataplane.adapters import neutral
from dataplane.answer import whole
from schemas import ids
from schemas.refusals import refuse

KEEPALIVE_S = 75.0
"""An idle connection, and the head of a request, may take this long; longer than clients' pools keep theirs."""

MAX_LINE_BYTES = 8190
MAX_FIELD_BYTES = 16384
"""Of one header: some SDKs send long user agents, and cookies are long; twice what servers usually take."""

READ_BYTES = 256 * 1024
"""Read-ahead per connection: a chat request with its history fits, and is read without a pause."""

LINGER_S = 5.0
"""After a refusal the rest of a body is read for so long, so that the client sees the answer and not a reset."""

_MALFORMED = refuse("request_malformed", "the message is not well-formed HTTP/1.1")
_log = logging.getLogger(__name__)

Handler = Callable[[BaseRequest], Awaitable[StreamResponse]]


class _Connection(RequestHandler):
    """One client's connection."""

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,  # noqa: ARG002 - the server's own choice, of statuses and of texts
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> StreamResponse:
        """Answer what the parser has refused. (The handler itself lets nothing through.)"""
        server = self._manager
        name = ids.request_id(server.draw(ids.ID_BYTES)) if isinstance(server, ProxyServer) else ""
        rendered = neutral.refuse(_MALFORMED, _MALFORMED.kind.status, name)
        if request.writer.output_size > 0:
            raise ConnectionResetError
        return whole(rendered.status, rendered.headers, rendered.body, request, keep_alive=False)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        _log.warning("a connection failed: %s", type(error).__name__ if isinstance(error, BaseException) else args[:1])


class ProxyServer(web.Server):
    """Makes one `_Connection` per client. `draw(n)` gives n random bytes, for the ids of refused messages."""

    def __init__(self, handler: Handler, draw: Callable[[int], bytes]) -> None:
        super().__init__(handler)
        self.draw = draw

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # the stubs forget that None turns it off
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

    async def stop_accepting(self) -> None:
        """Take no new connections; open ones go on. Idle ones are closed."""
        self._listener.close()
        self._server.pre_shutdown()
        await asyncio.sleep(0)

    async def close(self, grace_s: float) -> None:
        """Close all connections, after at most `grace_s`."""
        self._listener.close()
        await self._server.shutdown(grace_s)


async def listen(handler: Handler, draw: Callable[[int], bytes], host: str, port: int, *, shared: bool) -> Listening:
    """Serve `handler`. `shared`: several processes may listen on the port, and the system divides the connections.

    Raises OSError if the address cannot be had.
    """
    server = ProxyServer(handler, draw)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, host, port, reuse_port=shared or None, backlog=1024)
    return Listening(server, listener)
