"""What the kernel knows of a process: the CPU it has had, the memory it holds, its children."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def cpu_ns(pids: Iterable[int]) -> int:
    """Nanoseconds on a core of all threads that live. The scheduler's own count: `stat` knows hundredths only."""
    total = 0
    for pid in pids:
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                total += int((task / "schedstat").read_text().split()[0])
    return total


def resident_bytes(pids: Iterable[int], *, peak: bool = False) -> int:
    """Resident memory; `peak`: the most since the process began."""
    name = "VmHWM:" if peak else "VmRSS:"
    total = 0
    for pid in pids:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(name):
                total += int(line.split()[1]) * 1024
    return total


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found
