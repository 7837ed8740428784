"""nats-py's client with what it lacks: settings that survive outages, and headers that cannot kill it."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

from events.messaging.credentials import NatsCredentials

_log = logging.getLogger(__name__)

PENDING_BYTES = 64 << 20
"""The library's own bound on unsent bytes. `NatsLink` refuses far earlier, so that it never blocks."""


class SturdyClient(Client):
    """Treats a header block that cannot be parsed as none.

    The library lets the error end its reading task: the connection then looks alive and hears nothing. Any
    client that may write a log could do that to everybody who reads it, with one message.
    """

    async def _process_headers(self, headers: Any) -> Any:
        try:
            return await super()._process_headers(headers)
        except (IndexError, ValueError):
            return None


class ErrorLog:
    """Writes the client's asynchronous errors to the log, each once per outage. They hold no payloads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[str] = set()
        self.last = ""

    def forget(self) -> None:
        """The connection is sound again: the next outage is news."""
        self._seen.clear()

    async def note(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self.last = text
        if text in self._seen or len(self._seen) > 100:
            return
        self._seen.add(text)
        _log.warning("nats connection %s: %s", self._name, text)


async def open_client(
    credentials: NatsCredentials,
    *,
    name: str,
    errors: ErrorLog,
    on_lost: Callable[[], Awaitable[None]],
    on_back: Callable[[], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]],
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> Client:
    """Connect. Raises TimeoutError; `errors.last` says what was in the way."""
    client = SturdyClient()
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                servers=list(credentials.servers),
                name=name,
                user=credentials.user,
                password=credentials.password,
                inbox_prefix=credentials.inbox_prefix,
                tls=tls,
                error_cb=errors.note,
                disconnected_cb=on_lost,
                reconnected_cb=on_back,
                closed_cb=on_closed,
                max_reconnect_attempts=-1,
                # A restarted server is found again within a tenth of a second.
                reconnect_time_wait=0.1,  # type: ignore[arg-type] # annotated as int, used as seconds
                connect_timeout=2,
                # A peer that has gone without a word is noticed after 2 to 3 s; the default is 4 minutes.
                ping_interval=1,
                max_outstanding_pings=2,
                pending_size=PENDING_BYTES,
            )
    except BaseException:
        await client.close()
        raise
    return client


def is_permission_denial(error: Exception) -> bool:
    """Tell whether an asynchronous error says that this user may not use a subject."""
    return isinstance(error, nats.errors.Error) and "permissions violation" in str(error)
