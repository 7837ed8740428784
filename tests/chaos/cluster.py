"""The processes of one gateway, and everything that can be done to them: signals, their network, their disks.

Built on `ringfence up`. After the start each process's settings are pointed at relays of the test's own, and it is
started again: from then on the test holds the wires between it and NATS.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec
from chaos.relay import Relay
from chaos.wires import wire_processes, wire_routes
from support.stack import Stack, running_stack

from events.messaging.credentials import NatsCredentials

BACK_S = 120.0
"""A process that was killed is back by then, on the busiest machine."""

ONE_MACHINE = {"nats": ("nats", "1500m"), "control": ("control", "64m"), "audit": ("audit", "600m")}
SEVERAL = {f"nats-s{number}": (f"nats/s{number}", "500m") for number in (1, 2, 3)} | {
    name: ONE_MACHINE[name] for name in ("control", "audit")
}
"""Directories of the data directory that get a file system of their own, where the machine allows it. By the name of
the process whose they are, if it is one process's alone."""


class Cluster:
    """A running gateway under the test's control. `relays`: by process, all wires that lead to it."""

    def __init__(self, stack: Stack, disks: dict[str, Path]) -> None:
        self.stack = stack
        self.disks = disks
        self.relays: dict[str, list[Relay]] = {}
        self.credentials = self._control_credentials()
        """Of a reader that reaches NATS directly, whatever happens to the wires."""
        self._paused: set[int] = set()

    def _control_credentials(self) -> NatsCredentials:
        settings = json.loads((self.stack.data_dir / "run" / "control.json").read_text())
        return msgspec.convert(settings["nats"], NatsCredentials)

    # ------------------------------------------------------------ who is there

    @property
    def controls(self) -> list[str]:
        """URLs of all control planes."""
        urls = self.stack.urls
        return urls.get("controls", urls["control"]).split(",")

    def processes(self) -> dict[str, int]:
        """Everything that may be killed, by name. Not the vendor, which keeps the books that the rest is held to."""
        found = self.stack.ready_pids()
        found.pop("demo", None)
        found.update(self._nats_servers())
        return found

    def _nats_servers(self) -> dict[str, int]:
        """nats-servers by name. They have no ready mark, but are children of the supervisor."""
        listed = subprocess.run(
            ["ps", "-ww", "--ppid", str(self.stack.process.pid), "-o", "pid=,args="],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = {}
        for line in listed.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            words = command.split()
            if words and words[0].endswith("nats-server") and "-c" in words:
                place = Path(words[words.index("-c") + 1]).parent.name
                found["nats" if place == "nats" else f"nats-{place}"] = int(pid)
        return found

    # ------------------------------------------------------------ signals

    @staticmethod
    def strike(pids: Sequence[int]) -> None:
        """kill -9 to all of them, at one instant."""
        for pid in pids:
            _send(pid, signal.SIGKILL)

    def terminate(self, name: str) -> bool:
        return self._signal(name, signal.SIGTERM)

    def pause(self, name: str) -> int | None:
        """Stop a process; returns its pid, for `resume`."""
        pid = self.processes().get(name)
        if pid is None or not _send(pid, signal.SIGSTOP):
            return None
        self._paused.add(pid)
        return pid

    def resume(self, pid: int) -> None:
        self._paused.discard(pid)
        _send(pid, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> bool:
        """False if it is just being started again."""
        pid = self.processes().get(name)
        return pid is not None and _send(pid, number)

    async def kill_and_wait(self, name: str) -> None:
        """kill -9, and wait until another process stands in its place."""
        pid = self.processes()[name]
        _send(pid, signal.SIGKILL)
        deadline = time.monotonic() + BACK_S
        while self.processes().get(name, pid) == pid:
            assert time.monotonic() < deadline, f"{name} did not come back"
            await asyncio.sleep(0.05)

    async def all_back(self, names: set[str]) -> None:
        """Until all these processes say that they are ready."""
        deadline = time.monotonic() + BACK_S
        while missing := names - set(self.processes()):
            assert time.monotonic() < deadline, f"{missing} did not come back"
            await asyncio.sleep(0.1)

    def heal(self) -> None:
        """No fault is left in force."""
        for pid in tuple(self._paused):
            self.resume(pid)
        for relays in self.relays.values():
            for relay in relays:
                relay.heal()
        for disk in self.disks.values():
            (disk / "filler").unlink(missing_ok=True)

    # ------------------------------------------------------------ disks

    def fill(self, disk: str) -> None:
        """Take all the room that is left."""
        path = self.disks[disk] / "filler"
        with path.open("ab") as filler:
            for piece in (1 << 24, 1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), piece)

    def empty(self, disk: str) -> None:
        (self.disks[disk] / "filler").unlink(missing_ok=True)

    # ------------------------------------------------------------ wires

    async def wire(self) -> None:
        """Put a relay into each wire to and between NATS servers, and start again what uses them."""
        self.relays = await wire_processes(self.stack.data_dir) | await wire_routes(self.stack.data_dir)
        pids = self.processes()
        self.strike([pids[name] for name in self.relays])
        deadline = time.monotonic() + BACK_S
        while any(self.processes().get(name, pids[name]) == pids[name] for name in self.relays):
            assert time.monotonic() < deadline, "not every process came back through its relay"
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        self.heal()
        for relays in self.relays.values():
            for relay in relays:
                await relay.stop()


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.asynccontextmanager
async def running_cluster(data_dir: Path, *, workers: int, arguments: tuple[str, ...] = ()) -> AsyncIterator[Cluster]:
    """Start a gateway whose wires the test holds. Whatever happens, nothing of it is left running or mounted."""
    places = SEVERAL if "--nats-servers" in arguments else ONE_MACHINE
    with _mounted(data_dir, places) as disks, running_stack(data_dir, workers=workers, arguments=arguments) as stack:
        cluster = Cluster(stack, disks)
        try:
            await cluster.wire()
            yield cluster
        finally:
            for pid in tuple(cluster._paused):  # the supervisor waits for its children in vain otherwise
                cluster.resume(pid)
            for disk in disks.values():
                (disk / "filler").unlink(missing_ok=True)
            stop = asyncio.get_running_loop().run_in_executor(None, _stop, stack)
            await stop  # while the relays still carry what is said at the end
            await cluster.close()


def _stop(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        stack.process.wait(90)


@contextlib.contextmanager
def _mounted(data_dir: Path, places: dict[str, tuple[str, str]]) -> Iterator[dict[str, Path]]:
    """Small file systems in memory for what may run full; none where this user cannot mount."""
    mounted: dict[str, Path] = {}
    try:
        for name, (place, size) in places.items():
            path = data_dir / place
            for directory in (path.parent, path):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "ringfence-chaos", str(path)],
                capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                mounted[name] = path
        yield mounted
    finally:
        for name, path in mounted.items():
            _keep(path, data_dir / f"{name}.kept")
            subprocess.run(["umount", str(path)], capture_output=True, check=False)


def _keep(path: Path, kept: Path) -> None:
    """What lies in memory is copied beside, to be studied after a failure."""
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(path, kept, dirs_exist_ok=True)
