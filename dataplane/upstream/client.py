"""Sends requests to upstreams.

`send` is a loop over connections: take an idle one or dial, check it, ask `before_send`, write, wait for the head.
Between the check and the write there is no await, so that the caller's proof, the key's validity and the readiness of
the transport hold at the same instant (rule A3, docs/PROTOCOL.md).

A request is written a second time in one case only: the connection had been kept from an earlier exchange, it was
lost without a single byte of answer, and the method is safe. That is the usual fate of a connection that the upstream
was closing anyway; for a POST the outcome stays unknown, and that is what the error says. The second time goes over a
fresh connection, after `before_send` has agreed again, and there is no third.

Redirects are answers like any other. Proxy variables of the environment are not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dataplane.upstream.connection import Connection
from dataplane.upstream.dial import default_tls, dial
from dataplane.upstream.errors import ClientClosed, ConnectFailed, ConnectionLost, UpstreamError
from dataplane.upstream.origin import Origin
from dataplane.upstream.pool import OriginPool
from dataplane.upstream.request import encode_request
from dataplane.upstream.resolver import Resolve, Resolver
from dataplane.upstream.response import UpstreamResponse
from dataplane.upstream.settings import UpstreamSettings
from dataplane.upstream.watchdog import Watchdog

_MAX_POOLS: Final = 1024
"""Origins are configured, so they are few; beyond this number pools that hold nothing are dropped."""
_GONE_S: Final = 5.0
"""Aborted transports are gone after one turn of the loop; a bound on the wait for them all the same."""


class PoolStats(NamedTuple):
    """Of one origin: slots in use (dialling, busy and idle), idle ones among them, requests in line."""

    open: int
    idle: int
    waiting: int


class UpstreamClient:
    """One per process; belongs to the event loop in which it is used. `close` it."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve | None = None,
    ) -> None:
        """`clock`: seconds, never going back; one that counts suspension lets idle connections age in it.
        `resolve`: names to addresses, the system's resolver if None.
        """
        self._settings = settings
        self._clock = clock
        self._watchdog = Watchdog(clock)
        self._resolver = Resolver(settings.dns_ttl_s, clock, resolve)
        self._tls = settings.tls
        self._pools: dict[Origin, OriginPool] = {}
        self._closing = False
        self._all_gone: asyncio.Event | None = None

    async def send(
        self,
        origin: Origin,
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        before_send: Callable[[], None],
    ) -> UpstreamResponse:
        """Send one request and return its answer once the final head is there (interim ones are skipped).

        target: path and query, as they go on the wire. headers: end to end ones only, none of RESERVED_HEADERS;
        Host and Content-Length are written here. before_send: called just before each writing, see above; what it
        raises comes through, with nothing written on that connection, which stays in the pool.

        Raises UpstreamError; `sent` on it tells whether any byte of this request may have left. Cancelling closes
        the connection, even in the middle of the body; whether something had left, `before_send` knows.
        """
        pool = self._pool(origin)
        request = encode_request(method, pool.authority, target, headers, body)
        now_s = self._clock()
        total_deadline_s = now_s + self._settings.total_timeout_s
        sent = False
        while True:
            connection = None if sent else pool.take_idle(now_s)
            if connection is None:
                connection = await self._obtain(pool, sent=sent)
                now_s = self._clock()
            # From here to the write nothing is awaited.
            try:
                response = connection.start(request, before_send, now_s, total_deadline_s)
            except BaseException:
                if connection.busy:  # not before_send's doing: something of the request may have been written
                    connection.discard()
                else:
                    pool.put(connection)
                raise
            try:
                await response.wait_head()
            except ConnectionLost:
                resend = connection.kept and not response.answered and method in self._settings.resend_methods
                if sent or not resend:
                    raise
                sent = True
            except BaseException:
                response.abort()
                raise
            else:
                return response

    def stats(self) -> dict[Origin, PoolStats]:
        """How the pools stand, for metrics."""
        return {
            origin: PoolStats(pool.slots, len(pool.idle), len(pool.waiters)) for origin, pool in self._pools.items()
        }

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, close idle connections, give answers in progress `grace_s`, abort the rest.

        Returns when every transport is gone. May be called again, with less patience.
        """
        self._closing = True
        self._resolver.close()
        for pool in self._pools.values():
            pool.shut(self._closed(pool.origin))
        await self._wait_empty(grace_s)
        for pool in self._pools.values():
            for connection in list(pool.connections):
                connection.discard()
                if not connection.opened:
                    pool.lost(connection)
        await self._wait_empty(_GONE_S)
        self._watchdog.stop()

    async def _obtain(self, pool: OriginPool, *, sent: bool) -> Connection:
        """A connection that is usable at this instant; if the request was `sent` before, one never used."""
        try:
            while not self._closing:
                connection = None
                if not pool.try_slot():
                    connection = await pool.wait_turn()
                if connection is None:
                    return await self._dial(pool)
                if connection.usable(self._clock()) and not sent and not self._closing:
                    return connection
                connection.discard()
            raise self._closed(pool.origin)
        except UpstreamError as error:
            error.sent = error.sent or sent
            raise

    async def _dial(self, pool: OriginPool) -> Connection:
        """Open a connection for the slot that the caller holds."""
        origin, limit_s = pool.origin, self._settings.connect_timeout_s
        connection = pool.add()
        try:
            async with asyncio.timeout(limit_s):
                await self._open(connection, origin, limit_s)
        except BaseException as error:
            self._drop(pool, connection)
            if self._closing and isinstance(error, UpstreamError):
                raise self._closed(origin) from None
            if isinstance(error, TimeoutError):
                raise ConnectFailed(f"{origin}: no connection within {limit_s:g} s", sent=False) from None
            raise
        if connection.usable(self._clock()) and not self._closing:
            return connection
        self._drop(pool, connection)
        if self._closing:
            raise self._closed(origin)
        raise ConnectFailed(f"{origin}: closed the connection before any request", sent=False)

    @staticmethod
    def _closed(origin: Origin) -> ClientClosed:
        return ClientClosed(f"{origin}: the client is closing", sent=False)

    @staticmethod
    def _drop(pool: OriginPool, connection: Connection) -> None:
        """Give up a dial. A loop may close the half-made transport without ever telling of its end."""
        connection.discard()
        pool.lost(connection)

    async def _open(self, connection: Connection, origin: Origin, limit_s: float) -> None:
        try:
            addresses = await self._resolver.addresses(origin.host, origin.port)
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise ConnectFailed(f"{origin}: the name does not resolve: {why}", sent=False) from None
        tls = self._tls_context() if origin.scheme == "https" else None
        address = await dial(connection, origin, addresses, tls=tls, timeout_s=limit_s)
        self._resolver.prefer(origin.host, origin.port, address)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = default_tls()
        return self._tls

    def _pool(self, origin: Origin) -> OriginPool:
        pool = self._pools.get(origin)
        if pool is None:
            if len(self._pools) >= _MAX_POOLS:
                self._pools = {key: pool for key, pool in self._pools.items() if not pool.empty}
            pool = OriginPool(origin, self._settings, self._clock, self._watchdog, self._note_empty)
            self._pools[origin] = pool
        return pool

    def _note_empty(self) -> None:
        if self._all_gone is not None and all(pool.empty for pool in self._pools.values()):
            self._all_gone.set()

    async def _wait_empty(self, limit_s: float) -> None:
        self._all_gone = asyncio.Event()
        self._note_empty()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._all_gone.wait()
