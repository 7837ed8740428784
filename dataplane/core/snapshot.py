"""A node's view of the policy: records by id, vault keys by the digest of their tokens.

The feed is the fold of the control log, so two rules keep the view true whatever arrives late, twice or not at all:
a record with a lower sequence never replaces one with a higher, and the position only moves over deltas that leave
no gap (scenario 11 of docs/PROTOCOL.md). *Revoked* is final here too (rule B4). Records are frozen: who holds one
holds what was true when it was taken, and compares identities to learn whether it still is.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from schemas.accounts import AccountCaps, account_key
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, FeedDelta, KeyPolicy, Record

EXPIRED_KEPT_NS = 24 * 3600 * 1_000_000_000
"""An expired key is still answered with `key_expired` for a day, then forgotten: keys of short runs add up."""

SWEEP_KEYS = 1_000
"""Keys looked at per sweep: 100,000 keys are gone through in a minute at four sweeps a second, 50 us each."""


class Changes(NamedTuple):
    """What a delta changed: ids of keys, names of agents, and accounts (`kind:id`) with a lower or new cap."""

    keys: frozenset[str]
    agents: frozenset[str]
    tightened: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.keys or self.agents or self.tightened)


NO_CHANGES = Changes(frozenset(), frozenset(), frozenset())


class Snapshot:
    """The view. `position`: the control log is covered without gaps through it (0: nothing loaded yet).

    `caps_version` grows with every change of caps, so that plans derived from them can be kept until then.
    """

    def __init__(self) -> None:
        self.position = 0
        self.caps_version = 0
        self.live_nodes = 1
        self.keys: dict[str, KeyPolicy] = {}
        self.agents: dict[str, AgentPolicy] = {}
        self.budgets: dict[str, BudgetPolicy] = {}
        self._cluster_seq = -1
        self._by_digest: dict[bytes, str] = {}
        self._sweep: Iterator[str] = iter(())

    def key_of(self, digest: bytes) -> KeyPolicy | None:
        """The key that a token's SHA-256 belongs to, be the token live or dead."""
        key_id = self._by_digest.get(digest)
        return self.keys.get(key_id) if key_id is not None else None

    def caps_of(self, account: str) -> AccountCaps | None:
        """The caps of `kind:id`; None where there are none."""
        record = self.budgets.get(account)
        return record.account if record is not None and record.account.caps else None

    def covers(self, delta: FeedDelta) -> bool:
        """Whether the delta follows on without a gap."""
        return delta.from_seq <= self.position

    def apply(self, delta: FeedDelta) -> Changes:
        """Take a delta that `covers` allowed."""
        if not self.covers(delta):
            raise ValueError(f"a gap from {self.position} to {delta.from_seq} must be closed first")
        changes = self.put(delta.records)
        self.position = max(self.position, delta.to_seq)
        return changes

    def put(self, records: Iterable[Record]) -> Changes:
        """Take records one by one, each only if it is newer than what is here; the position stays."""
        keys, agents, tightened = set(), set(), set()
        for record in records:
            match record:
                case KeyPolicy():
                    if self._put_key(record):
                        keys.add(record.id)
                case AgentPolicy():
                    known = self.agents.get(record.name)
                    if known is None or known.seq < record.seq:
                        self.agents[record.name] = record
                        agents.add(record.name)
                case BudgetPolicy():
                    if self._put_budget(record):
                        tightened.add(account_key(record.account.kind, record.account.id))
                case ClusterPolicy():
                    self._put_cluster(record)
        return Changes(frozenset(keys), frozenset(agents), frozenset(tightened))

    def sweep(self, now_ns: int) -> None:
        """Forget a few of the keys that expired long ago. Called with the feed's heartbeat."""
        for _ in range(min(SWEEP_KEYS, len(self.keys))):
            key_id = next(self._sweep, None)
            if key_id is None:
                self._sweep = iter(tuple(self.keys))
                return
            key = self.keys.get(key_id)
            if key is not None and 0 < key.expires_at_ns < now_ns - EXPIRED_KEPT_NS:
                self._forget(key)

    def _put_key(self, record: KeyPolicy) -> bool:
        known = self.keys.get(record.id)
        if known is not None:
            if known.seq >= record.seq or (known.state == "revoked" and record.state != "revoked"):
                return False
            for token in (*known.tokens, *known.dead_tokens):
                self._by_digest.pop(bytes.fromhex(token), None)
        self.keys[record.id] = record
        for token in (*record.tokens, *record.dead_tokens):
            self._by_digest[bytes.fromhex(token)] = record.id
        return True

    def _put_budget(self, record: BudgetPolicy) -> bool:
        """Store it; tell whether a cap became lower, or a new one was added."""
        account = account_key(record.account.kind, record.account.id)
        known = self.budgets.get(account)
        if known is not None and known.seq >= record.seq:
            return False
        self.budgets[account] = record
        self.caps_version += 1
        return _tightens(known.account if known is not None else None, record.account)

    def _put_cluster(self, record: ClusterPolicy) -> None:
        if record.seq > self._cluster_seq:
            self._cluster_seq = record.seq
            self.live_nodes = max(1, record.live_nodes)

    def _forget(self, key: KeyPolicy) -> None:
        for token in (*key.tokens, *key.dead_tokens):
            self._by_digest.pop(bytes.fromhex(token), None)
        del self.keys[key.id]
        self.budgets.pop(account_key("key", key.id), None)


def _tightens(before: AccountCaps | None, after: AccountCaps) -> bool:
    if not after.caps:
        return False
    if before is None or before.zone != after.zone:
        return True
    old = {(cap.meter, cap.window): cap.amount for cap in before.caps}
    return any(cap.amount < old.get((cap.meter, cap.window), cap.amount + 1) for cap in after.caps)
