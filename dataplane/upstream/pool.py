"""The connections of one origin: who may use which, and who waits. All state changes are synchronous.

A **slot** is the right to have one connection; there are `max_connections`. It is held by a dial in progress, by an
open connection, or by a waiter whose turn has come; whoever gives it up hands it to the first waiter. So idle
connections and waiters never exist at the same time, nobody overtakes the queue, and a cancelled waiter passes on what
it was given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from dataplane.upstream.connection import Connection
from dataplane.upstream.errors import PoolFull, UpstreamError
from dataplane.upstream.origin import Origin
from dataplane.upstream.settings import UpstreamSettings
from dataplane.upstream.watchdog import Watchdog


class OriginPool:
    """See the module's page. `on_empty` is called whenever nothing is left here.

    slots: in use, at most `max_connections`. connections: every transport that is not yet gone (closing ones
    included). idle: free for use, the most recently used last. authority: the value of the Host header.
    """

    def __init__(
        self,
        origin: Origin,
        settings: UpstreamSettings,
        clock: Callable[[], float],
        watchdog: Watchdog,
        on_empty: Callable[[], None],
    ) -> None:
        self.origin = origin
        self.authority = origin.authority
        self.slots = 0
        self.connections: set[Connection] = set()
        self.idle: list[Connection] = []
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._name = str(origin)
        self._settings = settings
        self._clock = clock
        self._watchdog = watchdog
        self._on_empty = on_empty
        self._shut = False

    @property
    def empty(self) -> bool:
        return not (self.slots or self.connections or self.waiters)

    def take_idle(self, now_s: float) -> Connection | None:
        """The idle connection used last, if one is fit for use; unfit ones are closed on the way."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable(now_s):
                return connection
            connection.discard()
        return None

    def try_slot(self) -> bool:
        """Take a free slot, if there is one."""
        if self.slots >= self._settings.max_connections:
            return False
        self.slots += 1
        return True

    async def wait_turn(self) -> Connection | None:
        """Wait in line: an idle connection, or None for a slot to dial with. Raises PoolFull.

        The connection may have been closed again by the time the waiter runs: it checks `usable` and, if not,
        discards it and starts over.
        """
        limit = self._settings.max_waiting
        if len(self.waiters) >= limit:
            raise PoolFull(f"{self._name}: all connections are busy and {limit} requests wait", sent=False)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self.waiters.append(turn)
        timer = loop.call_later(self._settings.acquire_timeout_s, self._give_up, turn)
        try:
            return await turn
        except BaseException:
            self._withdraw(turn)
            raise
        finally:
            timer.cancel()

    def shut(self, failure: UpstreamError) -> None:
        """Nobody's turn will come any more, and connections are closed as soon as they are idle."""
        self._shut = True
        while self.waiters:
            turn = self.waiters.popleft()
            if not turn.done():
                turn.set_exception(failure)
        for connection in list(self.idle):
            connection.close()

    def add(self) -> Connection:
        """A new connection, still to be dialled, for a slot that the caller holds and the connection takes over."""
        connection = Connection(self, self._name, self._settings, self._clock, self._watchdog)
        self.connections.add(connection)
        self._watchdog.add(connection)
        return connection

    # Calls from connections.

    def put(self, connection: Connection) -> None:
        """An idle connection: for the first waiter, or kept."""
        connection.kept = True
        while self.waiters:
            turn = self.waiters.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if self._shut:
            connection.close()
        else:
            self.idle.append(connection)

    def leave(self, connection: Connection) -> None:
        """A connection is closed; its slot is for the first waiter, or free."""
        if connection in self.idle:
            self.idle.remove(connection)
        self.free_slot()

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._watchdog.discard(connection)
        self._tell_if_empty()

    def free_slot(self) -> None:
        while self.waiters:
            turn = self.waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.slots -= 1
        self._tell_if_empty()

    def _give_up(self, turn: asyncio.Future[Connection | None]) -> None:
        if not turn.done():
            waited_s = self._settings.acquire_timeout_s
            detail = f"{self._name}: no connection became free within {waited_s:g} s"
            turn.set_exception(PoolFull(detail, sent=False))

    def _withdraw(self, turn: asyncio.Future[Connection | None]) -> None:
        """A waiter leaves: out of the line, or what it was given goes to the next."""
        if turn in self.waiters:
            self.waiters.remove(turn)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            connection = turn.result()
            if connection is None:
                self.free_slot()
            elif not connection.closed:
                self.put(connection)

    def _tell_if_empty(self) -> None:
        if self.empty:
            self._on_empty()
