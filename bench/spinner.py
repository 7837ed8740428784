"""Quiet cores while latency is measured: idle virtual CPUs halt, and waking them would swamp every figure; and where
others use the machine too, each step of a request's way would wait for them.

A spinner has the lowest priority there is (SCHED_IDLE): whoever wants the core has it at once. Where the kernel groups
processes by session (autogroup) a priority counts within its group only, so the spinner has a session of its own, and
the session the lowest weight.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

from bench.children import stop
from bench.machine import Cores, at_once
from bench.processes import family

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
def awake(cores: Cores, behind: Iterable[int] = ()) -> Iterator[None]:
    """Both cores stay awake inside. Where that is allowed, what this process has started runs as soon as it can, but
    for the processes `behind`: those that no request waits for.
    """
    for pid in set(family(os.getpid())) - {os.getpid(), *behind}:
        at_once(pid)
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
