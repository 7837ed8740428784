"""A real nats-server for a test: the embedded configuration, in a directory of the test, on a free port.

    async with running_nats(tmp_path) as server:
        connection = await server.connect("n1")      # or "control"

It is not supervised: `kill`, `start`, `pause` and `resume` are the test's to call.
"""

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from controlplane.up.nats.binary import find_binary
from controlplane.up.nats.blocks import TlsFiles
from controlplane.up.nats.limits import MIB, StreamLimits
from controlplane.up.nats.process import NatsProcess, StoreLock
from controlplane.up.nats.setup import NatsSetup, write_config
from events.log.jetstream import JetStreamStream
from events.log.streams import control_stream, nodes_stream
from events.messaging.connection import NatsConnection, connect
from events.messaging.credentials import NatsCredentials
from schemas.tls import TlsClient

SMALL = StreamLimits(control_bytes=64 * MIB, nodes_bytes=64 * MIB)
SLOTS = ("n1", "n2", "n3", "n4")


class RunningNats:
    """The server and the connections that a test makes to it; all are closed at the end."""

    def __init__(self, setup: NatsSetup, limits: StreamLimits, client_tls: TlsClient | None = None) -> None:
        self.setup = setup
        self.limits = limits
        self.client_tls = client_tls
        self.url = ""
        self._lock = StoreLock(setup.directory)
        self._binary = find_binary()
        self._process: NatsProcess | None = None
        self._connections: list[NatsConnection] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        """Start, or start again on the same port."""
        if self._lock.descriptor < 0:
            await self._lock.acquire(10.0)
        self._process = NatsProcess(self.setup, self._binary, self._lock)
        port = urlsplit(self.url).port if self.url else 0
        self.url = await self._process.start(port or 0, 20.0)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.signal(signal.SIGKILL)
        await self._process.wait()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Returns once it stands still: on a busy machine it may answer for a moment longer."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        deadline = time.monotonic() + 10.0
        while threads.exists() and not all(_stands_still(thread) for thread in threads.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def resume(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    def reload(self) -> None:
        """Read configuration and passwords again."""
        assert self._process is not None
        self._process.signal(signal.SIGHUP)

    def credentials(self, user: str) -> NatsCredentials:
        found = self.setup.control(self.url) if user == "control" else self.setup.node(user, self.url)
        return msgspec.structs.replace(found, tls=self.client_tls)

    async def connect(self, user: str = "control") -> NatsConnection:
        connection = await connect(self.credentials(user), name=f"test {user}")
        self._connections.append(connection)
        return connection

    async def streams(self) -> tuple[JetStreamStream, JetStreamStream]:
        """Make both log streams; returns (control, nodes), on a connection of the control account."""
        connection = await self.connect()
        control = await connection.ensure_stream(control_stream(self.limits.control_bytes))
        return control, await connection.ensure_stream(nodes_stream(self.limits.nodes_bytes))

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        if self._process is not None:
            self.resume()
            await self._process.stop(5.0)
        self._lock.release()


def _stands_still(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except FileNotFoundError:
        return True


@contextlib.asynccontextmanager
async def running_nats(
    directory: Path,
    *,
    slots: Sequence[str] = SLOTS,
    limits: StreamLimits = SMALL,
    tls: TlsFiles | None = None,
    client_tls: TlsClient | None = None,
) -> AsyncIterator[RunningNats]:
    setup = write_config(directory / "nats", slots=slots, limits=limits, tls=tls)
    server = RunningNats(setup, limits, client_tls)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[RunningNats]:
    async with running_nats(tmp_path) as server:
        yield server
