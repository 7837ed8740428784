"""Threads for blocking work, in lanes that cannot starve each other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class LaneBusyError(Exception):
    """Too many requests wait for this lane, or this one waited too long. Try again later."""


class Lane:
    """A few threads, and a bounded line of requests that wait for one.

    A request takes a slot and keeps it to its end, also between calls, so that its connection never waits for a
    thread half-way through.
    """

    def __init__(self, name: str, threads: int, *, waiting_max: int, waiting_timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"chdb-{name}")
        self._threads = threads
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0
        self._closed = False
        self._waiting_max = waiting_max
        self._waiting_timeout_s = waiting_timeout_s

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A thread for the caller alone. Raises `LaneBusyError`."""
        if self._closed or self._waiting >= self._waiting_max:
            raise LaneBusyError
        self._waiting += 1
        try:
            async with asyncio.timeout(self._waiting_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise LaneBusyError from None
        finally:
            self._waiting -= 1
        try:
            if self._closed:
                raise LaneBusyError
            yield
        finally:
            self._free.release()

    async def run(self, work: Callable[[], T], *, interrupt: Callable[[], None] | None = None) -> T:
        """Run blocking `work` on a thread of this lane; the caller holds a slot.

        A thread cannot be cancelled. If the caller is, `interrupt` is called once to make the work end early, and
        the cancellation is raised only when it has ended: until then the thread still uses the connection.
        """
        future = asyncio.wrap_future(self._pool.submit(work))
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                if cancelled is None and interrupt is not None:
                    interrupt()
                cancelled = error
        if cancelled is None:
            return future.result()
        if not future.cancelled():
            future.exception()  # seen, so that it is not reported as never retrieved
        raise cancelled

    async def close(self) -> None:
        """Take no new requests, wait until every slot is free, and end the threads."""
        self._closed = True
        for _ in range(self._threads):
            await self._free.acquire()
        self._pool.shutdown(wait=False)
