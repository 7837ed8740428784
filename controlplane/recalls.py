"""Getting lent money back: which lines are tight, whom to recall them from, and when again (rules G5 and G8).

A line becomes tight when somebody waits for it: for a while it is lent in exact amounts only, and what nodes have
free of it is recalled, again and again until it is no longer wanted. A node that was granted something a moment ago
is left alone for that long: its request is on the way. Recalls need no answer; the log shows what came back.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from events.state.budget import Budget

MAX_REMEMBERED = 20_000
"""Grants and tight lines remembered at a time; each lives for a second at most, and old ones go at this size."""


class RecallOrder(NamedTuple):
    """Ask this incarnation to return what it has free of these lines."""

    incarnation: str
    lines: tuple[str, ...]


class Recalls:
    """All times are on the elapsed clock, in nanoseconds."""

    def __init__(self, budget: Budget, *, every_ns: int, tight_ns: int) -> None:
        self._budget = budget
        self._every_ns = every_ns
        self._tight_ns = tight_ns
        self._tight_until: dict[str, int] = {}
        self._recalled: dict[tuple[str, str], int] = {}
        self._granted: dict[tuple[str, str], int] = {}

    def is_tight(self, line: str, now_ns: int) -> bool:
        return self._tight_until.get(line, 0) > now_ns

    def granted(self, incarnation: str, lines: Iterable[str], now_ns: int) -> None:
        """The incarnation was just granted some of these lines."""
        if len(self._granted) > MAX_REMEMBERED:
            self._granted = {name: at for name, at in self._granted.items() if now_ns - at < self._every_ns}
        for line in lines:
            self._granted[incarnation, line] = now_ns

    def round(
        self, wanted: Collection[str], excess: Collection[str], now_ns: int
    ) -> tuple[list[RecallOrder], int | None]:
        """Whom to recall lines from now, and when to look again (None: nothing is lent out).

        `wanted`: somebody waits for these; nodes whose requests hold all of it are told too, now and then, or what
        those leave over would serve whoever comes next at that node. `excess`: too much is lent of these.
        """
        orders: dict[str, list[str]] = {}
        next_ns: int | None = None
        for line in sorted({*wanted, *excess}):  # in one order, so that the same seed gives the same run
            self._tight_until[line] = now_ns + self._tight_ns
            for incarnation, free in self._budget.leases.borrowers(line):
                if free <= 0 and line not in wanted:
                    continue
                name = (incarnation, line)
                every_ns = self._every_ns if free > 0 else self._tight_ns // 2
                granted_ns = self._granted.get(name, -self._every_ns) + self._every_ns
                due_ns = max(granted_ns, self._recalled.get(name, -every_ns) + every_ns)
                if due_ns <= now_ns:
                    orders.setdefault(incarnation, []).append(line)
                    self._recalled[name] = now_ns
                    due_ns = now_ns + every_ns
                next_ns = due_ns if next_ns is None else min(next_ns, due_ns)
        self._forget(now_ns)
        return [RecallOrder(incarnation, tuple(lines)) for incarnation, lines in orders.items()], next_ns

    def _forget(self, now_ns: int) -> None:
        if len(self._tight_until) > MAX_REMEMBERED:
            self._tight_until = {line: until for line, until in self._tight_until.items() if until > now_ns}
        if len(self._recalled) > MAX_REMEMBERED:
            self._recalled = {name: at for name, at in self._recalled.items() if now_ns - at < self._every_ns}
