r"""Vault keys: the fold of their events, and their lifecycle as a table.

| state \ event | KeySuspended | KeyResumed | KeyChanged | KeyRevoked |
|---|---|---|---|---|
| active | suspended | - | active | revoked |
| suspended | - | active | suspended | revoked |
| revoked | - | - | - | - |

*Revoked* is terminal (rule B4, docs/PROTOCOL.md): a KeyIssued that lands after KeyRevoked, or a second time,
revives nothing. *Expired* and *spent* are not states of the fold but follow from the clock and the ledger;
`shown_state` adds them.

A revoked key stays as a tombstone until its expiry has passed, because only then is a late KeyIssued harmless.
Ended keys stay for a while longer, so that operators can look at them; what is dropped depends on the events
alone, so every replica drops the same (rule P5).
"""

from heapq import heappop, heappush
from typing import Literal

import msgspec
from msgspec.structs import replace

from events.types import (
    By,
    KeyChanged,
    KeyIssued,
    KeyResumed,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
)
from schemas.equals import Equals
from schemas.policy import KeyState

ShownState = Literal["active", "suspended", "revoked", "expired", "spent"]

ENDED_KEPT_NS = 7 * 86_400 * 1_000_000_000
"""A key can be looked up for a week after its expiry; the audit holds its requests for longer."""

KEPT_KEYS = 100_000
"""Above this many keys expired ones go at once, oldest expiry first: about 200 MB at 2 kB a key."""

SHARED = ("agent", "issued_by", "changed_by", "upstreams", "endpoints", "models")
"""Fields that many keys have alike, and so hold one object of: a third of the memory of a key."""

KeyEvent = KeyIssued | KeyChanged | KeySuspended | KeyResumed | KeyRevoked | KeyTokenRevoked

NEXT_STATE: dict[tuple[KeyState, type[KeyEvent]], KeyState] = {
    ("active", KeySuspended): "suspended",
    ("active", KeyRevoked): "revoked",
    ("suspended", KeyResumed): "active",
    ("suspended", KeyRevoked): "revoked",
}
"""Pairs that are missing change nothing."""


class Key(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One vault key. `tokens` and `dead_tokens` are SHA-256 digests; its own caps are the budget `key:<id>`.

    `issued_seq` and `changed_seq` are control log sequences: of its KeyIssued, and of the newest event that
    changed it (a barrier for that change waits for that sequence). `changed_by` caused the newest one.
    """

    id: str
    agent: str
    issued_at_ns: int
    expires_at_ns: int
    issued_seq: int
    changed_seq: int
    issued_by: By
    changed_by: By
    state: KeyState = "active"
    tokens: tuple[str, ...] = ()
    dead_tokens: tuple[str, ...] = ()
    identity: Literal["bound", "declared"] = "bound"
    allow_unknown_agents: bool = False
    label: str = ""
    upstreams: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    uncapped: bool = False
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    metadata: dict[str, str] = {}

    def ended(self, now_ns: int) -> bool:
        """Whether it can never be used again: revoked, or past its expiry."""
        return self.state == "revoked" or self.expires_at_ns <= now_ns


def shown_state(key: Key, now_ns: int, *, spent: bool) -> ShownState:
    """What an operator sees. `spent`: its `max_uses` are used up (the ledger knows)."""
    if key.state == "revoked":
        return "revoked"
    if key.expires_at_ns <= now_ns:
        return "expired"
    if key.state == "active" and spent:
        return "spent"
    return key.state


class KeyFold:
    """All keys. `records` in order of issue; `tokens` maps every digest, of dead tokens too, to its key's id."""

    def __init__(self) -> None:
        self.records: dict[str, Key] = {}
        self.tokens: dict[str, str] = {}
        self.revoked_early: dict[str, int] = {}
        """Keys revoked before their KeyIssued was seen, by sequence. Our own logs never bring one."""
        self._by_expiry: list[tuple[int, str]] = []
        self._equals = Equals()

    def apply(self, seq: int, event: KeyEvent) -> tuple[Key, ...]:
        """Fold one event. Returns the keys that were dropped because they ended long ago."""
        if isinstance(event, KeyIssued):
            return self._issue(seq, event)
        key = self.records.get(event.id)
        if key is None:
            if isinstance(event, KeyRevoked):
                self.revoked_early.setdefault(event.id, seq)
            return ()
        if key.state != "revoked":
            self._change(seq, key, event)
        return ()

    def load(self, records: dict[str, Key], revoked_early: dict[str, int]) -> None:
        """Become the fold that `records` came from (a checkpoint)."""
        self.revoked_early.update(revoked_early)
        for key in records.values():
            self._equals.share(key, SHARED)
            self.records[key.id] = key
            self.tokens.update(dict.fromkeys((*key.tokens, *key.dead_tokens), key.id))
            heappush(self._by_expiry, (key.expires_at_ns, key.id))

    def touch(self, seq: int, key_id: str, by: By) -> None:
        """Note a change that is kept elsewhere (the key's own caps)."""
        key = self.records.get(key_id)
        if key is not None and key.state != "revoked":
            self.records[key_id] = replace(key, changed_seq=seq, changed_by=by)

    def _issue(self, seq: int, event: KeyIssued) -> tuple[Key, ...]:
        if event.id in self.records or event.token_sha256 in self.tokens:
            return ()
        early = self.revoked_early.pop(event.id, None)
        key = _issued(seq, event, revoked=early is not None)
        self._equals.share(key, SHARED)
        self.records[event.id] = key
        self.tokens[event.token_sha256] = event.id
        heappush(self._by_expiry, (event.expires_at_ns, event.id))
        return self._drop_ended(event.at_ns)

    def _change(self, seq: int, key: Key, event: KeyEvent) -> None:
        match event:
            case KeyChanged():
                self.records[key.id] = _changed(seq, key, event)
                heappush(self._by_expiry, (event.expires_at_ns, key.id))
            case KeyTokenRevoked():
                if event.token_sha256 in key.tokens:
                    self.records[key.id] = _token_revoked(seq, key, event)
            case _:
                state = NEXT_STATE.get((key.state, type(event)))
                if state is not None:
                    self.records[key.id] = replace(key, state=state, changed_seq=seq, changed_by=event.by)

    def _drop_ended(self, now_ns: int) -> tuple[Key, ...]:
        """Drop keys by `now_ns`, the time of a KeyIssued: only that makes the table grow."""
        dropped = []
        while self._by_expiry and self._by_expiry[0][0] <= now_ns:
            expires_at_ns, key_id = self._by_expiry[0]
            key = self.records.get(key_id)
            stale = key is None or key.expires_at_ns != expires_at_ns
            if not stale and expires_at_ns > now_ns - ENDED_KEPT_NS and len(self.records) <= KEPT_KEYS:
                break
            heappop(self._by_expiry)
            if key is not None and not stale:
                self._drop(key)
                dropped.append(key)
        return tuple(dropped)

    def _drop(self, key: Key) -> None:
        del self.records[key.id]
        for digest in (*key.tokens, *key.dead_tokens):
            del self.tokens[digest]


def _issued(seq: int, event: KeyIssued, *, revoked: bool) -> Key:
    return Key(
        id=event.id,
        agent=event.agent,
        issued_at_ns=event.at_ns,
        expires_at_ns=event.expires_at_ns,
        issued_seq=seq,
        changed_seq=seq,
        issued_by=event.by,
        changed_by=event.by,
        state="revoked" if revoked else "active",
        tokens=(event.token_sha256,),
        identity=event.identity,
        allow_unknown_agents=event.allow_unknown_agents,
        label=event.label,
        upstreams=event.upstreams,
        endpoints=event.endpoints,
        models=event.models,
        uncapped=event.uncapped,
        rpm=event.rpm,
        tpm=event.tpm,
        on_exhausted=event.on_exhausted,
        metadata=event.metadata,
    )


def _changed(seq: int, key: Key, event: KeyChanged) -> Key:
    return replace(
        key,
        changed_seq=seq,
        changed_by=event.by,
        expires_at_ns=event.expires_at_ns,
        label=event.label,
        upstreams=event.upstreams,
        endpoints=event.endpoints,
        models=event.models,
        uncapped=event.uncapped,
        rpm=event.rpm,
        tpm=event.tpm,
        on_exhausted=event.on_exhausted,
        metadata=event.metadata,
    )


def _token_revoked(seq: int, key: Key, event: KeyTokenRevoked) -> Key:
    return replace(
        key,
        changed_seq=seq,
        changed_by=event.by,
        tokens=tuple(t for t in key.tokens if t != event.token_sha256),
        dead_tokens=(*key.dead_tokens, event.token_sha256),
    )
