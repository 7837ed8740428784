"""One request's statement on its way through the engine: a connection, a lane, and the means to end it early."""

import secrets
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from controlplane.audit.engine import Engine
from controlplane.audit.engine_session import Figures, Session, SessionSpec
from controlplane.audit.lanes import Lane

T = TypeVar("T")

#: Between two attempts to end a statement: the first may come before the engine has started it.
_KILL_INTERVAL_S: Final = 0.05
#: After a minute the engine's own time-out must do.
_KILLS_MAX: Final = 1_200


class StatementRun:
    """A session, used on the threads of a lane of which the caller holds a slot."""

    def __init__(self, engine: Engine, lane: Lane, killer: Executor, session: Session) -> None:
        self._engine = engine
        self._lane = lane
        self._killer = killer
        self._session = session

    @property
    def figures(self) -> Figures:
        """What the statement has read and written so far."""
        return self._session.figures

    async def call(self, work: Callable[[Session], T], *, to_its_end: bool = False) -> T:
        """Run `work` on the lane. If the caller is cancelled the engine ends it, unless it must run `to_its_end`.

        Raises `EngineError`.
        """
        ended = threading.Event()

        def interrupt() -> None:
            self._killer.submit(self._kill_until, ended)

        try:
            return await self._lane.run(partial(work, self._session), interrupt=None if to_its_end else interrupt)
        finally:
            ended.set()

    async def close(self) -> None:
        """End the session. A result of which the rest is not wanted is ended first: chDB would compute it all."""
        ended = threading.Event()
        if self._session.is_streaming:
            self._killer.submit(self._kill_until, ended)
        try:
            await self._lane.run(self._session.close)
        finally:
            ended.set()

    def _kill_until(self, ended: threading.Event) -> None:
        for _ in range(_KILLS_MAX):
            self._engine.kill(self._session.tag)
            if ended.wait(_KILL_INTERVAL_S):
                return


@asynccontextmanager
async def open_run(engine: Engine, lane: Lane, killer: Executor, spec: SessionSpec) -> AsyncIterator[StatementRun]:
    """Wait for a slot, open a session, and close both in the end. Raises `LaneBusyError`, `EngineError`."""
    opened: list[StatementRun] = []

    def open_session() -> None:
        # Into a list, so that a session is closed also if the caller is cancelled while it opens.
        opened.append(StatementRun(engine, lane, killer, engine.session(spec)))

    async with lane.slot():
        try:
            await lane.run(open_session)
            yield opened[0]
        finally:
            for run in opened:
                await run.close()


def new_tag() -> str:
    """A tag that no other statement has."""
    return f"ringfence-{secrets.token_hex(8)}"
