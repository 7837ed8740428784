"""What is lent to nodes: per incarnation and line, how much of its lease is free.

    free = granted - returned - used - reserved

`granted` comes from the control log, the rest from the node's own log, and each is a sum or a largest figure,
so the order in which the two logs are folded does not matter. While one fold is ahead of the other, `free`
may be below zero for a moment; a line counts such a lease as nothing, never as room.

A fenced incarnation has no leases, whatever messages still arrive about it (rule F2, docs/PROTOCOL.md): the
fence is in the node log, `NodeFenced` in the control log says that no grant for it can follow. Until both
have been folded its id is remembered.

A *kept* incarnation is one whose log makes no sense from some message on (events.state.node_logs). What it did
after that is not known, but it was within its leases: they stay lent out, fenced or not, and nobody is asked for
them, until their windows end.

Leases on windows that ended days ago are dropped (`advance`), and nothing brings them back.
"""

from collections.abc import Iterator, Mapping

import msgspec

from events.state.four import Four
from schemas.accounts import METERS, Span, account_key, split_line

_HOUR_S = 3_600
_DAY_S = 86_400

_LENGTH_S = {"hour": _HOUR_S, "day": 25 * _HOUR_S, "month": 31 * _DAY_S + _HOUR_S}
"""The longest that a window lasts (a day of 25 hours when daylight saving ends)."""

KEPT_S = 2 * _DAY_S
"""A lease goes this long after its window's end. Requests admitted in it may still settle; none is admitted."""


class LineTotal(msgspec.Struct, eq=False, gc=False):  # neither it nor a lease is in a cycle, and there are very many
    """What all nodes together have free of one line, and how many have a lease on it."""

    meter: int
    leased: int = 0
    leases: int = 0


class Lease(msgspec.Struct, eq=False, gc=False):
    """One incarnation's lease on one line; `granted` and `returned` are cumulative."""

    line: LineTotal
    granted: int = 0
    returned: int = 0
    free: int = 0

    def move(self, amount: int) -> None:
        """Change what is free, and the line's total with it."""
        before = self.free
        after = self.free = before + amount
        if before >= 0 and after >= 0:  # all but always
            self.line.leased += amount
        else:
            self.line.leased += max(0, after) - max(0, before)


class Draw:
    """The leases of one incarnation behind certain lines: what a request reserves in and settles on.

    Requests of one key have the same lines, ten of them if all its accounts are capped. What they reserve and leave
    over is summed up here, and told to the leases when somebody looks (`Leases.tell_all`).
    """

    __slots__ = ("_leases", "_refund", "_requests", "_tokens", "_untold", "_usd", "_waits", "lines")

    def __init__(self, lines: tuple[str, ...], leases: tuple[Lease, ...], untold: "list[Draw]") -> None:
        self.lines = lines
        self._leases = leases
        self._usd = self._refund = self._requests = self._tokens = 0
        self._untold = untold
        self._waits = False

    def reserve(self, bound: Four) -> None:
        """A request is admitted."""
        usd, refund, requests, tokens = bound
        self.free((-usd, -refund, -requests, -tokens))

    def free(self, amounts: Four) -> None:
        """A request leaves this over."""
        if not self._leases:
            return
        if not self._waits:
            self._waits = True
            self._untold.append(self)
        usd, refund, requests, tokens = amounts
        self._usd += usd
        self._requests += requests
        if refund:
            self._refund += refund
        if tokens:
            self._tokens += tokens

    def tell(self) -> None:
        """Bring the leases and their lines up to date. For `Leases.tell_all`."""
        moved = (self._usd, self._refund, self._requests, self._tokens)
        for lease in self._leases:
            lease.move(moved[lease.line.meter])
        self._usd = self._refund = self._requests = self._tokens = 0
        self._waits = False


NO_DRAW = Draw((), (), [])
"""Of a request without capped lines, or whose incarnation was fenced."""

MAX_DRAWS = 65_536
"""Different sets of lines remembered; a cache, emptied when full and every hour."""


class Leases:
    """All leases of incarnations that are not fenced."""

    def __init__(self) -> None:
        self.edge_s = 0
        self.fenced: set[str] = set()
        """Fenced in the node log; the control log's NodeFenced is still to come."""
        self.ended: set[str] = set()
        """The other way round."""
        self.kept: set[str] = set()
        """Their leases never return."""
        self._by_incarnation: dict[str, dict[str, Lease]] = {}
        self._lines: dict[str, LineTotal] = {}
        self._by_account: dict[str, set[str]] = {}
        self._draws: dict[tuple[str, tuple[str, ...]], Draw] = {}
        """By incarnation and lines."""
        self._untold: list[Draw] = []

    def leased(self, line: str) -> int:
        """What is free of the line in all nodes' hands."""
        self.tell_all()
        total = self._lines.get(line)
        return total.leased if total is not None else 0

    def lines_of(self, kind: str, account_id: str) -> tuple[str, ...]:
        """Lines of the account that any node has a lease on, in a fixed order."""
        return tuple(sorted(self._by_account.get(account_key(kind, account_id), ())))

    def lines(self) -> list[str]:
        """All lines that any node has a lease on, now."""
        return list(self._lines)

    def lent(self, line: str) -> tuple[int, int]:
        """What of the line was granted to living incarnations and not returned, and what is free of it."""
        granted = 0
        for leases in self._by_incarnation.values():
            if (lease := leases.get(line)) is not None:
                granted += max(0, lease.granted - lease.returned)
        return granted, self.leased(line)

    def leased_lines(self) -> tuple[str, ...]:
        """All lines of which something is lent out."""
        self.tell_all()
        return tuple(line for line, total in self._lines.items() if total.leased > 0)

    def holders(self, line: str) -> list[str]:
        """Incarnations that have some of the line free."""
        self.tell_all()
        return [
            incarnation
            for incarnation, leases in self._by_incarnation.items()
            if (lease := leases.get(line)) is not None and lease.free > 0 and incarnation not in self.kept
        ]

    def borrowers(self, line: str) -> list[tuple[str, int]]:
        """Incarnations that did not return all that they were lent, and what they have free of it. Of one that has
        nothing free, requests may still leave something over.
        """
        self.tell_all()
        return [
            (incarnation, lease.free)
            for incarnation, leases in self._by_incarnation.items()
            if (lease := leases.get(line)) is not None
            and lease.granted > lease.returned
            and incarnation not in self.kept
        ]

    def granted(self, incarnation: str, line: str) -> int:
        """Cumulative grants of the line to the incarnation."""
        lease = self._by_incarnation.get(incarnation, {}).get(line)
        return lease.granted if lease is not None else 0

    def grant(self, incarnation: str, granted: Mapping[str, int]) -> None:
        """The control log says: these are the incarnation's cumulative grants."""
        if incarnation in self.fenced and incarnation not in self.kept:
            return
        leases = self._leases_of(incarnation)
        for line, amount in granted.items():
            lease = leases.get(line) or self._lease(leases, line)
            if lease is not None and amount > lease.granted:
                lease.move(amount - lease.granted)
                lease.granted = amount

    def give_back(self, incarnation: str, returned: Mapping[str, int]) -> None:
        """The node's log says: these are its cumulative returns."""
        leases = self._leases_of(incarnation)
        for line, amount in returned.items():
            lease = leases.get(line) or self._lease(leases, line)
            if lease is not None and amount > lease.returned:
                lease.move(lease.returned - amount)
                lease.returned = amount

    def draw(self, incarnation: str, lines: tuple[str, ...]) -> Draw:
        """The leases behind lines; without those of a fenced incarnation, ended windows or malformed lines."""
        draw = self._draws.get((incarnation, lines))
        if draw is None:
            if incarnation in self.fenced:
                return Draw(lines, (), self._untold)
            if len(self._draws) >= MAX_DRAWS:
                self._draws.clear()
            leases = self._leases_of(incarnation)
            found = [leases.get(line) or self._lease(leases, line) for line in lines]
            draw = Draw(lines, tuple([lease for lease in found if lease is not None]), self._untold)
            self._draws[incarnation, lines] = draw
        return draw

    def tell_all(self) -> None:
        """Bring all leases up to date: before anybody looks at what is free."""
        for draw in self._untold:
            draw.tell()
        self._untold.clear()

    def fence(self, incarnation: str) -> None:
        """The fold of the node log has passed the incarnation's fence: its leases are void at once."""
        if incarnation in self.ended:
            self.ended.remove(incarnation)
        else:
            self.fenced.add(incarnation)
        self._forget_draws()
        if incarnation in self.kept:
            return
        for line, lease in self._by_incarnation.pop(incarnation, {}).items():
            self._detach(line, lease)

    def keep(self, incarnation: str) -> None:
        """Its log is not believed any more: what it was lent and is not known to have used stays lent."""
        self.kept.add(incarnation)

    def end(self, incarnation: str) -> None:
        """The control log says that the incarnation is fenced: no later event grants it anything."""
        if incarnation in self.fenced:
            self.fenced.remove(incarnation)
        else:
            self.ended.add(incarnation)

    def advance(self, edge_s: int) -> None:
        """The control log's time has reached `edge_s`: drop leases on windows that ended long ago."""
        self.edge_s = edge_s
        self._forget_draws()
        for leases in self._by_incarnation.values():
            for line in [line for line in leases if self._is_over(split_line(line)[1])]:
                self._detach(line, leases.pop(line))

    def rows(self) -> Iterator[tuple[str, str, int, int, int]]:
        """(incarnation, line, granted, returned, free), in one order for equal leases."""
        self.tell_all()
        for incarnation in sorted(self._by_incarnation):
            leases = self._by_incarnation[incarnation]
            for line in sorted(leases):
                lease = leases[line]
                if lease.granted or lease.returned or lease.free:
                    yield incarnation, line, lease.granted, lease.returned, lease.free

    def load(self, rows: list[tuple[str, str, int, int, int]]) -> None:
        """Take what `rows` of equal leases gave."""
        for incarnation, line, granted, returned, free in rows:
            lease = self._lease(self._leases_of(incarnation), line)
            if lease is not None:
                lease.granted, lease.returned = granted, returned
                lease.move(free)

    def _leases_of(self, incarnation: str) -> dict[str, Lease]:
        leases = self._by_incarnation.get(incarnation)
        if leases is None:
            leases = self._by_incarnation[incarnation] = {}
        return leases

    def _lease(self, leases: dict[str, Lease], line: str) -> Lease | None:
        """A lease that an incarnation, of which these are all, does not have yet; None as for `_open_line`."""
        total = self._lines.get(line) or self._open_line(line)
        if total is None:
            return None
        total.leases += 1
        lease = leases[line] = Lease(total)
        return lease

    def _open_line(self, line: str) -> LineTotal | None:
        """None: the text is no line (a node's defect, which must not stop the fold), or its window is over."""
        try:
            account, span = split_line(line)
            meter = METERS.index(span.meter)  # ValueError for what is no meter
        except ValueError:
            return None
        if self._is_over(span):
            return None
        total = self._lines[line] = LineTotal(meter)
        lines = self._by_account.get(account)
        if lines is None:
            self._by_account[account] = {line}
        else:
            lines.add(line)
        return total

    def _is_over(self, span: Span) -> bool:
        length_s = _LENGTH_S.get(span.window)
        return length_s is not None and span.start_s + length_s + KEPT_S < self.edge_s

    def _forget_draws(self) -> None:
        """Leases are about to go. Requests that still settle on one move a total that nobody reads."""
        self.tell_all()
        self._draws.clear()

    def _detach(self, line: str, lease: Lease) -> None:
        """The lease counts no more."""
        lease.line.leased -= max(0, lease.free)
        lease.line.leases -= 1
        if not lease.line.leases:
            del self._lines[line]
            account, _ = split_line(line)
            self._by_account[account].discard(line)
            if not self._by_account[account]:
                del self._by_account[account]
        lease.line = LineTotal(lease.line.meter)
