"""What accounts have settled and what they hold, so that any window in any zone can be summed up.

The idea
    Each account keeps one bucket per quarter of an hour, because every zone's offset from UTC is a multiple
    of 15 minutes: hours, days and months of any zone are sums of whole buckets. So caps and zones, which come
    from the control log, may be set before or after the usage that they judge, and the two logs' folds commute.

    A *cell* is the running sum of one line (account, meter, window). It is a cache: made when first asked
    for, kept current by the buckets that it covers, dropped at will. It never appears in a dump.

Bounds
    Buckets older than KEPT_S are poured into one bucket, `PAST`, which only the `total` window reads. The
    accounts of keys that expired KEY_KEPT_S ago are dropped. Both follow `edge_s`, the control log's time, so
    a node's wrong clock forgets nothing; and what comes later for the dropped time is treated as if it had
    come before: equal logs, in any interleaving, give equal tallies.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from events.state.four import Four
from schemas.accounts import METERS, NANOS_PER_S, ORG_ID, parse_line, window_end_s

BUCKET_S = 900
_BUCKET_NS = BUCKET_S * NANOS_PER_S

KEPT_S = 70 * 86_400
"""Longer than two months: no open window reaches further back, and late settlements still find their day."""

KEY_KEPT_S = 8 * 86_400
"""A dead key's figures outlive its record in the registry, which is kept for a week."""

PAST = -1
"""Start of the bucket that holds everything before KEPT_S."""

_MAX_SPOTS = 65_536
"""Combinations of accounts and quarter-hour looked up recently; a cache, emptied when full."""

_CELLS_PER_WINDOW = 3
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


class Bucket:
    """One account's quarter of an hour."""

    __slots__ = ("cells", "held", "settled", "start_s")

    def __init__(self, start_s: int) -> None:
        self.start_s = start_s
        self.settled = [0, 0, 0, 0]
        self.held = [0, 0, 0, 0]
        self.cells: list[Cell] = []


Spot = tuple[Bucket, ...]
"""Where one request counts: the bucket of its time in each of its accounts."""


class Account:
    """`edge_s`: the time up to which its old buckets have been poured into PAST."""

    __slots__ = ("buckets", "cells", "edge_s")

    def __init__(self, edge_s: int) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.cells: dict[tuple[str, str, int], Cell] = {}
        self.edge_s = edge_s

    def bucket(self, start_s: int) -> Bucket:
        bucket = self.buckets.get(start_s)
        if bucket is None:
            bucket = self.buckets[start_s] = Bucket(start_s)
            bucket.cells = [cell for cell in self.cells.values() if cell.covers(bucket)]
        return bucket


def hold(spot: Spot, amounts: Four) -> None:
    """An admitted request holds `amounts` in all its accounts."""
    usd, refund, requests, tokens = amounts
    for bucket in spot:
        held = bucket.held
        held[0] += usd
        held[2] += requests
        if refund:
            held[1] += refund
        if tokens:
            held[3] += tokens
        for cell in bucket.cells:
            cell.held += amounts[cell.meter]


def move(spot: Spot, held_by: Four, settled_by: Four) -> None:
    """Change what is held and what is settled in all accounts of a request, by these differences."""
    for bucket in spot:
        held = bucket.held
        settled = bucket.settled
        held[0] += held_by[0]
        held[2] += held_by[2]
        settled[0] += settled_by[0]
        settled[2] += settled_by[2]
        if held_by[1] or settled_by[1]:
            held[1] += held_by[1]
            settled[1] += settled_by[1]
        if held_by[3] or settled_by[3]:
            held[3] += held_by[3]
            settled[3] += settled_by[3]
        for cell in bucket.cells:
            cell.held += held_by[cell.meter]
            cell.settled += settled_by[cell.meter]


class Tally:
    """All accounts. `edge_s` is the control log's time, in whole hours, that pruning has reached."""

    def __init__(self) -> None:
        self.edge_s = 0
        self.key_expiry_ns: dict[str, int] = {}
        self._by_expiry: list[tuple[int, str]] = []
        self._unknown_keys: set[str] = set()
        """Keys with an account that are dead, or whose KeyIssued has not been folded yet."""
        self._accounts: dict[str, dict[str, Account]] = {"key": {}, "agent": {}, "team": {}, "org": {}}
        self._spots: dict[tuple[str, str, str, int], Spot] = {}

    def spot(self, key: str, agent: str, owner: str, at_ns: int) -> Spot:
        """The buckets of a request's accounts: its key, agent, team (each if any) and the organisation."""
        quarter = at_ns // _BUCKET_NS
        name = (key, agent, owner, quarter)
        spot = self._spots.get(name)
        if spot is None:
            if len(self._spots) >= _MAX_SPOTS:
                self._spots.clear()
            start_s = quarter * BUCKET_S
            accounts = (("key", key), ("agent", agent), ("team", owner), ("org", ORG_ID))
            found = (self._bucket(kind, account_id, start_s) for kind, account_id in accounts if account_id)
            spot = self._spots[name] = tuple(bucket for bucket in found if bucket is not None)
        return spot

    def cell(self, line: str, zone: str) -> Cell:
        """The running sum of a line; `zone` is its account's. Raises ValueError if it is no line."""
        kind, account_id, meter, window, start_s = parse_line(line)
        account = self._account(kind, account_id)
        name = (meter, window, start_s)
        cell = account.cells.get(name)
        if cell is None:
            cell = Cell(METERS.index(meter), start_s, window_end_s(window, start_s, zone))
            _drop_oldest(account, meter, window)
            account.cells[name] = cell
            for bucket in account.buckets.values():
                if cell.covers(bucket):
                    bucket.cells.append(cell)
                    cell.settled += bucket.settled[cell.meter]
                    cell.held += bucket.held[cell.meter]
        return cell

    def total(self, kind: str, account_id: str, meter: str, start_s: int, end_s: int | None) -> tuple[int, int]:
        """(settled, held) of a span, summed up afresh: for readers, who should not fill the cache."""
        account = self._accounts[kind].get(account_id)
        if account is None:
            return 0, 0
        span = Cell(METERS.index(meter), start_s, end_s)
        for bucket in account.buckets.values():
            if span.covers(bucket):
                span.settled += bucket.settled[span.meter]
                span.held += bucket.held[span.meter]
        return span.settled, span.held

    def forget_cells(self, kind: str, account_id: str) -> None:
        """The account's caps or zone changed: its windows may end elsewhere now."""
        account = self._accounts[kind].get(account_id)
        if account is not None and account.cells:
            account.cells.clear()
            for bucket in account.buckets.values():
                bucket.cells.clear()

    def set_expiry(self, key_id: str, expires_at_ns: int) -> None:
        """A key lives until then; its account is dropped KEY_KEPT_S later."""
        self.key_expiry_ns[key_id] = expires_at_ns
        self._unknown_keys.discard(key_id)
        heappush(self._by_expiry, (expires_at_ns, key_id))

    def advance(self, edge_s: int) -> None:
        """The control log's time has reached `edge_s`: drop the accounts of keys that are long dead."""
        self.edge_s = edge_s
        self._spots.clear()
        # An hour more than what `_bucket` ignores, so that a request at the very end of a key's life, by a
        # node's slightly wrong clock, is on the same side of both limits.
        limit_ns = (edge_s - KEY_KEPT_S - 3_600) * NANOS_PER_S
        while self._by_expiry and self._by_expiry[0][0] < limit_ns:
            expires_at_ns, key_id = heappop(self._by_expiry)
            if self.key_expiry_ns.get(key_id) == expires_at_ns:  # else: changed since
                del self.key_expiry_ns[key_id]
                self._unknown_keys.add(key_id)
        for key_id in [key_id for key_id in self._unknown_keys if self._is_gone(key_id)]:
            self._unknown_keys.remove(key_id)

    def rows(self) -> Iterator[tuple[str, str, int, list[int], list[int]]]:
        """(kind, id, bucket start, settled, held) of all that is not zero, in one order for equal tallies."""
        for kind in sorted(self._accounts):
            accounts = self._accounts[kind]
            for account_id in sorted(accounts):
                account = accounts[account_id]
                self._pour(account)
                for start_s in sorted(account.buckets):
                    bucket = account.buckets[start_s]
                    if any(bucket.settled) or any(bucket.held):
                        yield kind, account_id, start_s, bucket.settled, bucket.held

    def load(self, rows: Iterable[tuple[str, str, int, list[int], list[int]]]) -> None:
        """Take what `rows` of an equal tally gave."""
        for kind, account_id, start_s, settled, held in rows:
            if kind == "key" and account_id not in self.key_expiry_ns:
                self._unknown_keys.add(account_id)
            bucket = self._account(kind, account_id).bucket(start_s)
            bucket.settled = list(settled)
            bucket.held = list(held)

    def _account(self, kind: str, account_id: str) -> Account:
        accounts = self._accounts.get(kind)
        if accounts is None:
            raise ValueError(f"no kind of account: {kind!r}")
        account = accounts.get(account_id)
        if account is None:
            account = accounts[account_id] = Account(self.edge_s)
        return account

    def _bucket(self, kind: str, account_id: str, start_s: int) -> Bucket | None:
        """None: the account belongs to a key that is long dead, and is not made anew."""
        if kind == "key" and account_id not in self.key_expiry_ns:
            if start_s < self.edge_s - KEY_KEPT_S:
                return None
            self._unknown_keys.add(account_id)
        account = self._account(kind, account_id)
        self._pour(account)
        return account.bucket(PAST if start_s < self.edge_s - KEPT_S else start_s)

    def _is_gone(self, key_id: str) -> bool:
        """Drop what an unknown key's account has from before its time; tell whether nothing is left."""
        account = self._accounts["key"].get(key_id)
        if account is None:
            return True
        old = [start_s for start_s in account.buckets if start_s < self.edge_s - KEY_KEPT_S]
        if old:
            self.forget_cells("key", key_id)
        for start_s in old:
            del account.buckets[start_s]
        if account.buckets:
            return False
        del self._accounts["key"][key_id]
        return True

    def _pour(self, account: Account) -> None:
        """Pour the account's old buckets into PAST. Requests that still point to one of them follow it."""
        if account.edge_s == self.edge_s:
            return
        account.edge_s = self.edge_s
        limit_s = self.edge_s - KEPT_S
        old = [start_s for start_s in account.buckets if PAST < start_s < limit_s]
        for start_s in old:
            bucket = account.buckets.pop(start_s)
            past = account.bucket(PAST)
            for meter in range(len(METERS)):
                past.settled[meter] += bucket.settled[meter]
                past.held[meter] += bucket.held[meter]
            # Whoever holds this bucket now counts in PAST: the lists are shared from here on.
            bucket.settled, bucket.held, bucket.cells = past.settled, past.held, past.cells


def _drop_oldest(account: Account, meter: str, window: str) -> None:
    same = sorted(name for name in account.cells if name[:2] == (meter, window))
    for name in same[: max(0, len(same) - _CELLS_PER_WINDOW + 1)]:
        cell = account.cells.pop(name)
        for bucket in account.buckets.values():
            if cell in bucket.cells:
                bucket.cells.remove(cell)
