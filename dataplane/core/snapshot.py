"""A node's view of the policy: records by id, vault keys by the digest of their tokens.

The feed is the fold of the control log, so two rules keep the view true whatever arrives late, twice or not at all:
a record with a lower sequence never replaces one with a higher, and the position only moves over deltas that leave
no gap (scenario 11 of docs/PROTOCOL.md). *Revoked* is final here too (rule B4). Records are frozen: who holds one
holds what was true when it was taken, and compares identities to learn whether it still is.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from msgspec.structs import force_setattr

from schemas.accounts import KINDS, AccountCaps, account_key
from schemas.equals import Equals
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, FeedDelta, KeyPolicy, Record

EXPIRED_KEPT_NS: Final = 24 * 3600 * 1_000_000_000
"""An expired key is still answered with `key_expired` for a day, then forgotten: keys of short runs add up."""

SWEEP_KEYS: Final = 1_000
"""Keys looked at per sweep: 100,000 keys are gone through in a minute at four sweeps a second, 50 us each."""


SHARED_OF_KEYS: Final = ("agent", "user", "feature", "upstreams", "endpoints", "models")
SHARED_OF_CAPS: Final = ("caps",)
"""Fields that many records have alike, and so hold one object of: half of a node's memory with many keys."""


class Changes(NamedTuple):
    """What a delta changed: ids of keys, names of agents, and accounts (`kind:id`) with a lower or new cap."""

    keys: frozenset[str]
    agents: frozenset[str]
    tightened: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.keys or self.agents or self.tightened)


NO_CHANGES: Final = Changes(frozenset(), frozenset(), frozenset())


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
        self._budgets: dict[str, dict[str, BudgetPolicy]] = {kind: {} for kind in KINDS}
        """By kind and id of the account; of a key by the key's own string, which 100,000 times is 8 MB less."""
        self._cluster_seq = -1
        self._by_token: dict[str, KeyPolicy] = {}
        """By hexadecimal digest, of dead tokens too. The record's own strings: another form would cost 7 MB."""
        self._sweep: Iterator[str] = iter(())
        self._equals = Equals()

    def key_of(self, digest: bytes) -> KeyPolicy | None:
        """The key that a token's SHA-256 belongs to, be the token live or dead."""
        return self._by_token.get(digest.hex())

    def caps_of(self, account: str) -> AccountCaps | None:
        """The caps of `kind:id`; None where there are none."""
        kind, _, account_id = account.partition(":")
        record = self._budgets[kind].get(account_id)
        return record.account if record is not None and record.account.caps else None

    def loaded(self, position: int) -> None:
        """Everything through `position` has been put here."""
        self.position = position
        self._equals.forget()

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
                self._by_token.pop(token, None)
        self._equals.share(record, SHARED_OF_KEYS)
        self.keys[record.id] = record
        for token in (*record.tokens, *record.dead_tokens):
            self._by_token[token] = record
        return True

    def _put_budget(self, record: BudgetPolicy) -> bool:
        """Store it; tell whether a cap became lower, or a new one was added."""
        account = record.account
        budgets = self._budgets[account.kind]
        known = budgets.get(account.id)
        if known is not None and known.seq >= record.seq:
            return False
        self._equals.share(account, SHARED_OF_CAPS)
        key = self.keys.get(account.id) if account.kind == "key" else None
        if key is not None:
            force_setattr(account, "id", key.id)
            if key.seq == record.seq:
                force_setattr(record, "seq", key.seq)
        budgets[account.id] = record
        self.caps_version += 1
        return _tightens(known.account if known is not None else None, record.account)

    def _put_cluster(self, record: ClusterPolicy) -> None:
        if record.seq > self._cluster_seq:
            self._cluster_seq = record.seq
            self.live_nodes = max(1, record.live_nodes)

    def _forget(self, key: KeyPolicy) -> None:
        for token in (*key.tokens, *key.dead_tokens):
            self._by_token.pop(token, None)
        del self.keys[key.id]
        self._budgets["key"].pop(key.id, None)


def _tightens(before: AccountCaps | None, after: AccountCaps) -> bool:
    if not after.caps:
        return False
    if before is None or before.zone != after.zone:
        return True
    old = {(cap.meter, cap.window): cap.amount for cap in before.caps}
    return any(cap.amount < old.get((cap.meter, cap.window), cap.amount + 1) for cap in after.caps)
