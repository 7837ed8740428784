"""Keeps cores awake while latency is measured: idle virtual CPUs halt, and waking them would swamp every figure.

A spinner has the lowest priority there is (SCHED_IDLE): whoever wants the core has it at once. Where the kernel groups
processes by session (autogroup) a priority counts within its group only, so the spinner has a session of its own, and
the session the lowest weight.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.children import stop
from bench.machine import Cores

_SPIN = """\
import contextlib, os, pathlib
with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/autogroup").write_text("19")
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == {parent}:
    for _ in range(10**6):
        pass
"""


@contextlib.contextmanager
def awake(cores: Cores) -> Iterator[None]:
    """Both cores stay awake inside."""
    code = _SPIN.format(parent=os.getpid())
    spinners = [
        subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-I", "-c", code], start_new_session=True)
        for core in (cores.proxy, cores.load)
    ]
    try:
        yield
    finally:
        for spinner in spinners:
            stop(spinner)
