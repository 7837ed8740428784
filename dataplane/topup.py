"""Borrowing ahead of need: which lines run low, and one ask at a time for all of them together."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from dataplane.core.demand import Demand
from dataplane.core.reservation import LeaseBook, Needs
from events.clock import Clock
from events.tasks import Tasks
from schemas.settings import MS, Timing

MAX_LINES: Final = 64
"""Lines in one ask: 10 kB, and little work for the ledger at a time. The others follow in the next."""


class TopUp:
    """The top-ups of one incarnation's leases. `ask` sends one ask and credits what it brings, if it is answered."""

    def __init__(
        self,
        book: LeaseBook,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        ask: Callable[[dict[str, int]], Awaitable[None]],
    ) -> None:
        self._book = book
        self._clock = clock
        self._dry_ns = timing.tight_ms * MS
        self._tasks = tasks
        self._ask = ask
        self._demand: dict[str, Demand] = {}
        self._wanted: dict[str, int] = {}
        self._asking = False

    def note(self, needs: Needs) -> None:
        """A request has just reserved `needs`."""
        leases, demands = self._book.leases, self._demand
        for line, amount in needs.items():
            demand = demands.get(line)
            if demand is None:
                demand = demands[line] = Demand(amount, self._clock.elapsed_ns())
            demand.taken += amount
            lease = leases[line]
            if lease.granted - lease.returned - lease.used - lease.reserved < demand.low_water:
                self._want(line, amount, demand, lease.tight_until_ns)

    def forget(self, line: str) -> None:
        self._demand.pop(line, None)
        self._wanted.pop(line, None)

    def _want(self, line: str, amount: int, demand: Demand, tight_until_ns: int) -> None:
        if max(demand.dry_until_ns, tight_until_ns) > self._clock.elapsed_ns():
            return
        self._wanted[line] = amount
        if not self._asking:
            self._asking = True
            self._tasks.once(self._run(), "lease top-up")

    async def _run(self) -> None:
        """Ask for what runs low, as long as something does."""
        try:
            while self._wanted:
                wanted = dict(itertools.islice(self._wanted.items(), MAX_LINES))
                for line in wanted:
                    del self._wanted[line]
                now_ns = self._clock.elapsed_ns()
                lines = {
                    line: demand.top_up(amount, self._free(line), now_ns)
                    for line, amount in wanted.items()
                    if (demand := self._demand.get(line)) is not None
                }
                if lines:
                    before = {line: self._book.granted(line) for line in lines}
                    await self._ask(lines)
                    self._mark_dry(before)
        finally:
            self._asking = False

    def _free(self, line: str) -> int:
        lease = self._book.leases[line]
        return lease.granted - lease.returned - lease.used - lease.reserved

    def _mark_dry(self, before: dict[str, int]) -> None:
        """Where nothing came requests ask for themselves for a while: the account is near its cap."""
        until_ns = self._clock.elapsed_ns() + self._dry_ns
        for line, granted in before.items():
            demand = self._demand.get(line)
            if demand is not None and self._book.granted(line) == granted:
                demand.dry_until_ns = until_ns
