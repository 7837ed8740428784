"""A leader that carries commands out at once, figures that a test sets, and an audit of canned rows.

The state is the real fold; only the log, the nodes and the barrier are missing.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from controlplane.api.ports import BadCursor, Filters, Page, ReportName, Row
from controlplane.commands.base import CommandRefusal, Decision, Moment
from controlplane.errors import CommandRefused
from events.state.control import ControlState
from events.types import By, ControlEvent
from schemas.amounts import Amounts

START_NS = 1_795_000_000_000_000_000
"""18 November 2026, mid-morning UTC."""

OPERATOR = By("op_test", "tester", "127.0.0.1", "")


class Sum(NamedTuple):
    settled: int = 0
    held: int = 0


class FakeFigures:
    """Figures by (kind, id, meter, window); all else is zero."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str, str, str], Sum] = {}
        self.unknown: dict[str, Amounts] = {}

    def figure(self, kind: str, account_id: str, meter: str, window: str, at_ns: int, zone: str, /) -> Sum:
        return self.sums.get((kind, account_id, meter, window), Sum())

    def unknown_bound(self, request_id: str, /) -> Amounts | None:
        return self.unknown.get(request_id)


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.ns = START_NS

    def __call__(self) -> int:
        return self.ns

    def advance_s(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class FakeLeader:
    """Folds what is decided, at the next sequence. `failures` are raised by the next commands, one each."""

    def __init__(self, clock: Clock) -> None:
        self.state = ControlState()
        self.budget = FakeFigures()
        self.clock = clock
        self.log: list[ControlEvent] = []
        self.barriers: list[int] = []
        self.failures: list[Exception] = []
        self._draws = itertools.count(1)

    def draw(self, size: int) -> bytes:
        return next(self._draws).to_bytes(size, "big")

    def record(self, *events: ControlEvent) -> None:
        """One message in the log."""
        seq = self.state.seq + 1
        for event in events:
            self.state.apply(seq, event)
            self.log.append(event)

    def run(self, decide: Callable[..., Any], by: By = OPERATOR) -> Any:
        """Carry a command out; the refusal is returned."""
        decision = decide(self.state, self.budget, Moment(self.clock.ns, self.draw, by))
        if isinstance(decision, CommandRefusal):
            return decision
        assert isinstance(decision, Decision)
        if decision.events:
            self.record(*decision.events)
        self.barriers.append(decision.barrier_seq)
        return decision.answer

    async def execute(self, decide: Callable[..., Any], by: By) -> Any:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        answer = self.run(decide, by)
        if isinstance(answer, CommandRefusal):
            raise CommandRefused(answer)
        return answer


class FakeAudit:
    """Canned rows; remembers what was asked. `failure` is raised instead if set."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None

    async def requests(self, filters: Filters, limit: int, cursor: str | None) -> Page:
        return self._page("requests", filters, limit, cursor)

    async def request(self, request_id: str) -> Row | None:
        if self.failure is not None:
            raise self.failure
        return next((row for row in self.rows if row.get("request_id") == request_id), None)

    async def report(self, name: ReportName, group_by: str, filters: Filters, limit: int, cursor: str | None) -> Page:
        return self._page(name, group_by, filters, limit, cursor)

    def _page(self, *asked: Any) -> Page:
        self.asked.append(asked)
        if self.failure is not None:
            raise self.failure
        if asked[-1] not in {None, "1"}:
            raise BadCursor
        return Page(self.rows, "1" if asked[-1] is None and self.rows else None)
