"""Three real nats-servers in one cluster, for tests. It takes seconds to start and to elect, so all tests share one.

The servers are plain child processes, which belong to no event loop: `kill`, `start`, `pause` and `resume` are a
test's to call, and `shared_cluster` is healed and emptied after each test that used it through `cluster`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.nats_server import SLOTS, SMALL

from controlplane.up.nats import process as nats_process
from controlplane.up.nats.binary import find_binary
from controlplane.up.nats.blocks import TlsFiles
from controlplane.up.nats.limits import StreamLimits
from controlplane.up.nats.servers import free_ports
from controlplane.up.nats.setup import CLUSTER_SIZE, NatsSetup, write_cluster
from events.log.jetstream import JetStreamStream
from events.log.port import LogUnavailable
from events.log.streams import control_stream, nodes_stream
from events.messaging.connection import NatsConnection, connect
from events.messaging.credentials import NatsCredentials
from events.messaging.port import BusError
from events.subjects import CONTROL_STREAM, NODES_STREAM
from schemas.tls import TlsClient

REPLICAS = 3


class Member:
    """One server of the cluster."""

    def __init__(self, setup: NatsSetup, url: str) -> None:
        self.setup = setup
        self.url = url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; `answers` tells when it listens. Ends with this process, like the real one."""
        launch = Path(nats_process.__file__).with_name("launch.py")
        command = [
            sys.executable,
            "-I",
            "-S",
            str(launch),
            str(os.getpid()),
            str(find_binary()),
            "-c",
            str(self.setup.config),
        ]
        with self.setup.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def answers(self, timeout_s: float = 30.0) -> None:
        """Wait until it greets."""
        where = urlsplit(self.url)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.alive, self.setup.log.read_text()[-2000:]
            with contextlib.suppress(OSError), socket.create_connection((where.hostname, where.port), 1.0) as sock:
                if sock.recv(5) == b"INFO ":
                    return
            time.sleep(0.02)
        raise AssertionError(f"{self.url} does not answer")

    def kill(self) -> None:
        """kill -9."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=30)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class RunningCluster:
    """Three servers, and the connections that a test makes to them."""

    def __init__(self, members: Sequence[Member], limits: StreamLimits, tls: TlsClient | None) -> None:
        self.members = members
        self.limits = limits
        self.tls = tls
        self._connections: list[NatsConnection] = []

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    @property
    def url(self) -> str:
        return self.urls[0]

    def credentials(self, user: str) -> NatsCredentials:
        setup = self.members[0].setup
        found = setup.control(*self.urls) if user == "control" else setup.node(user, *self.urls)
        return NatsCredentials(
            servers=found.servers, user=found.user, password=found.password, inbox_prefix=found.inbox_prefix,
            slot=found.slot, tls=self.tls,
        )  # fmt: skip

    async def connect(self, user: str = "control") -> NatsConnection:
        connection = await connect(self.credentials(user), name=f"test {user}", timeout_s=20.0)
        self._connections.append(connection)
        return connection

    async def streams(self) -> tuple[JetStreamStream, JetStreamStream]:
        """Make both log streams with three replicas; returns (control, nodes)."""
        connection = await self.connect()
        found = []
        for spec in (
            control_stream(self.limits.control_bytes, REPLICAS),
            nodes_stream(self.limits.nodes_bytes, REPLICAS),
        ):
            async with asyncio.timeout(40.0):
                while True:
                    try:
                        found.append(await connection.ensure_stream(spec))
                        break
                    except LogUnavailable:
                        await asyncio.sleep(0.1)
        return found[0], found[1]

    async def info(self, stream: str = NODES_STREAM) -> dict[str, Any]:
        """JetStream's word on a stream: `cluster.leader`, `cluster.replicas`, `state`; {} if nobody answers."""
        try:
            answer = await (await self._admin()).bus.request(f"$JS.API.STREAM.INFO.{stream}", b"", 1.0)
        except BusError:
            return {}
        found: dict[str, Any] = json.loads(answer)
        return found if "error" not in found else {}

    async def leader(self, stream: str = NODES_STREAM) -> Member:
        """Wait until the stream has a leader and all replicas are current; returns the leading server."""
        async with asyncio.timeout(60.0):
            while True:
                cluster = (await self.info(stream)).get("cluster", {})
                replicas = cluster.get("replicas", [])
                current = sum(1 for replica in replicas if replica.get("current") and not replica.get("offline"))
                if cluster.get("leader") and current == REPLICAS - 1:
                    return self.member(cluster["leader"])
                await asyncio.sleep(0.05)

    def member(self, name: str) -> Member:
        return self.members[int(name.rpartition("-")[2]) - 1]

    async def followers(self, stream: str = NODES_STREAM) -> list[Member]:
        leader = await self.leader(stream)
        return [member for member in self.members if member is not leader]

    async def heal(self) -> None:
        """Bring every server back and wait until both streams are whole."""
        for member in self.members:
            if member.alive:
                member.resume()
            else:
                member.start()
        for member in self.members:
            await asyncio.to_thread(member.answers)
        for stream in (CONTROL_STREAM, NODES_STREAM):
            if await self._exists(stream):
                await self.leader(stream)

    async def clear(self) -> None:
        """Back to nothing: connections closed, streams gone."""
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        admin = await self._admin()
        for stream in (CONTROL_STREAM, NODES_STREAM):
            deadline = time.monotonic() + 30.0
            while await self._exists(stream) and time.monotonic() < deadline:
                with contextlib.suppress(BusError):
                    await admin.bus.request(f"$JS.API.STREAM.DELETE.{stream}", b"", 5.0)
        await self._drop_admin()

    async def _exists(self, stream: str) -> bool:
        async with asyncio.timeout(60.0):
            while True:
                try:
                    answer = await (await self._admin()).bus.request("$JS.API.STREAM.NAMES", b"", 2.0)
                except BusError:
                    await asyncio.sleep(0.1)
                    continue
                found = json.loads(answer)
                if "error" not in found:
                    return stream in (found.get("streams") or ())
                await asyncio.sleep(0.1)

    _kept: NatsConnection | None = None

    async def _admin(self) -> NatsConnection:
        """A connection of the harness's own; its server may be the one that a test kills."""
        if self._kept is None:
            self._kept = await connect(self.credentials("control"), name="test harness", timeout_s=20.0)
        return self._kept

    async def _drop_admin(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()


@contextlib.contextmanager
def running_cluster(
    directory: Path,
    *,
    slots: Sequence[str] = SLOTS,
    limits: StreamLimits = SMALL,
    tls: TlsFiles | None = None,
    route_tls: TlsFiles | None = None,
    client_tls: TlsClient | None = None,
) -> Iterator[RunningCluster]:
    ports = free_ports(2 * CLUSTER_SIZE)
    addresses = list(zip(ports[:CLUSTER_SIZE], ports[CLUSTER_SIZE:], strict=True))
    setups = write_cluster(directory / "nats", addresses, slots=slots, limits=limits, tls=tls, route_tls=route_tls)
    members = [Member(setup, f"nats://127.0.0.1:{port}") for setup, (port, _) in zip(setups, addresses, strict=True)]
    try:
        for member in members:
            member.start()
        for member in members:
            member.answers()
        yield RunningCluster(members, limits, client_tls)
    finally:
        for member in members:
            member.kill()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def cluster(shared_cluster: RunningCluster) -> AsyncIterator[RunningCluster]:
    """The shared cluster, whole and empty again afterwards."""
    try:
        yield shared_cluster
    finally:
        await shared_cluster.heal()
        await shared_cluster.clear()
