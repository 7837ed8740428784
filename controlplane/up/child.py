"""A supervised child process: started, awaited until ready, restarted with back-off, stopped.

A child says that it is ready by writing its ready mark, a small JSON file with the pid and the ports it chose.
It ends by itself when its parent has gone (each entry point watches for that), so nothing outlives `up`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESTART_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""After a death; the first restart is quick (a killed worker), later ones back off (a broken configuration)."""
STABLE_S = 30.0
"""A child that lived this long starts again at the first delay."""
READY_POLL_S = 0.02


class ChildFailed(Exception):
    """A child ended before it was ready; the message names its log and its last line."""


class Child:
    """One process. `command` and `pass_fds` (descriptors that it inherits) are made anew for each start.

    `on_down` hears how many times in a row it has died early.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], list[str]],
        *,
        ready_mark: Path,
        log: Path,
        on_event: Callable[[str], None],
        env: dict[str, str] | None = None,
        pass_fds: Callable[[], tuple[int, ...]] = tuple,
        on_down: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._ready_mark = ready_mark
        self._log = log
        self._on_event = on_event
        self._env = env
        self._pass_fds = pass_fds
        self._on_down = on_down
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, timeout_s: float) -> dict[str, Any]:
        """Start, and wait for the ready mark. Returns what it says. Raises ChildFailed."""
        await self._spawn()
        mark = await self._await_ready(timeout_s)
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.name}")
        return mark

    async def _spawn(self) -> None:
        self._ready_mark.unlink(missing_ok=True)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._env,
                pass_fds=self._pass_fds(),
                # A group of its own: the terminal's Ctrl-C reaches `up`, which then drains its children in order.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    async def _await_ready(self, timeout_s: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.pid is not None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                mark: dict[str, Any] = json.loads(self._ready_mark.read_text())
                return mark
            if loop.time() > deadline:
                await self.stop(5.0)
                raise ChildFailed(f"{self.name} was not ready within {timeout_s:.0f} s; see {self._log}")
            await asyncio.sleep(READY_POLL_S)
        raise ChildFailed(f"{self.name} ended at its start: {self._last_line()} (see {self._log})")

    def _last_line(self) -> str:
        try:
            lines = self._log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "no output"

    async def _watch(self) -> None:
        """Restart the child whenever it ends by itself."""
        loop = asyncio.get_running_loop()
        failures = 0
        while self._process is not None:
            began = loop.time()
            code = await self._process.wait()
            if self._stopping:
                return
            failures = 0 if loop.time() - began > STABLE_S else failures
            delay_s = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]
            failures += 1
            if self._on_down is not None:
                self._on_down(failures)
            self._on_event(f"{self.name} ended ({describe_exit(code)}); restarting in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            await self._restart()

    async def _restart(self) -> None:
        if self._stopping:
            return
        self.restarts += 1
        try:
            await self._spawn()
        except OSError as error:
            self._on_event(f"{self.name} could not be started: {error.strerror}")

    async def stop(self, timeout_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """The signal, then SIGKILL after `timeout_s`. Called again: no second signal, which would cut its end short."""
        again, self._stopping = self._stopping, True
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process, timeout_s, None if again else number)
        self._ready_mark.unlink(missing_ok=True)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @staticmethod
    async def _end(process: asyncio.subprocess.Process, timeout_s: float, number: signal.Signals | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            if number is not None:
                process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on (SIGHUP: re-read credentials)."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def python_module(module: str, *arguments: str) -> list[str]:
    """This interpreter running a module, isolated from the caller's directory (-P)."""
    return [sys.executable, "-P", "-m", module, *arguments]
