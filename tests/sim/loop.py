"""An asyncio event loop in virtual time, whose tasks belong to simulated processes.

Nothing here waits: when no callback is ready the clock jumps to the next timer. Everything that runs inside a
`Process` (its tasks, their callbacks, timers and futures' wake-ups) is marked by a context variable; a process can
be paused (its callbacks pile up, as under SIGSTOP, while the world's clock goes on) or killed (they never run). A
*fuse* does either at an exact step of the process, that is, at an arbitrary await of its code.
With a seeded source of randomness, a run is a function of its seed.
"""

import asyncio
import contextlib
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

NANOS = 1_000_000_000

_process: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)

Step = Callable[[], Any]


class Deadlock(AssertionError):
    """No callback is ready and no timer is set, but the simulation has not ended."""


class Process:
    """One simulated operating-system process."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.alive = True
        self._loop = loop
        self._paused = False
        self._backlog: list[Step] = []
        self._fuse: tuple[int, Step] | None = None
        self.steps = 0
        self.tasks: list[asyncio.Task[Any]] = []
        """All of them: a killed process's must not be collected, which would run their `finally`."""
        self.crashes: list[BaseException] = []

    def run(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start a task that belongs to this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        task = self._loop.create_task(coroutine, name=f"{self.name}:{name}", context=context)
        task.add_done_callback(self._ended, context=contextvars.Context())
        return task

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function as this process would (what it schedules belongs to the process)."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return context.run(function, *args)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crashes.append(error)

    def own(self, task: asyncio.Task[Any]) -> None:
        """Keep a task of this process from being collected."""
        if len(self.tasks) > 500:
            self.tasks = [known for known in self.tasks if not known.done()]
        self.tasks.append(task)

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
            self._loop.call_soon(partial(self.gate, step, step), context=contextvars.Context())

    def kill(self) -> None:
        """Nothing of it runs ever again: no `finally`, no `except`, as after kill -9."""
        self.alive = False
        self._fuse = None
        self._backlog.clear()

    def fuse(self, steps: int, action: Step) -> None:
        """Call `action` (a kill, a pause) just before the process's `steps`-th next step."""
        self._fuse = (self.steps + steps, action)

    def disarm(self) -> None:
        """Forget a fuse."""
        self._fuse = None

    def gate(self, step: Step, later: Step) -> None:
        """Run a step of this process, or keep it to run as `later`, or drop it."""
        if self._fuse is not None and self.alive and not self._paused and self.steps + 1 >= self._fuse[0]:
            action, self._fuse = self._fuse[1], None
            contextvars.Context().run(action)
        if not self.alive:
            return
        if self._paused:
            self._backlog.append(later)
            return
        self.steps += 1
        step()


class _NoWaiting(selectors.DefaultSelector):
    """Never waits: tells the loop how long it would have waited."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        self.skipped_s += max(0.0, timeout)
        return []  # nobody calls from another thread: the world is this thread alone


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

    def call_soon(  # type: ignore[override]  # the stubs' type variables say nothing more here
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Gated(process, callback, context)
        step.handle = super().call_soon(step, *args, context=context)
        return step.handle

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Gated(process, callback, context)
        handle = super().call_at(when, step, *args, context=context)
        step.handle = handle
        return handle

    def create_task(
        self, coro: Any, *, name: Any = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task = super().create_task(coro, name=name, context=context)
        owner = _process.get() if context is None else context.get(_process)
        if owner is not None:
            owner.own(task)
        return task


class _Gated:
    """A callback of a process, on its way through the process's gate."""

    __slots__ = ("callback", "context", "handle", "process")

    def __init__(self, process: Process, callback: Callable[..., Any], context: contextvars.Context) -> None:
        self.process = process
        self.callback = callback
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self, *args: Any) -> None:
        self.process.gate(partial(self.callback, *args), partial(self._later, *args))

    def _later(self, *args: Any) -> None:
        """Out of the backlog. It may have been cancelled meanwhile, and must enter its own context again."""
        if self.handle is None or not self.handle.cancelled():
            self.context.run(self.callback, *args)


def run_virtual(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a simulation to its end in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        _discard(loop)


def _discard(loop: VirtualLoop) -> None:
    """End what still stands without a word: killed processes leave tasks that nobody will run again."""
    loop.set_exception_handler(lambda _loop, _context: None)
    asyncio.set_event_loop(loop)  # a `finally` that gathers asks for one, and would be given a new one to leak
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            task.get_coro().close()
    asyncio.set_event_loop(None)
    loop.close()
