"""What accounts have settled and what they hold, so that any window in any zone can be summed up.

The idea
    Each account keeps one bucket per quarter of an hour, because every zone's offset from UTC is a multiple
    of 15 minutes: hours, days and months of any zone are sums of whole buckets. So caps and zones, which come
    from the control log, may be set before or after the usage that they judge, and the two logs' folds commute.

    A *cell* is the running sum of one line (account, meter, window). It is a cache: made when first asked
    for, kept current by the buckets that it covers, dropped at will. It never appears in a dump.

    Folding is frequent and looking is rare (a replay never looks), so requests are summed up where they belong
    (`Spot`), and the sums go to buckets and cells before the next look.

Bounds
    Buckets older than KEPT_S are poured into one bucket, `PAST`, which only the `total` window reads. The
    accounts of keys that expired KEY_KEPT_S ago are dropped. Both follow `edge_s`, the control log's time, so
    a node's wrong clock forgets nothing; and what comes later for the dropped time is treated as if it had
    come before: equal logs, in any interleaving, give equal tallies.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from events.state.buckets import PAST, Account, Bucket, Cell, Spot, drop_oldest, settled_since
from events.state.four import Four, minus
from schemas.accounts import METERS, NANOS_PER_S, ORG_ID, parse_line, window_end_s

BUCKET_S = 900
_BUCKET_NS = BUCKET_S * NANOS_PER_S

KEPT_S = 70 * 86_400
"""Longer than two months: no open window reaches further back, and late settlements still find their day."""

KEY_KEPT_S = 8 * 86_400
"""A dead key's figures outlive its record in the registry, which is kept for a week."""

_MAX_SPOTS = 65_536
"""Combinations of accounts and quarter-hour looked up recently; a cache, emptied when full."""

Row = tuple[str, str, int, list[int], list[int]]
"""(kind, id, bucket's start, settled, held)."""


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
        self._untold: list[Spot] = []

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
            found = [self._bucket(kind, account_id, start_s) for kind, account_id in accounts if account_id]
            if key and agent and found[0] is not None:
                found.append(self._share(key, agent, start_s))
            spot = self._spots[name] = Spot(tuple(bucket for bucket in found if bucket is not None), self._untold)
        return spot

    def tell_all(self) -> None:
        """Bring all buckets up to date: before anybody looks at one."""
        for spot in self._untold:
            spot.tell()
        self._untold.clear()

    def cell(self, line: str, zone: str) -> Cell:
        """The running sum of a line; `zone` is its account's. Raises ValueError if it is no line.

        It is true until the next event is folded; ask again then.
        """
        if self._untold:
            self.tell_all()
        kind, account_id, meter, window, start_s = parse_line(line)
        account = self._account(kind, account_id)
        name = (meter, window, start_s)
        cell = account.cells.get(name)
        if cell is None:
            cell = Cell(METERS.index(meter), start_s, window_end_s(window, start_s, zone))
            drop_oldest(account, meter, window)
            account.cells[name] = cell
            for bucket in account.buckets.values():
                if cell.covers(bucket):
                    bucket.cells.append(cell)
                    cell.settled += bucket.settled[cell.meter]
                    cell.held += bucket.held[cell.meter]
        return cell

    def total(self, kind: str, account_id: str, meter: str, start_s: int, end_s: int | None) -> tuple[int, int]:
        """(settled, held) of a span, summed up afresh: for readers, who should not fill the cache."""
        self.tell_all()
        account = self._accounts[kind].get(account_id)
        if account is None:
            return 0, 0
        span = Cell(METERS.index(meter), start_s, end_s)
        for bucket in account.buckets.values():
            if span.covers(bucket):
                span.settled += bucket.settled[span.meter]
                span.held += bucket.held[span.meter]
        return span.settled, span.held

    def by_agent(self, key_id: str, start_s: int) -> list[tuple[str, Four]]:
        """What each agent has settled with the key since `start_s`, by name; nobody who settled nothing."""
        self.tell_all()
        account = self._accounts["key"].get(key_id)
        if account is None:
            return []
        rest = settled_since(account, start_s)
        shares = []
        for agent in sorted(account.shares):
            share = settled_since(account.shares[agent], start_s)
            rest = minus(rest, share)
            shares.append((agent, share))
        return [(agent, share) for agent, share in ((account.first_agent, rest), *shares) if any(share)]

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
        self.tell_all()
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

    def rows(self) -> Iterator[Row]:
        """All that is not zero, in one order for equal tallies. A share's id is `<key>/<agent>`.

        A key's quarters are told even if they are zero: while there is one, an unknown key's account, and with it who
        used it first, is not dropped (`_is_gone`), and what is loaded must not drop it either.
        """
        self.tell_all()
        for kind in sorted(self._accounts):
            accounts = self._accounts[kind]
            for account_id in sorted(accounts):
                account = accounts[account_id]
                yield from self._account_rows(kind, account_id, account)
                for agent in sorted(account.shares):
                    yield from self._account_rows("share", f"{account_id}/{agent}", account.shares[agent])

    def first_agents(self) -> list[tuple[str, str]]:
        """(key, the agent that used it first)."""
        accounts = self._accounts["key"]
        return sorted((key_id, account.first_agent) for key_id, account in accounts.items() if account.first_agent)

    def load(self, rows: Iterable[Row], first_agents: Iterable[tuple[str, str]]) -> None:
        """Take what an equal tally gave. Keys' expiries and `edge_s` have been set before."""
        for key_id, agent in first_agents:
            self._watch_unknown(key_id)
            self._account("key", key_id).first_agent = agent
        for kind, account_id, start_s, settled, held in rows:
            bucket = self._loaded(kind, account_id).bucket(start_s)
            bucket.settled = list(settled)
            bucket.held = list(held)

    def _loaded(self, kind: str, account_id: str) -> Account:
        if kind != "share":
            if kind == "key":
                self._watch_unknown(account_id)
            return self._account(kind, account_id)
        key_id, _, agent = account_id.partition("/")
        return self._account("key", key_id).shares.setdefault(agent, Account(self.edge_s))

    def _account_rows(self, kind: str, account_id: str, account: Account) -> Iterator[Row]:
        self._pour(account)
        for start_s in sorted(account.buckets):
            bucket = account.buckets[start_s]
            if kind == "key" or any(bucket.settled) or any(bucket.held):
                yield kind, account_id, start_s, bucket.settled, bucket.held

    def _watch_unknown(self, key_id: str) -> None:
        if key_id not in self.key_expiry_ns:
            self._unknown_keys.add(key_id)

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
        return self._bucket_in(self._account(kind, account_id), start_s)

    def _share(self, key_id: str, agent: str, start_s: int) -> Bucket | None:
        """None for the key's first agent, whose share is what the others leave."""
        account = self._account("key", key_id)
        if account.first_agent in {"", agent}:
            account.first_agent = agent
            return None
        return self._bucket_in(account.shares.setdefault(agent, Account(self.edge_s)), start_s)

    def _bucket_in(self, account: Account, start_s: int) -> Bucket:
        if account.edge_s != self.edge_s:
            self._pour(account)
        return account.bucket(PAST if start_s < self.edge_s - KEPT_S else start_s)

    def _is_gone(self, key_id: str) -> bool:
        """Drop what an unknown key's account has from before its time; tell whether nothing is left."""
        account = self._accounts["key"].get(key_id)
        if account is None:
            return True
        self.forget_cells("key", key_id)
        for part in (account, *account.shares.values()):
            for start_s in [start_s for start_s in part.buckets if start_s < self.edge_s - KEY_KEPT_S]:
                del part.buckets[start_s]
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
