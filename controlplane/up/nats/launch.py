"""Becomes nats-server, after asking the kernel to end it with its parent. Run as a script, never imported.

    python -I -S launch.py PARENT_PID BINARY ARGUMENT...

The request has to be made inside the child, between fork and exec; doing that in Python's `preexec_fn` may
deadlock when the parent has threads, so a short-lived interpreter does it and then replaces itself. Which
thread forks matters: the signal comes when that *thread* ends (see `process.py`).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def launch(parent_pid: int, command: list[str]) -> None:
    """Does not return."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent ended before its nats-server began")
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
