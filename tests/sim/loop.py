"""An asyncio event loop in virtual time, whose tasks belong to simulated processes.

Nothing here waits: when no callback is ready the clock jumps to the next timer. Everything that runs inside a
`Process` (its tasks, their callbacks, timers and futures' wake-ups) is marked by a context variable; a process can
be paused (its callbacks pile up, as under SIGSTOP, while the world's clock goes on) or killed (they never run).
With a seeded source of randomness, a run is a function of its seed.
"""

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

NANOS = 1_000_000_000

_process: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class Deadlock(AssertionError):
    """No callback is ready and no timer is set, but the simulation has not ended."""


class Process:
    """One simulated operating-system process."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.alive = True
        self._loop = loop
        self._paused = False
        self._backlog: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.crashes: list[BaseException] = []

    def run(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start a task that belongs to this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        task = self._loop.create_task(coroutine, name=f"{self.name}:{name}", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended, context=contextvars.Context())
        return task

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function as this process would (what it schedules belongs to the process)."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return context.run(function, *args)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crashes.append(error)

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        """What piled up runs now, in order."""
        if not self._paused:
            return
        self._paused = False
        backlog, self._backlog = self._backlog, []
        for step in backlog:
            self._loop.call_soon(step)

    def kill(self) -> None:
        """Nothing of it runs ever again: no `finally`, no `except`, as after kill -9."""
        self.alive = False
        self._backlog.clear()

    def gate(self, step: Callable[[], None]) -> None:
        """Run a step of this process, or keep it, or drop it."""
        if not self.alive:
            return
        if self._paused:
            self._backlog.append(step)
        else:
            step()


class _NoWaiting(selectors.DefaultSelector):
    """Never waits: tells the loop how long it would have waited."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        self.skipped_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's text."""

    def __init__(self) -> None:
        self._skipping = _NoWaiting()
        super().__init__(self._skipping)
        # A nanosecond is far below any timer of the protocol: timers that are due are found due.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._skipping.skipped_s

    def time_ns(self) -> int:
        return round(self._skipping.skipped_s * NANOS)

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        return super().call_soon(_gated(callback, context), *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, _gated(callback, context), *args, context=context)


def _gated(callback: Callable[..., Any], context: contextvars.Context | None) -> Callable[..., Any]:
    owner = _process.get() if context is None else context.get(_process)
    if owner is None or getattr(callback, "gated", False):
        return callback
    process = owner

    def step(*args: Any) -> None:
        # The running context is the handle's own; a later step out of the backlog needs it again.
        here = contextvars.copy_context()

        def run() -> None:
            here.run(callback, *args)

        process.gate(run)

    step.gated = True  # type: ignore[attr-defined]
    return step


def run_virtual(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a simulation to its end in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        _discard(loop)


def _discard(loop: VirtualLoop) -> None:
    """Forget what still stands: killed processes leave tasks that must not run their `finally` now."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process ends without a word
    loop.close()
