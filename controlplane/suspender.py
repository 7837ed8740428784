"""Suspends keys and agents that were refused for an exhausted cap and asked for it (`on_exhausted: suspend`).

After the refusal, and without delaying it: the command takes its own way through the log and the barrier.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from controlplane.errors import BarrierOpen, CommandRefused, LogUnavailable, NotLeading
from events.state.control import ControlState
from events.state.replica import Replica
from events.tasks import Tasks
from events.types import SYSTEM, AgentSuspended, By, KeySuspended
from schemas.accounts import Line, account_key, parse_line

Execute = Callable[[Callable[[ControlState, Figures, Moment], "Decision[None] | CommandRefusal"], By], Awaitable[Any]]

_log = logging.getLogger(__name__)


class Suspender:
    """`execute` is the leader's. One suspension per account is under way at a time."""

    def __init__(self, replica: Replica, execute: Execute, tasks: Tasks) -> None:
        self._replica = replica
        self._execute = execute
        self._tasks = tasks
        self._under_way: set[str] = set()

    def suspend(self, exhausted: str) -> None:
        """A request was refused because this line is exhausted."""
        line = parse_line(exhausted)
        account = account_key(line.kind, line.id)
        if account in self._under_way or not wants_suspension(self._replica.state, line):
            return
        self._under_way.add(account)
        self._tasks.once(self._carry_out(account, line), f"suspend {account}")

    async def _carry_out(self, account: str, line: Line) -> None:
        by = By(operator=SYSTEM.operator, name=SYSTEM.name, reason=f"{line.window} cap of {line.meter} exhausted")
        try:
            await self._execute(suspension(line, by), by)
        except (LogUnavailable, BarrierOpen, NotLeading, CommandRefused) as error:
            # The next refusal tries again; until then each request is refused for the cap itself.
            _log.warning("%s is not suspended yet: %s", account, type(error).__name__)
        finally:
            self._under_way.discard(account)


def wants_suspension(state: ControlState, line: Line) -> bool:
    """Whether the line's account is a live key or agent that asked for it.

    `max_uses` is no such cap: a key whose uses are spent is spent, not suspended.
    """
    if line.kind == "key":
        key = state.keys.get(line.id)
        spent = line.meter == "requests" and line.window == "total"
        return key is not None and key.on_exhausted == "suspend" and key.state == "active" and not spent
    if line.kind == "agent":
        agent = state.agents.get(line.id)
        return agent is not None and agent.on_exhausted == "suspend" and agent.state == "active"
    return False


def suspension(line: Line, by: By) -> Callable[[ControlState, Figures, Moment], Decision[None]]:
    def decide(state: ControlState, _: Figures, __: Moment) -> Decision[None]:
        if not wants_suspension(state, line):
            return Decision((), None)
        event = KeySuspended(line.id, by) if line.kind == "key" else AgentSuspended(line.id, by)
        return Decision((event,), None)

    return decide
