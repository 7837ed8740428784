"""One run of nats-server: started, awaited until it answers, ended.

Two servers on one store would destroy it, and the server itself takes no lock. So the store is locked here,
and the running server inherits the lock: it is free only when supervisor *and* server are gone. A server
that outlives a killed supervisor for a moment makes the next one wait, not fail.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from pathlib import Path

from controlplane.up.nats.setup import NatsSetup

_POLL_S = 0.01
_LAUNCH = Path(__file__).with_name("launch.py")


class NatsFailed(Exception):
    """The server did not come up. The message names its log and the last line of it."""


class StoreLock:
    """The right to run a server on a directory. Handed on to the server."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self.descriptor = -1

    async def acquire(self, timeout_s: float) -> None:
        """Raises NatsFailed if another server keeps the directory."""
        self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    self.release()
                    raise NatsFailed(f"another nats-server runs on {self._path.parent}; stop it first") from None
            else:
                return
            await asyncio.sleep(_POLL_S)

    def release(self) -> None:
        """Let go of our share; a server that still runs keeps its own."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class NatsProcess:
    """One server process. Start it from the main thread: it is ended with the thread that started it."""

    def __init__(self, setup: NatsSetup, binary: Path, lock: StoreLock) -> None:
        self._setup = setup
        self._binary = binary
        self._lock = lock
        self._ports = setup.directory / "run"
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """None once it has ended."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, port: int, timeout_s: float) -> str:
        """Start on `port` (0: any) and wait until the server answers. Returns its URL. Raises NatsFailed."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        await self._spawn(port)
        while not await self._answers():
            if self.pid is None:
                raise NatsFailed(f"nats-server ended at its start: {self._last_line()} (see {self._setup.log})")
            if asyncio.get_running_loop().time() > deadline:
                await self.stop(1.0)
                raise NatsFailed(f"nats-server did not answer within {timeout_s:g} s (see {self._setup.log})")
            await asyncio.sleep(_POLL_S)
        return self.url

    async def wait(self) -> int:
        """Wait for its end; returns the exit code (negative: the signal)."""
        return await self._process.wait() if self._process is not None else 0

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL when `timeout_s` is over."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def _spawn(self, port: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start nats-server from the main thread: it ends with the thread that starts it")
        self._ports.mkdir(mode=0o700, exist_ok=True)
        for stale in self._ports.glob("*.ports"):
            stale.unlink(missing_ok=True)
        log = os.open(self._setup.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = [str(self._binary), "-c", str(self._setup.config), "-p", str(port or -1)]
        command += ["--ports_file_dir", str(self._ports)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock.descriptor,),
                # Out of the terminal's group: Ctrl-C reaches the supervisor, which ends the server last.
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _answers(self) -> bool:
        """Whether the server has said where it listens, and greets who connects there."""
        if self._process is None:
            return False
        mark = self._ports / f"{self._binary.name}_{self._process.pid}.ports"
        try:
            address = str(json.loads(mark.read_text())["nats"][0]).rpartition("://")[2]  # nats:// or tls://
            url = f"nats://{address}"
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError, LookupError):
            return False
        try:
            async with asyncio.timeout(2.0):
                greeting = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.url = url
        return greeting.startswith(b"INFO ")

    def _last_line(self) -> str:
        try:
            lines = self._setup.log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "no output"
