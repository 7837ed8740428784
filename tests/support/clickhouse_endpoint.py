"""The embedded ClickHouse as a process of its own: chDB allows one directory a process, and tests kill it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from controlplane.audit.embedded import EmbeddedClickHouse
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.engine import EngineUnavailableError
from controlplane.audit.roles import Role

WRITER = ("writer", "writer-secret")
READER = ("auditor", "auditor-secret")

SCHEMA = (
    "CREATE DATABASE ringfence",
    """CREATE TABLE ringfence.events (seq UInt64, agent LowCardinality(String), at DateTime64(9, 'UTC'),
       usd Decimal(18, 9), note Nullable(String), tags Map(String, String), secret String DEFAULT 'hidden')
       ENGINE = MergeTree ORDER BY seq SETTINGS non_replicated_deduplication_window = 1000""",
    """CREATE VIEW ringfence.requests DEFINER = CURRENT_USER SQL SECURITY DEFINER
       AS SELECT seq, agent, at, usd, note FROM ringfence.events""",
    """CREATE VIEW ringfence.spend_daily DEFINER = CURRENT_USER SQL SECURITY DEFINER
       AS SELECT toDate(at) AS day, agent, sum(usd) AS spent FROM ringfence.requests GROUP BY day, agent""",
    "CREATE VIEW ringfence.internal AS SELECT * FROM ringfence.events",
)
COLUMNS = ["seq", "agent", "at", "usd", "note", "tags"]


@dataclass
class Endpoint:
    """A running endpoint."""

    process: subprocess.Popen[str]
    port: int
    host: str = "127.0.0.1"

    def client(self, login: tuple[str, str] = WRITER, **options: Any) -> Client:
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=login[0], password=login[1], **options
        )

    def admit_reader(self) -> None:
        """READER may read the views from the beginning."""

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def launch(path: Path, **limits: float) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start an endpoint; the process, and what it says: `{"port": ...}` or `{"error": ...}`."""
    command = [sys.executable, __file__, str(path), json.dumps(limits)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    return process, json.loads(line or '{"error": "ended without a word"}')


@contextmanager
def endpoint(path: Path, **limits: float) -> Iterator[Endpoint]:
    process, said = launch(path, **limits)
    try:
        assert "port" in said, said
        yield Endpoint(process, said["port"])
    finally:
        process.kill()
        process.wait(timeout=30)


def create_schema(client: Client) -> None:
    for statement in SCHEMA:
        client.command(statement)


async def _serve(path: Path, limits: dict[str, Any]) -> None:
    roles = {WRITER: Role.WRITER, READER: Role.READER}
    served = EmbeddedClickHouse(
        path, lambda user, password: roles.get((user, password)), limits=EndpointLimits(**limits)
    )
    stopped = asyncio.Event()
    try:
        port = await served.start("127.0.0.1", 0)
    except EngineUnavailableError as error:
        _say({"error": str(error), "kind": type(error).__name__})
        return
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    _say({"port": port})
    await stopped.wait()
    await served.close()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
