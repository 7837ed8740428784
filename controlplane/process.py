"""What every process of the control side does the same: log, say that it is ready, stop when told."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from controlplane.parent import parent_gone
from controlplane.up.datadir import write_private

_log = logging.getLogger(__name__)


def set_up_logging() -> None:
    """One line an event, on standard error, where the supervisor (or systemd) keeps it."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def write_ready_mark(path: Path, **facts: Any) -> None:
    """Tell the supervisor: this process works, under these ports."""
    write_private(path, json.dumps({"pid": os.getpid(), **facts}).encode())


async def run_until_stopped(
    jobs: Mapping[str, Coroutine[Any, Any, Any]], *, parent_pid: int, linger_s: float = 0.0
) -> None:
    """Run named jobs until SIGTERM, SIGINT or the parent's end; none of them may end by itself.

    After the signal they go on for `linger_s`. Raises what a job raised, or RuntimeError if one just returned.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = {loop.create_task(job, name=name) for name, job in jobs.items()}
    ends = {
        loop.create_task(_wait(stop), name="stop signal"),
        loop.create_task(parent_gone(parent_pid), name="parent watch"),
    }
    try:
        done, _ = await asyncio.wait(tasks | ends, return_when=asyncio.FIRST_COMPLETED)
        if not done & tasks and linger_s:
            done, _ = await asyncio.wait(tasks, timeout=linger_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done & tasks:
            _log.error("%s ended", task.get_name())
            task.result()
            raise RuntimeError(f"{task.get_name()} ended by itself")
    finally:
        for task in tasks | ends:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, *ends, return_exceptions=True)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
