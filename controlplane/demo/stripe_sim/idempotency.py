"""Idempotency keys, as Stripe keeps them: the first executed request of a key decides all later ones.

    (unknown) --claim--> in progress --remember--> remembered
                              |---------forget---> (unknown)

In progress: 409. Remembered: the same status and body again, or 400 if the parameters differ. A request refused
for its parameters alone is not remembered; a declined card and a 500 are.
Source: https://docs.stripe.com/api/idempotent_requests.
"""

import hashlib

import msgspec

from controlplane.demo.stripe_sim.refuse import Refused

KEY_LIMIT = 100_000  # Stripe keeps them 24 hours; here the oldest goes first
_MAX_KEY_CHARS = 255


class Remembered(msgspec.Struct, frozen=True, gc=False):
    fingerprint: bytes
    path: str
    request_id: str
    status: int
    body: bytes


class Claim(msgspec.Struct, frozen=True):
    """The right to execute; to be given to `remember` or `forget`."""

    key: str
    fingerprint: bytes
    path: str


class Keys:
    def __init__(self, limit: int = KEY_LIMIT) -> None:
        self._limit = limit
        self._remembered: dict[str, Remembered] = {}
        self._in_progress: dict[str, str] = {}  # key -> path; bounded by the requests in flight

    def claim(self, key: str, path: str, body: bytes) -> Claim | Remembered | Refused:
        if len(key) > _MAX_KEY_CHARS:
            message = f"Idempotency-Key is longer than {_MAX_KEY_CHARS} characters."
            return Refused(400, message, type="idempotency_error")
        fingerprint = hashlib.sha256(body).digest()
        old = self._remembered.get(key)
        if old is not None:
            return old if (old.path, old.fingerprint) == (path, fingerprint) else _mismatch(key, old, path)
        if key in self._in_progress:
            message = (
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                "submitted twice, and the other request is still going through)."
            )
            return Refused(409, message, code="idempotency_key_in_use", type="idempotency_error")
        self._in_progress[key] = path
        return Claim(key=key, fingerprint=fingerprint, path=path)

    def remember(self, claim: Claim, request_id: str, status: int, body: bytes) -> None:
        self.forget(claim)
        self._remembered[claim.key] = Remembered(
            fingerprint=claim.fingerprint, path=claim.path, request_id=request_id, status=status, body=body
        )
        if len(self._remembered) > self._limit:
            del self._remembered[next(iter(self._remembered))]

    def forget(self, claim: Claim) -> None:
        self._in_progress.pop(claim.key, None)


def _mismatch(key: str, old: Remembered, path: str) -> Refused:
    what = "with the same parameters" if old.path == path else f"for the same endpoint ('{old.path}')"
    message = (
        f"Keys for idempotent requests can only be used {what} they were first used with. Try using a key other "
        f"than '{key}' if you meant to execute a different request."
    )
    return Refused(400, message, type="idempotency_error")
