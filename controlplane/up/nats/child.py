"""The supervised nats-server of a one-machine Ringfence."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from controlplane.up.nats.process import NatsFailed, NatsProcess, StoreLock
from controlplane.up.nats.setup import NatsSetup

RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
"""After a death: at once, since nothing works meanwhile; then slower, should it die at every start."""
STABLE_S = 30.0
"""A server that lived this long starts again at the first delay."""
READY_S = 60.0
"""Opening a store of tens of gigabytes takes a while."""
LOCK_S = 15.0
"""How long the server of a killed supervisor may take to end."""

_log = logging.getLogger(__name__)


class NatsChild:
    """Runs a server and keeps it running, on the same port.

    `on_event` is told in words of every unexpected end and every restart. Start it from the main thread.
    """

    def __init__(
        self,
        setup: NatsSetup,
        binary: Path,
        *,
        port: int = 0,
        on_event: Callable[[str], None] = _log.warning,
    ) -> None:
        self._setup = setup
        self._binary = binary
        self._port = port
        self._on_event = on_event
        self._lock = StoreLock(setup.directory)
        self._process: NatsProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0
        self.url = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self, timeout_s: float = READY_S) -> str:
        """Start the server and return its URL once it answers. Raises NatsFailed."""
        await self._lock.acquire(LOCK_S)
        try:
            self.url = await self._run_once(timeout_s)
        except BaseException:
            await self.stop(1.0)
            raise
        # Clients reconnect to where they were: from now on this port, also where any was good.
        self._port = urlsplit(self.url).port or self._port
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="nats-server")
        self._task.add_done_callback(self._ended)
        return self.url

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End the server: SIGTERM, then SIGKILL. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._process is not None:
            await self._process.stop(timeout_s)
        self._lock.release()

    async def _run_once(self, timeout_s: float) -> str:
        self._process = NatsProcess(self._setup, self._binary, self._lock)
        return await self._process.start(self._port, timeout_s)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while self._process is not None:
            began = loop.time()
            code = await self._process.wait()
            failures = 0 if loop.time() - began > STABLE_S else failures
            delay_s = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]
            failures += 1
            self._on_event(f"nats-server ended (code {code}); starting it again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            try:
                await self._run_once(READY_S)
            except (NatsFailed, OSError) as error:
                self._on_event(f"nats-server could not be started: {error}")
            else:
                self.restarts += 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("nats-server is no longer watched: %s", error, exc_info=error)
