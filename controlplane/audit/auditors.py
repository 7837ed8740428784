"""Who may read the embedded ClickHouse: operators of the control log, known by the digests of their tokens."""

import hmac
import time
from collections.abc import Callable

from controlplane.audit.roles import Authenticate, Role
from events.codec import decode_batch
from events.log.port import StreamPort
from events.state.operators import OperatorFold
from events.subjects import CONTROL_LOG
from events.types import OperatorTokenIssued, OperatorTokenRevoked, OperatorTokenRotated
from schemas.ids import token_sha256

AUDITOR = "auditor"
"""The user name of every reader; the password is an operator's token."""

_READING_ROLES = frozenset({"auditor", "admin"})


class Auditors:
    """Follows the control log and answers, without waiting, whether a password is a reader's."""

    def __init__(self, port: StreamPort, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._port = port
        self._wall_ns = wall_ns
        self._operators = OperatorFold()

    async def run(self) -> None:
        """Follow for ever. Raises events.log.port.LogTrimmed, events.codec.CodecError."""
        follower = self._port.read(after=0, subject_filter=CONTROL_LOG, accept_trimmed=True)
        try:
            while True:
                for message in await follower.next_batch():
                    for event in decode_batch(message.payload).events:
                        if isinstance(event, OperatorTokenIssued | OperatorTokenRevoked | OperatorTokenRotated):
                            self._operators.apply(message.sequence, event)
        finally:
            await follower.aclose()

    def may_read(self, password: str) -> bool:
        """Whether `password` is a live token of an auditor or admin."""
        digest = token_sha256(password)
        identity = self._operators.tokens.get(digest)
        if identity is None:
            return False
        operator = self._operators.records[identity]
        return operator.role in _READING_ROLES and operator.admits(digest, self._wall_ns())


def authenticator(auditors: Auditors, writer: str, writer_password: str) -> Authenticate:
    """The endpoint's logins: the writer by its generated password, readers by their tokens."""

    def authenticate(user: str, password: str) -> Role | None:
        if user == writer:
            same = hmac.compare_digest(password.encode(), writer_password.encode())
            return Role.WRITER if same else None
        if user == AUDITOR and auditors.may_read(password):
            return Role.READER
        return None

    return authenticate
