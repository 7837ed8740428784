"""Processes that a measurement starts: pinned, awaited until they listen, ended whatever happens."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

READY_S = 20.0
STOP_S = 10.0


class NotReady(Exception):
    """A process ended, or did not listen in time; the message shows the end of its output."""


@contextlib.contextmanager
def running(
    command: list[str],
    *,
    core: int,
    port: int,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    ready_s: float = READY_S,
) -> Iterator[int]:
    """Start a command on one core and wait until `port` takes connections. Yields its pid. Raises NotReady.

    `env`: variables that it has besides this process's.
    """
    with log.open("wb") as output:
        pinned = ["taskset", "-c", str(core), *command]
        variables = {**os.environ, **(env or {})}
        process = subprocess.Popen(pinned, stdout=output, stderr=output, cwd=cwd, env=variables)
    try:
        _await_port(process, port, log, ready_s)
        yield process.pid
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(process: "subprocess.Popen[bytes]", port: int, log: Path, ready_s: float) -> None:
    deadline_s = time.monotonic() + ready_s
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-1500:]
    raise NotReady(f"{process.args!r} does not listen on {port}:\n{tail}")
