"""The embedded ClickHouse: chDB in this process, behind ClickHouse's own HTTP interface.

All other code, and any ClickHouse client or BI tool, speaks HTTP to it as it would to a server, so one machine and
production run the same code. The audit writer signs in as the writer, compliance staff as readers.

A request's way: sign in, read the body within bounds, take a slot in a lane (writes, the writer's own reads,
readers), open a connection of its own to the engine, let `reader_rules` judge a reader's statement, run it, answer.
A client that goes away ends its query, but not its insert: whether that was stored is settled by sending it again
with the same `insert_deduplication_token`.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from controlplane.audit.embedded_answer import error_answer
from controlplane.audit.embedded_body import read_body
from controlplane.audit.embedded_statement import StatementService
from controlplane.audit.endpoint_errors import QueryError
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.endpoint_protocol import login_refused, read_login
from controlplane.audit.engine import Engine
from controlplane.audit.roles import READER_VIEWS, Authenticate, Role

#: URLs carry settings and parameters; longer statements belong into the body.
_LINE_MAX_BYTES: Final = 131_072

#: How long open requests may go on after `close` was called.
_DRAIN_TIMEOUT_S: Final = 5.0


class EmbeddedClickHouse:
    """A ClickHouse HTTP endpoint over one chDB data directory; one per process.

    `authenticate` is asked for every request. Readers may select from `views` of the database `ringfence`.
    """

    def __init__(
        self, path: Path, authenticate: Authenticate, *, limits: EndpointLimits, views: Sequence[str] = READER_VIEWS
    ) -> None:
        self._path = path
        self._authenticate = authenticate
        self._limits = limits
        self._views = tuple(views)
        self._large_bodies = asyncio.Semaphore(limits.bodies_max)
        self._serving: tuple[web.AppRunner, StatementService] | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Open the directory and listen, with `tls` by HTTPS alone; port 0 picks a free one. Returns the port.

        Raises `EngineUnavailableError` (chDB missing or unusable), `DataDirectoryInUseError`, `OSError` (port taken).
        The event loop stands still for about a second: loading chDB changes the working directory meanwhile.
        """
        if self._serving is not None:
            raise RuntimeError("the embedded ClickHouse has been started already")
        service = StatementService(Engine.open(self._path, self._limits, self._views), self._limits, self._views)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", partial(self._handle, service))
        runner = web.AppRunner(
            app,
            access_log=None,  # its lines would hold passwords that clients put into the URL
            auto_decompress=False,  # bodies are unpacked within bounds, also from formats that aiohttp does not know
            handler_cancellation=True,
            max_line_size=_LINE_MAX_BYTES,
            shutdown_timeout=_DRAIN_TIMEOUT_S,
        )
        self._serving = runner, service
        try:
            await runner.setup()
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError:
            await self.close()
            raise
        bound: int = runner.addresses[0][1]
        return bound

    async def close(self) -> None:
        """Let open requests finish (5 s), end the rest, and close the directory. Idempotent."""
        if self._serving is None:
            return
        runner, service = self._serving
        self._serving = None
        await runner.cleanup()
        await service.close()

    async def _handle(self, service: StatementService, request: web.Request) -> web.StreamResponse:
        asks = request.query or request.method == "POST"
        if request.path in {"/ping", "/replicas_status"} or (request.path == "/" and not asks):
            return web.Response(text="Ok.\n")
        if request.path != "/" or request.method not in {"GET", "POST"}:
            return web.Response(status=404, text="Statements go to / by GET or POST\n")
        login = read_login(request.headers, request.query)
        if isinstance(login, QueryError):
            return error_answer(login, service.version)
        role = self._authenticate(login.user, login.password)
        if role is None:
            return error_answer(login_refused(login.user), service.version)
        async with self._room(request, role):
            limits = self._limits
            max_bytes = limits.body_max_bytes if role is Role.WRITER else limits.query_max_bytes
            body = await read_body(request, max_bytes=max_bytes, timeout_s=limits.body_timeout_s)
            if isinstance(body, QueryError):
                return error_answer(body, service.version)
            return await service.answer(request, role, body)

    def _room(self, request: web.Request, role: Role) -> AbstractAsyncContextManager[object]:
        """Large bodies, which only the writer may send, are few at a time: they stay in memory until inserted."""
        chunked = request.method == "POST" and request.content_length is None
        large = chunked or (request.content_length or 0) > self._limits.query_max_bytes
        return self._large_bodies if large and role is Role.WRITER else nullcontext()
