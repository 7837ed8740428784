"""Leases and reservations of one incarnation: integers per line, and who waits for them.

The idea
    A lease is a part of a line's remaining cap that the ledger lent to this incarnation. Admission takes the bound
    out of `free` in every line at once, settlement turns what was used of it into `used` and frees the rest:

        free = granted - returned - used - reserved        (the same arithmetic as the ledger's fold)

    `granted` and `returned` are cumulative over the incarnation's life, so a grant that comes late, twice or after
    its own recall changes nothing (rule G2, scenario 8). `free` is never negative.

| step | granted | returned | used | reserved |
|---|---|---|---|---|
| `credit` | to the highest figure seen | | | |
| `reserve` | | | | + bound |
| `settle` | | | + min(bound, reported) | - bound |
| `release` | | | | - bound |
| `give_back` | | + free | | |

Waiting (rules G1, G6)
    A request that lacks something holds nothing while it waits. Waiting requests are served in order of arrival,
    each blocking only the lines that it lacks; a newcomer may not take from a line that somebody before it lacks.

What would be wrong
    Holding part of the lines while waiting for the rest: two nodes then wait for each other for ever (scenario 6).
    Giving back a figure instead of a total: a doubled message would return the same money twice.
"""

from collections.abc import Iterable, Mapping
from typing import Final

Needs = dict[str, int]
"""Line -> amount, all above zero; all of them or none. (A mapping of any kind would be asked slowly when compiled.)"""

MAX_WAITING: Final = 2_048
"""Requests waiting for leases on one node; with 600 ms of patience that is 3,400 a second near their caps."""

MAX_WAITING_PER_KEY: Final = 256
"""So that one runaway key cannot take the whole queue from the others."""


class Lease:
    """One line's figures. `tight_until_ns`: until then what is left over goes back at once (rule G5)."""

    __slots__ = ("granted", "reserved", "returned", "tight_until_ns", "used")

    def __init__(self) -> None:
        self.granted = 0
        self.returned = 0
        self.used = 0
        self.reserved = 0
        self.tight_until_ns = 0

    @property
    def free(self) -> int:
        return self.granted - self.returned - self.used - self.reserved


class LeaseBook:
    """All leases of one incarnation."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self._tight_until_ns = 0

    def free(self, line: str) -> int:
        lease = self.leases.get(line)
        return lease.free if lease is not None else 0

    def granted(self, line: str) -> int:
        lease = self.leases.get(line)
        return lease.granted if lease is not None else 0

    def lacking(self, needs: Needs) -> list[str]:
        """The lines of which less is free than needed."""
        return [line for line, amount in needs.items() if self.free(line) < amount]

    def reserve(self, needs: Needs) -> bool:
        """Take every amount, or none."""
        leases = self.leases
        for line, amount in needs.items():
            lease = leases.get(line)
            if lease is None or lease.granted - lease.returned - lease.used - lease.reserved < amount:
                return False
        # Everything fits: take it all.
        for line, amount in needs.items():
            leases[line].reserved += amount
        return True

    def release(self, needs: Needs) -> None:
        """Free a reservation that used nothing."""
        for line, amount in needs.items():
            self.leases[line].reserved -= amount

    def settle(self, needs: Needs, used: Needs) -> None:
        """End a reservation of which `used` counts (lines that are missing used nothing); the rest is free."""
        for line, amount in needs.items():
            lease = self.leases[line]
            lease.reserved -= amount
            lease.used += min(amount, max(0, used.get(line, 0)))

    def credit(self, granted: Mapping[str, int]) -> list[str]:
        """Take in cumulative grants; returns the lines that gained something."""
        gained = []
        for line, total in granted.items():
            lease = self.leases.get(line)
            if lease is None:
                lease = self.leases[line] = Lease()
            if total > lease.granted:
                lease.granted = total
                gained.append(line)
        return gained

    def give_back(self, lines: Iterable[str]) -> dict[str, int]:
        """Return everything free on these lines; the cumulative returns of those that had something."""
        returned = {}
        for line in lines:
            lease = self.leases.get(line)
            if lease is not None and (free := lease.free) > 0:
                lease.returned += free
                returned[line] = lease.returned
        return returned

    def tighten(self, lines: Iterable[str], until_ns: int) -> None:
        """Mark lines tight until an elapsed time."""
        self._tight_until_ns = max(self._tight_until_ns, until_ns)
        for line in lines:
            lease = self.leases.get(line)
            if lease is None:
                lease = self.leases[line] = Lease()
            lease.tight_until_ns = max(lease.tight_until_ns, until_ns)

    def left_over(self, lines: Iterable[str], now_ns: int) -> list[str]:
        """Those of the lines that are tight and have something free, which must go back."""
        found: list[str] = []
        if self._tight_until_ns <= now_ns:
            return found  # no line at all is tight
        for line in lines:
            lease = self.leases.get(line)
            if lease is not None and lease.tight_until_ns > now_ns and lease.free > 0:
                found.append(line)
        return found

    def forget(self, line: str) -> bool:
        """Drop a line that will never be used again (its window is over, its key is gone). False: still in use."""
        lease = self.leases.get(line)
        if lease is None:
            return True
        if lease.reserved or lease.free:
            return False
        del self.leases[line]
        return True


class WaitingRoom:
    """Requests that wait for leases, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, Needs]] = {}
        self._per_key: dict[str, int] = {}
        self._blocked: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, waiter: str) -> bool:
        return waiter in self._waiting

    def blocks(self, needs: Needs) -> bool:
        """Whether somebody who came before lacks one of these lines."""
        return bool(self._blocked) and not self._blocked.isdisjoint(needs)

    def enter(self, waiter: str, key: str, needs: Needs, book: LeaseBook) -> bool:
        """Queue up. False: the room, or this key's part of it, is full."""
        if len(self._waiting) >= MAX_WAITING or self._per_key.get(key, 0) >= MAX_WAITING_PER_KEY:
            return False
        self._waiting[waiter] = (key, needs)
        self._per_key[key] = self._per_key.get(key, 0) + 1
        self._blocked |= frozenset(book.lacking(needs))
        return True

    def leave(self, waiter: str) -> None:
        """Stop waiting. Call `serve` afterwards: those behind may no longer be blocked."""
        entry = self._waiting.pop(waiter, None)
        if entry is None:
            return
        key = entry[0]
        if self._per_key[key] == 1:
            del self._per_key[key]
        else:
            self._per_key[key] -= 1

    def serve(self, book: LeaseBook) -> list[str]:
        """Reserve for everybody whose turn it is; they have left the room and hold their lines now."""
        blocked: set[str] = set()
        served = []
        for waiter, (_, needs) in self._waiting.items():
            lacking = book.lacking(needs)
            if not lacking and blocked.isdisjoint(needs) and book.reserve(needs):
                served.append(waiter)
            else:
                blocked.update(lacking)
        for waiter in served:
            self.leave(waiter)
        self._blocked = frozenset(blocked)
        return served

    def empty(self) -> list[str]:
        """Everybody leaves (the leases are void); returns who they were."""
        waiters = list(self._waiting)
        self._waiting.clear()
        self._per_key.clear()
        self._blocked = frozenset()
        return waiters
