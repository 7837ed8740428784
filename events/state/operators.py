"""Operator tokens: the fold of their events. Only digests are known; a revoked token never comes back."""

from typing import Literal

import msgspec
from msgspec.structs import replace

from events.types import By, OperatorTokenIssued, OperatorTokenRevoked

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

    def live(self, now_ns: int) -> bool:
        return not self.revoked and (self.expires_at_ns == 0 or now_ns < self.expires_at_ns)


class OperatorFold:
    """All operator tokens. They are few and issued by people, so ended ones stay on record."""

    def __init__(self) -> None:
        self.records: dict[str, Operator] = {}
        self.tokens: dict[str, str] = {}

    def apply(self, seq: int, event: OperatorTokenIssued | OperatorTokenRevoked) -> None:
        if isinstance(event, OperatorTokenIssued):
            if event.id not in self.records and event.token_sha256 not in self.tokens:
                self._add(_issued(seq, event))
            return
        operator = self.records.get(event.id)
        if operator is not None and not operator.revoked:
            self.records[event.id] = replace(operator, revoked=True, changed_seq=seq)

    def load(self, records: dict[str, Operator]) -> None:
        for operator in records.values():
            self._add(operator)

    def _add(self, operator: Operator) -> None:
        self.records[operator.id] = operator
        self.tokens[operator.token_sha256] = operator.id


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
