"""Lines as the ledger judges them: which may be lent now, and how much room each has.

A line may be lent if its account has a cap on that meter and window, and if it is the window that runs now or the
next one, by the ledger's clock and in the account's zone (rule G3, docs/PROTOCOL.md). Everything else is
`window_turned`: the node computes its lines anew.
"""

from typing import NamedTuple

from events.state.replica import Replica
from schemas.accounts import NANOS_PER_S, account_key, parse_line, window_end_s, window_start_s

MAX_WINDOWS = 1_000
"""Windows whose ends are remembered: the running and the next one in some hundred zones."""

MAX_LINES = 64
"""Of one ask: four accounts with three meters and four windows each are 48."""


class Need(NamedTuple):
    """One line of an ask, taken apart once."""

    line: str
    amount: int
    kind: str
    account_id: str
    meter: str
    window: str
    start_s: int

    @property
    def span(self) -> tuple[str, str, str, str]:
        """The cap that the line belongs to, whatever its window's start."""
        return self.kind, self.account_id, self.meter, self.window


class Room:
    """A line at one moment. `free` is what may still be lent; a grant takes from it until the next look."""

    __slots__ = ("cap", "free", "spent", "zone")

    def __init__(self, cap: int, zone: str, spent: int, free: int) -> None:
        self.cap = cap
        self.zone = zone
        self.spent = spent
        self.free = free

    def refuses(self, amount: int) -> bool:
        """Whether settled + held + amount > cap: what a 402 means (rule G4)."""
        return self.spent + amount > self.cap


class Windows:
    """Where the running window of each kind and zone begins and ends; computed once per window."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, int]] = {}
        self._ends: dict[tuple[str, int, str], int | None] = {}

    def end_s(self, window: str, start_s: int, zone: str) -> int | None:
        """Unix seconds at which a window ends; None for `total`."""
        name = (window, start_s, zone)
        if name not in self._ends:
            if len(self._ends) >= MAX_WINDOWS:
                self._ends.clear()
            self._ends[name] = window_end_s(window, start_s, zone)
        return self._ends[name]

    def lendable(self, window: str, start_s: int, zone: str, wall_ns: int) -> bool:
        """Whether a window that begins at `start_s` is the running one or the next."""
        if window == "total":
            return start_s == 0
        begins_s, ends_s = self._running(window, zone, wall_ns)
        return start_s in {begins_s, ends_s}

    def runs(self, window: str, start_s: int, zone: str, wall_ns: int) -> bool:
        """Whether the window that begins at `start_s` is the running one."""
        return start_s == (0 if window == "total" else self._running(window, zone, wall_ns)[0])

    def _running(self, window: str, zone: str, wall_ns: int) -> tuple[int, int]:
        wall_s = wall_ns // NANOS_PER_S
        known = self._known.get((window, zone))
        if known is not None and known[0] <= wall_s < known[1]:
            return known
        start_s = window_start_s(window, wall_ns, zone)
        end_s = window_end_s(window, start_s, zone)
        running = (start_s, start_s if end_s is None else end_s)
        self._known[window, zone] = running
        return running


class Lines:
    """Looks lines up in the replica. Holds no state but the running windows."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._windows = Windows()

    def cap(self, need: Need) -> tuple[int, str] | None:
        """(cap, zone) of the line's account; None if that meter and window is not capped."""
        account = self._replica.state.budgets.get(account_key(need.kind, need.account_id))
        if account is None:
            return None
        for cap in account.caps:
            if cap.meter == need.meter and cap.window == need.window:
                return cap.amount, account.zone
        return None

    def lendable(self, need: Need, wall_ns: int) -> bool:
        found = self.cap(need)
        return found is not None and self._windows.lendable(need.window, need.start_s, found[1], wall_ns)

    def running_cap(self, need: Need, wall_ns: int) -> tuple[int, str] | None:
        """(cap, zone) of a capped line of the window that runs now; None for any other."""
        found = self.cap(need)
        if found is None or not self._windows.runs(need.window, need.start_s, found[1], wall_ns):
            return None
        return found

    def exists(self, need: Need, zone: str) -> bool:
        """Whether some window of that kind and zone begins where the line says."""
        if need.window == "total":
            return need.start_s == 0
        return window_start_s(need.window, need.start_s * NANOS_PER_S, zone) == need.start_s

    def room(self, need: Need) -> Room | None:
        """The line's room now; None if it has no cap (any more)."""
        found = self.cap(need)
        if found is None:
            return None
        cap, zone = found
        settled, held, leased = self._replica.budget.line(need.line, zone)
        return Room(cap, zone, settled + held, cap - settled - held - leased)

    def end_s(self, need: Need) -> int | None:
        """Unix seconds at which the line's window ends; None for `total`."""
        found = self.cap(need)
        return self._windows.end_s(need.window, need.start_s, found[1] if found is not None else "UTC")

    def figures(self, need: Need) -> tuple[int, int]:
        """(settled, held) of a line that has room."""
        found = self.cap(need)
        figure = self._replica.budget.line(need.line, found[1] if found is not None else "UTC")
        return figure.settled, figure.held


def parse_need(line: str, amount: int) -> Need:
    """Raises ValueError for what is no line, or for an amount that is not above zero."""
    parsed = parse_line(line)
    if amount <= 0:
        raise ValueError("an amount is above zero")
    return Need(line, amount, *parsed)
