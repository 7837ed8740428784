"""An account's quarter hours, and the running sums over them: what `events.state.tally` is made of."""

import msgspec

from events.state.four import ZERO, Four, negative, plus
from schemas.accounts import METERS

PAST = -1
"""Start of the bucket that holds everything that was poured away."""

_ALL_METERS = range(len(METERS))

CELLS_PER_WINDOW = 3
"""Of one meter and window: the current one, the next, and the one before (for readers)."""


class Cell:
    """The running sum of one line. `end_s` is None for `total`."""

    __slots__ = ("end_s", "held", "meter", "settled", "start_s")

    def __init__(self, meter: int, start_s: int, end_s: int | None) -> None:
        self.meter = meter
        self.start_s = start_s
        self.end_s = end_s
        self.settled = 0
        self.held = 0

    def covers(self, bucket: "Bucket") -> bool:
        return self.end_s is None or self.start_s <= bucket.start_s < self.end_s


class Bucket(msgspec.Struct, eq=False, gc=False):  # neither it nor an account is in a cycle, and there are very many
    """One account's quarter of an hour."""

    start_s: int
    settled: list[int]
    held: list[int]
    cells: list[Cell]


class Spot:
    """Where requests count: the bucket of their time in each of their accounts.

    What they hold and settle is summed up here, and told to the buckets when somebody looks (`Tally.tell_all`): a
    thousand requests of one agent move its accounts and all their cells once. `untold` is where it waits for that.
    """

    __slots__ = (
        "_buckets", "_held_refund", "_held_requests", "_held_tokens", "_held_usd", "_refund", "_requests", "_tokens",
        "_untold", "_usd", "_waits",
    )  # fmt: skip

    def __init__(self, buckets: "tuple[Bucket, ...]", untold: "list[Spot]") -> None:
        self._buckets = buckets
        # Numbers, not lists of four: these are made for each key and quarter, and moved by each request.
        self._held_usd = self._held_refund = self._held_requests = self._held_tokens = 0
        self._usd = self._refund = self._requests = self._tokens = 0
        self._untold = untold
        self._waits = False

    def hold(self, amounts: Four) -> None:
        """An admitted request holds `amounts` in all its accounts."""
        if not self._waits:
            self._wait()
        usd, refund, requests, tokens = amounts
        self._held_usd += usd
        self._held_requests += requests
        if refund:
            self._held_refund += refund
        if tokens:
            self._held_tokens += tokens

    def settle(self, bound: Four, cost: Four) -> None:
        """A request that held `bound` has cost `cost`."""
        if not self._waits:
            self._wait()
        self._held_usd -= bound[0]
        self._held_requests -= bound[2]
        self._usd += cost[0]
        self._requests += cost[2]
        if bound[1] or cost[1]:
            self._held_refund -= bound[1]
            self._refund += cost[1]
        if bound[3] or cost[3]:
            self._held_tokens -= bound[3]
            self._tokens += cost[3]

    def tell(self) -> None:
        """Bring the buckets and their cells up to date. For `Tally.tell_all`."""
        held_by = (self._held_usd, self._held_refund, self._held_requests, self._held_tokens)
        settled_by = (self._usd, self._refund, self._requests, self._tokens)
        for bucket in self._buckets:
            held, settled = bucket.held, bucket.settled
            for meter in _ALL_METERS:
                held[meter] += held_by[meter]
                settled[meter] += settled_by[meter]
            for cell in bucket.cells:
                cell.held += held_by[cell.meter]
                cell.settled += settled_by[cell.meter]
        self._held_usd = self._held_refund = self._held_requests = self._held_tokens = 0
        self._usd = self._refund = self._requests = self._tokens = 0
        self._waits = False

    def _wait(self) -> None:
        self._waits = True
        self._untold.append(self)


class Account(msgspec.Struct, eq=False, gc=False):
    """`edge_s`: the time up to which its old buckets have been poured into PAST.

    Of a key: `first_agent` is the one that used it first, `shares` what other agents (of declared identities)
    used of it. The first one's share is the rest.
    """

    edge_s: int
    buckets: dict[int, Bucket] = {}
    cells: dict[tuple[str, str, int], Cell] = {}
    first_agent: str = ""
    shares: "dict[str, Account]" = {}

    def bucket(self, start_s: int) -> Bucket:
        bucket = self.buckets.get(start_s)
        if bucket is None:
            bucket = self.buckets[start_s] = Bucket(start_s, [0, 0, 0, 0], [0, 0, 0, 0], [])
            if self.cells:
                bucket.cells = [cell for cell in self.cells.values() if cell.covers(bucket)]
        return bucket


def move(spot: Spot, held_by: Four, settled_by: Four) -> None:
    """Change what is held and what is settled in all accounts of a request, by these differences."""
    spot.settle(negative(held_by), settled_by)


def settled_since(account: Account, start_s: int) -> Four:
    total = ZERO
    for bucket in account.buckets.values():
        if bucket.start_s >= start_s:
            usd, refund, requests, tokens = bucket.settled
            total = plus(total, (usd, refund, requests, tokens))
    return total


def drop_oldest(account: Account, meter: str, window: str) -> None:
    same = sorted(name for name in account.cells if name[:2] == (meter, window))
    for name in same[: max(0, len(same) - CELLS_PER_WINDOW + 1)]:
        cell = account.cells.pop(name)
        for bucket in account.buckets.values():
            if cell in bucket.cells:
                bucket.cells.remove(cell)
