"""Leases that are out although the cap no longer allows them, and how they come back (rule G8, docs/PROTOCOL.md).

Three things leave too much lent out: a cap that was lowered or added, a request that cost more than its bound (or more
than an operator had said), and a change of zone, after which old leases are on windows that no longer exist. Until
nothing of it is left, those lines are recalled, nothing more is lent on them, and the barrier of the change that caused
it stays open.

A change is watched until its barrier is complete, because requests that need no lease (the account had no such cap)
are admitted by nodes that have not applied it yet, and count. Where they took the account above its cap, it is watched
until the requests have ended that hold leases on it: what they leave over is free again, and too much.
"""

from controlplane.ledger_lines import Lines, Need, parse_need
from events.state.replica import Replica


class Lowered:
    """Accounts to watch, by (kind, id). `since` is the control log's sequence of the change."""

    def __init__(self, replica: Replica, lines: Lines) -> None:
        self._replica = replica
        self._lines = lines
        self._changed: dict[tuple[str, str], int] = {}
        self._overran: set[tuple[str, str]] = set()
        self.stray_spans: frozenset[tuple[str, ...]] = frozenset()
        """Caps of which old leases are out on windows that no longer exist: nothing is lent on them."""

    @property
    def watching(self) -> bool:
        """Whether any account is watched."""
        return bool(self._changed or self._overran)

    @property
    def newest_change(self) -> int:
        """The sequence of the newest change that is watched; 0 if there is none."""
        return max(self._changed.values(), default=0)

    def resume(self, applied_seq: int) -> None:
        """Begin to lead: watch changes that some node may not have applied, and whatever is over-lent already.

        Whoever applied a change may still hold what was lent before it, so being applied is not enough.
        """
        for name, seq in self._replica.state.budget_seqs.items():
            kind, _, account_id = name.partition(":")
            if seq > applied_seq or self._may_be_too_much(kind, account_id):
                self._changed[kind, account_id] = seq

    def changed(self, kind: str, account_id: str, seq: int) -> None:
        """A BudgetSet was folded."""
        self._changed[kind, account_id] = seq

    def overran(self, accounts: set[tuple[str, str]]) -> None:
        """Requests cost more than was held or counted for them."""
        self._overran |= accounts

    def confirmed(self, seq: int) -> None:
        """All nodes act on `seq`: what is not over-lent by now, and cannot become so by what requests leave over of
        their leases, need not be watched any more.
        """
        if self._changed:
            self._changed = {
                account: since
                for account, since in self._changed.items()
                if since > seq or self._may_be_too_much(*account)
            }

    def clear(self, seq: int) -> bool:
        """Whether no change at or before `seq` leaves too much lent out."""
        return not any(since <= seq and self._too_much(*account) for account, since in self._changed.items())

    def holders(self, seq: int) -> set[str]:
        """Incarnations that have something free of what changes at or before `seq` left lent out."""
        lines = [
            need.line for account, since in self._changed.items() if since <= seq for need in self._too_much(*account)
        ]
        return {holder for line in lines for holder in self._replica.budget.leases.holders(line)}

    def lines(self) -> set[str]:
        """Lines to recall now."""
        if not self._changed and not self._overran:
            self.stray_spans = frozenset()
            return set()
        self._overran = {account for account in self._overran if self._may_be_too_much(*account)}
        needs = [need for account in {*self._changed, *self._overran} for need in self._too_much(*account)]
        self.stray_spans = frozenset(need.span for need in needs if self._is_stray(need))
        return {need.line for need in needs}

    def _too_much(self, kind: str, account_id: str) -> list[Need]:
        budget = self._replica.budget
        found = []
        for line in budget.leases.lines_of(kind, account_id):
            if budget.leases.leased(line) <= 0:
                continue
            need = parse_need(line, 1)
            room = self._lines.room(need)
            if room is not None and (room.free < 0 or self._is_stray(need)):
                found.append(need)
        return found

    def _may_be_too_much(self, kind: str, account_id: str) -> bool:
        """Whether too much is lent, or will be once requests end."""
        return bool(self._too_much(kind, account_id)) or self._may_free(kind, account_id)

    def _may_free(self, kind: str, account_id: str) -> bool:
        """Whether requests hold something of a line that is below zero: what they leave over is lent too much."""
        for line in self._replica.budget.leases.lines_of(kind, account_id):
            need = parse_need(line, 1)
            room = self._lines.room(need)
            if room is not None and room.free < 0 and self._lines.figures(need)[1] > 0:
                return True
        return False

    def _is_stray(self, need: Need) -> bool:
        """On a capped meter and window, but not on one of the account's windows."""
        found = self._lines.cap(need)
        return found is not None and not self._lines.exists(need, found[1])
