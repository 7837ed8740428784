"""Operator tokens: the fold of their events. Only digests are known; a revoked token never comes back.

An operator has one current token, and after a rotation earlier ones that work until their overlap ends. The digests of
all that ever were stay on record: none may ever be admitted as another operator's.
"""

from typing import Literal

import msgspec
from msgspec.structs import replace

from events.types import By, OperatorTokenIssued, OperatorTokenRevoked, OperatorTokenRotated

Role = Literal["admin", "issuer", "auditor", "viewer"]


class Operator(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operator token. `expires_at_ns` = 0: it does not expire."""

    id: str
    name: str
    role: Role
    token_sha256: str
    issued_at_ns: int
    issued_seq: int
    changed_seq: int
    issued_by: By
    expires_at_ns: int = 0
    revoked: bool = False
    rotated_at_ns: int = 0
    earlier: tuple[tuple[str, int], ...] = ()
    """Digests of tokens that were rotated away, each with when it ends."""

    def live(self, now_ns: int) -> bool:
        """Whether its current token works."""
        return not self.revoked and (self.expires_at_ns == 0 or now_ns < self.expires_at_ns)

    def admits(self, digest: str, now_ns: int) -> bool:
        """Whether the token of this digest, current or earlier, works."""
        if digest == self.token_sha256:
            return self.live(now_ns)
        return not self.revoked and any(known == digest and now_ns < ends_ns for known, ends_ns in self.earlier)


class OperatorFold:
    """All operator tokens. They are few and issued by people, so ended ones stay on record."""

    def __init__(self) -> None:
        self.records: dict[str, Operator] = {}
        self.tokens: dict[str, str] = {}

    def apply(self, seq: int, event: OperatorTokenIssued | OperatorTokenRevoked | OperatorTokenRotated) -> None:
        if isinstance(event, OperatorTokenIssued):
            if event.id not in self.records and event.token_sha256 not in self.tokens:
                self._add(_issued(seq, event))
            return
        operator = self.records.get(event.id)
        if operator is None or operator.revoked:
            return
        if isinstance(event, OperatorTokenRevoked):
            self.records[event.id] = replace(operator, revoked=True, changed_seq=seq)
        elif event.token_sha256 not in self.tokens:
            self._add(_rotated(seq, operator, event))

    def load(self, records: dict[str, Operator]) -> None:
        for operator in records.values():
            self._add(operator)

    def _add(self, operator: Operator) -> None:
        self.records[operator.id] = operator
        self.tokens[operator.token_sha256] = operator.id
        for digest, _ in operator.earlier:
            self.tokens[digest] = operator.id


def _rotated(seq: int, operator: Operator, event: OperatorTokenRotated) -> Operator:
    return replace(
        operator,
        token_sha256=event.token_sha256,
        changed_seq=seq,
        expires_at_ns=event.expires_at_ns,
        rotated_at_ns=event.at_ns,
        earlier=(*operator.earlier, (operator.token_sha256, event.old_ends_at_ns)),
    )


def _issued(seq: int, event: OperatorTokenIssued) -> Operator:
    return Operator(
        id=event.id,
        name=event.name,
        role=event.role,
        token_sha256=event.token_sha256,
        issued_at_ns=event.at_ns,
        issued_seq=seq,
        changed_seq=seq,
        issued_by=event.by,
        expires_at_ns=event.expires_at_ns,
    )
