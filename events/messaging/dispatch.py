"""Runs a subscription's handler: bounded queue, bounded concurrency, no task while nothing happens."""

import asyncio
import contextvars
import logging
from collections import deque

from events.messaging.port import Handler, Message

_log = logging.getLogger(__name__)


class Dispatcher:
    """Belongs to one subscription. `offer` never waits: a message is run, queued, or dropped and counted."""

    def __init__(self, name: str, handler: Handler, *, max_concurrent: int, max_pending: int) -> None:
        self._name = name
        self._handler = handler
        self._max_concurrent = max_concurrent
        self._max_pending = max_pending
        self._pending: deque[Message] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        # The subscriber's, not that of whoever happens to deliver the message.
        self._context = contextvars.copy_context()
        self.dropped = 0
        self.failed = 0

    def offer(self, message: Message) -> None:
        if self._closed:
            return
        if len(self._pending) >= self._max_pending:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8...: a flood must not flood the log file
                _log.warning("%s: %d messages dropped, the handler is too slow", self._name, self.dropped)
            return
        self._pending.append(message)
        if len(self._tasks) < self._max_concurrent:
            task = asyncio.get_running_loop().create_task(
                self._drain(), name=f"bus {self._name}", context=self._context.copy()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drop what waits, cancel what runs. A handler may close its own subscription."""
        self._closed = True
        self._pending.clear()
        running = self._tasks - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _drain(self) -> None:
        while self._pending:
            message = self._pending.popleft()
            try:
                await self._handler(message)
            except Exception:  # noqa: BLE001 - the edge: one bad message must not end the subscription
                self.failed += 1
                _log.exception("%s: handler failed on %s", self._name, message.subject)
        # In this very step: a message offered between here and the task's done callback needs a task of its own.
        if (task := asyncio.current_task()) is not None:
            self._tasks.discard(task)
