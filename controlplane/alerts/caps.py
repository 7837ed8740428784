"""Where caps stand: a slow walk over the lines in use, for alerts and for metrics. Reads the folds, changes nothing.

A hundred thousand keys have as many lines; looking at all of them at once would stall the ledger. So each look takes
some, and goes round; what is alerted already, and what a request was just refused for, is looked at every time.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from controlplane.alerts.judge import Signal
from controlplane.alerts.signals import between
from controlplane.ledger_lines import Lines, Need, parse_need
from events.state.alerts import AlertFold
from events.state.replica import Replica
from schemas.accounts import MONEY_METERS, account_key, line_key, window_start_s
from schemas.money import format_usd

LINES_A_LOOK = 500
"""About 5 ms of work with twenty nodes, once a second."""

TOP = 20
"""Capped lines of each kind of account that metrics name: those nearest to their caps. Of each kind, so that a hundred
keys at their ends do not hide the team that pays for them."""

NEARING, NEARING_CLEAR = 0.8, 0.75
REACHED, REACHED_CLEAR = 1.0, 0.95

MAX_REFUSED = 200
"""Lines remembered between two looks as just refused."""


class CapFigure(NamedTuple):
    """One capped line of a running window, in its meter's unit. `leased`: what nodes have free of it."""

    kind: str
    id: str
    meter: str
    window: str
    cap: int
    settled: int
    held: int
    leased: int

    @property
    def exposure(self) -> int:
        """What may be spent at the worst: settled, held, and lent out."""
        return self.settled + self.held + self.leased

    @property
    def share(self) -> float:
        """Of the cap, what is settled or held."""
        return (self.settled + self.held) / self.cap if self.cap else float(self.settled + self.held > 0)


class LeaseTotals(NamedTuple):
    """Of all lines of one account kind and meter: `granted` and not returned, and what is `free` of it."""

    granted: Counter[tuple[str, str]]
    free: Counter[tuple[str, str]]


class CapWalk:
    """Goes round all lines. `top` and `totals` are of the last whole round."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._lines = Lines(replica)
        self._round: list[str] = []
        self._at = 0
        self._found: dict[str, list[CapFigure]] = {}
        self._totals = LeaseTotals(Counter(), Counter())
        self._refused: dict[str, None] = {}
        self.top: list[CapFigure] = []
        self.totals = LeaseTotals(Counter(), Counter())

    def refused(self, line: str) -> None:
        """A request did not fit into this line."""
        if len(self._refused) < MAX_REFUSED:
            self._refused[line] = None

    def look(self, fold: AlertFold, wall_ns: int) -> Iterator[Signal]:
        """Signals of the next lines, of those that are alerted, and of those that refused since the last look."""
        refused, self._refused = self._refused, {}
        shown: dict[str, CapFigure] = {}
        for kind, subject in fold.open:
            if kind in {"cap_nearing", "cap_reached"} and (figure := self._named(subject, wall_ns)) is not None:
                shown[subject] = figure
        for figure in self._next(wall_ns):
            if figure.share >= NEARING_CLEAR:
                shown[_subject(figure)] = figure
        hit = set()
        for line in refused:
            if (figure := self._at_line(line, wall_ns)) is not None:
                hit.add(_subject(figure))
                shown[_subject(figure)] = figure
        for subject, figure in shown.items():
            yield from _signals(subject, figure, refused=subject in hit)

    def _next(self, wall_ns: int) -> Iterator[CapFigure]:
        if not self._round:
            self._round = self._replica.budget.leases.lines()
        part = self._round[self._at : self._at + LINES_A_LOOK]
        self._at += LINES_A_LOOK
        for line in part:
            need = parse_need(line, 1)
            granted, free = self._replica.budget.leases.lent(line)
            self._totals.granted[need.kind, need.meter] += granted
            self._totals.free[need.kind, need.meter] += free
            if (figure := self._figure(need, free, wall_ns)) is not None:
                self._found.setdefault(need.kind, []).append(figure)
                yield figure
        self._found = {kind: heapq.nlargest(TOP, found, key=_exposure_share) for kind, found in self._found.items()}
        if self._at >= len(self._round):
            self.top, self.totals = [figure for found in self._found.values() for figure in found], self._totals
            self._round, self._at, self._found = [], 0, {}
            self._totals = LeaseTotals(Counter(), Counter())

    def _figure(self, need: Need, leased: int, wall_ns: int) -> CapFigure | None:
        """None: not capped (any more), another window than the running one, a key's uses (spent is no alert), or an
        ended key's: nobody can spend of it, and it would stand at its cap until it is forgotten.
        """
        if need.kind == "key":
            key = self._replica.state.keys.get(need.account_id)
            if key is None or key.ended(wall_ns) or (need.meter, need.window) == ("requests", "total"):
                return None
        found = self._lines.running_cap(need, wall_ns)
        if found is None:
            return None
        cap, zone = found
        settled, held, _ = self._replica.budget.line(need.line, zone)
        return CapFigure(need.kind, need.account_id, need.meter, need.window, cap, settled, held, leased)

    def _at_line(self, line: str, wall_ns: int) -> CapFigure | None:
        return self._figure(parse_need(line, 1), self._replica.budget.leases.leased(line), wall_ns)

    def _named(self, subject: str, wall_ns: int) -> CapFigure | None:
        """The running window of an alert's subject."""
        kind, account_id, meter, window = subject.split(":", 3)
        account = self._replica.state.budgets.get(account_key(kind, account_id))
        if account is None:
            return None
        line = line_key(kind, account_id, meter, window, window_start_s(window, wall_ns, account.zone))
        return self._at_line(line, wall_ns)


def _subject(figure: CapFigure) -> str:
    return f"{figure.kind}:{figure.id}:{figure.meter}:{figure.window}"


def _exposure_share(figure: CapFigure) -> float:
    return figure.exposure / figure.cap if figure.cap else float("inf")


def _signals(subject: str, figure: CapFigure, *, refused: bool) -> Iterator[Signal]:
    money = figure.meter in MONEY_METERS
    shown = {
        name: format_usd(amount) if money else str(amount)
        for name, amount in (("cap", figure.cap), ("settled", figure.settled), ("held", figure.held))
    }
    cap = f"the {figure.window} cap of {shown['cap']} {figure.meter}"
    used = f"{figure.kind} {figure.id}: {figure.share:.0%} of {cap} is used"
    yield Signal("cap_nearing", subject, between(figure.share, NEARING, NEARING_CLEAR), used, shown)
    if refused:
        text = f"{figure.kind} {figure.id}: a request did not fit {cap}, of which {figure.share:.0%} is used"
        yield Signal("cap_reached", subject, True, text, shown)
    else:
        yield Signal("cap_reached", subject, between(figure.share, REACHED, REACHED_CLEAR), used, shown)
