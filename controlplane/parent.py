"""A child process's watch over its parent: when the supervisor has gone, the child ends too.

Nothing that a one-machine start has begun may outlive it, even when it was killed with SIGKILL. Asking for the
parent's pid works on every POSIX system; the kernel's own parent-death signal follows threads, not processes.
"""

import asyncio
import os

POLL_S = 0.5


async def parent_gone(parent_pid: int) -> None:
    """Return when `parent_pid` is no longer this process's parent. 0: never."""
    if parent_pid == 0:
        await asyncio.get_running_loop().create_future()
    while os.getppid() == parent_pid:  # noqa: ASYNC110 - the kernel tells nobody; asking is cheap
        await asyncio.sleep(POLL_S)
