"""SIGHUP at a process of the control side: its settings file is read again, and secrets that changed are taken over.

| in the file | what happens |
|---|---|
| `clickhouse` | the next query signs in anew |
| `nats` | a new connection is made with it; the old one goes on until that stands |
| the files of `tls` | the next handshake uses them |
| `bootstrap_token_sha256` | an admin operator is recorded for it, if its digest was never seen (a rotated one was) |

Everything else of the file counts from the next start. A file that cannot be used changes nothing.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from controlplane.audit.store import Store
from controlplane.errors import CommandRefused, LogUnavailable, NotLeading
from controlplane.process_settings import ControlProcess, read_process_settings
from events.messaging.connection import NatsConnection
from events.tls import TlsContext

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Reloader(Generic[T]):
    """`renew` takes over what a file of the given kind says, and names what signed in anew; it may raise ValueError."""

    def __init__(self, path: Path, kind: type[T], renew: Callable[[T], Awaitable[Sequence[str]]]) -> None:
        self._path = path
        self._kind = kind
        self._renew = renew
        self._running: asyncio.Task[None] | None = None
        self._again = False

    def listen(self) -> None:
        """From now on at SIGHUP; in the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        """One at a time; what comes meanwhile is one more."""
        if self._running is not None and not self._running.done():
            self._again = True
            return
        self._running = asyncio.get_running_loop().create_task(self._run(), name="reload")

    async def _run(self) -> None:
        while True:
            self._again = False
            try:
                changed = await self._renew(read_process_settings(self._path, self._kind))
            except (OSError, ValueError) as error:
                _log.error("settings stay as they were: %s", error)
            else:
                _log.info("settings read again; signed in anew: %s", ", ".join(changed) or "nothing")
            if not self._again:
                return


async def renew_control(
    store: Store,
    nats: NatsConnection,
    tls: TlsContext | None,
    admit: Callable[[str], Awaitable[None]],
    settings: ControlProcess,
) -> list[str]:
    """The control plane's part. `tls`: of its API, None for plain HTTP. `admit(digest)` records an operator for a
    digest, if this control plane leads (NotLeading: another one does).
    """
    if tls is not None:
        tls.renew()
    changed = []
    if await nats.renew(settings.nats):
        changed.append("nats")
    if await store.renew(settings.clickhouse):
        changed.append("clickhouse")
    try:
        await admit(settings.bootstrap_token_sha256)
    except NotLeading:
        pass  # the one that leads reads its own file
    except (LogUnavailable, CommandRefused) as error:
        _log.error("the bootstrap operator is not recorded: %s; send SIGHUP again", type(error).__name__)
    return changed
