"""SIGHUP at a node: its settings file is read again, and secrets that changed are taken over.

| in the file | what happens |
|---|---|
| credentials of `upstreams` | the next request goes out with them |
| `nats` | a new connection is made with it; the old one goes on until that stands |
| the files of `tls`, of the node and of `upstreams` | the next handshake uses them |

Everything else counts from the next start. What cannot be used changes nothing, and does not keep the rest back.
"""

import asyncio
import logging
import signal
from pathlib import Path

from dataplane.node_settings import NodeSettings, SettingsError, read_settings
from dataplane.upstreams import Destinations
from events.messaging.connection import NatsConnection
from events.tls import TlsContext, TlsUnusable

_log = logging.getLogger(__name__)


class Reloader:
    """One node's. `tls`: of its listener, None for plain HTTP."""

    def __init__(
        self, path: Path, slot: str, destinations: Destinations, nats: NatsConnection, tls: TlsContext | None
    ) -> None:
        self._path = path
        self._slot = slot
        self._destinations = destinations
        self._nats = nats
        self._tls = tls
        self._renewing: asyncio.Task[None] | None = None
        self._again: NodeSettings | None = None

    def listen(self) -> None:
        """From now on at SIGHUP; in the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Read the file and take over what it says."""
        try:
            settings = read_settings(self._path, self._slot)
            changed = self._destinations.renew(settings.settings.upstreams)
        except (SettingsError, ValueError) as error:
            _log.error("credentials stay as they were: %s", error)
            return
        _log.info("credentials read again; changed: %s", ", ".join(changed) or "none")
        self._renew_certificates()
        self._again = settings
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew_nats(), name="renew nats")

    def _renew_certificates(self) -> None:
        for failure in self._destinations.renew_certificates():
            _log.error("certificates stay as they were: %s", failure)
        if self._tls is None:
            return
        try:
            self._tls.renew()
        except TlsUnusable as error:
            _log.error("the certificate stays as it was: %s", error)

    async def _renew_nats(self) -> None:
        """One at a time; what comes meanwhile is one more."""
        while (settings := self._again) is not None:
            self._again = None
            try:
                now = await self._nats.renew(settings.nats)
            except ValueError as error:
                _log.error("the NATS credentials stay as they were: %s", error)
            else:
                _log.info("NATS credentials read again; %s", "in use" if now else "they count from the next connection")
