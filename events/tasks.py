"""Background tasks: named, and guarded, so that none can end unnoticed."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner. `on_defect` hears of each that failed, or that ended and never should. Exceptions that
    are `ordinary` are reported to it like any other, but are no news for an operator.
    """

    def __init__(
        self,
        on_defect: Callable[[str, BaseException | None], None],
        ordinary: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._on_defect = on_defect
        self._ordinary = ordinary
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def forever(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task whose end, however it comes, is a defect."""
        self._start(coroutine, name, endless=True)

    def once(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task that may end, but not with an exception."""
        self._start(coroutine, name, endless=False)

    async def close(self) -> None:
        """Cancel all and wait for them. Nothing is started afterwards."""
        self._closing = True
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str, *, endless: bool) -> None:
        if self._closing:
            coroutine.close()
            return
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, endless=endless))

    def _ended(self, task: asyncio.Task[Any], *, endless: bool) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._closing or (error is None and not endless):
            return
        if isinstance(error, self._ordinary):
            _log.debug("task %s ended: %s", task.get_name(), error)
        else:
            _log.critical("task %s ended unexpectedly", task.get_name(), exc_info=error)
        self._on_defect(task.get_name(), error)


async def until_first(*coroutines: Coroutine[Any, Any, T]) -> T:
    """Run all of them until the first ends; the others are cancelled, and have ended when this returns.

    Returns its result, or raises its exception.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
