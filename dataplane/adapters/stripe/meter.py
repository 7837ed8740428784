"""Reading what a Stripe call on money came to.

| answer | outcome |
|---|---|
| 2xx with the expected object | settled by the object's exposure |
| 402 | settled, nothing moved; the intent in the error is remembered for later calls on it |
| 400, 404, 409, ... with a JSON error | settled at nothing: the call was not executed (409: another one with the same key was under way, which is a request of its own here) |
| 401, 403, 429 | settled at nothing, whatever the body |
| a stored 5xx (`Idempotent-Replayed: true`) | settled at nothing: *this* request did nothing, and it resolves nothing: the attempt that was executed stays unknown |
| any other 5xx, 3xx, 408, a lost, cut, empty or strange body | unknown: it may have been executed |
"""  # noqa: E501 - a table reads in rows

import re
from typing import Final

import msgspec

from dataplane.adapters.answers import ONE_REQUEST, Kept, error_of, refused
from dataplane.adapters.port import Fx, Headers, Outcome
from dataplane.adapters.stripe.objects import Answer, Place, StripeError, exposure
from dataplane.adapters.stripe.operations import Operation

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_BODILESS: Final = frozenset({401, 403, 429})
_DECODER: Final = msgspec.json.Decoder(Answer)


class MoneyMeter:
    """One answer to a call of kind `money`. `wanted`: id of the object the call was on, "" for a new one."""

    __slots__ = ("_fx", "_kept", "_operation", "_place", "_replayed", "_status", "_wanted")

    def __init__(self, operation: Operation, wanted: str, place: Place, fx: Fx, status: int, headers: Headers) -> None:
        self._operation = operation
        self._wanted = wanted
        self._place = place
        self._fx = fx
        self._status = status
        self._replayed = _says_replayed(headers)
        self._kept = Kept()

    def feed(self, chunk: bytes) -> bytes:
        self._kept.add(chunk)
        return chunk

    def flush(self) -> bytes:
        return b""

    def finish(self, *, complete: bool) -> Outcome:
        status = self._status
        if status in _BODILESS:
            return self._settled(error_of(status))
        if status >= 500 and self._replayed:
            return Outcome("settled", ONE_REQUEST, error=error_of(status))
        if not 200 <= status < 300 and not refused(status):
            return Outcome("unknown", error=error_of(status))
        if not complete:
            return Outcome("unknown", error="incomplete")
        answer = self._decode()
        if answer is None:
            return Outcome("unknown", error="unreadable")
        return self._done(answer) if status < 300 else self._failed(answer.error)

    def _decode(self) -> Answer | None:
        if self._kept.cut:
            return None
        try:
            return _DECODER.decode(self._kept.body())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _done(self, answer: Answer) -> Outcome:
        """A 2xx answer; an object that is not the one the call was about proves nothing."""
        if answer.object != self._operation.object or (self._wanted and answer.id != self._wanted):
            return Outcome("unknown", error="unexpected_object")
        found = exposure(answer, self._place, self._fx)
        if found is None:
            return Outcome("unknown", error="unpriced")
        return Outcome("settled", ONE_REQUEST, object=found, replayed=self._replayed)

    def _failed(self, error: StripeError | None) -> Outcome:
        if error is None:
            return Outcome("unknown", error="unreadable")
        code = error.code or error.type or ""
        word = code if _CODE.match(code) else error_of(self._status)
        intent = error.payment_intent
        if self._status != 402 or intent is None or (self._wanted and intent.id != self._wanted):
            return self._settled(word)
        found = exposure(intent, self._place, self._fx, declined=True)
        return Outcome("settled", ONE_REQUEST, object=found, error=word, replayed=self._replayed)

    def _settled(self, error: str) -> Outcome:
        return Outcome("settled", ONE_REQUEST, error=error, replayed=self._replayed)


def _says_replayed(headers: Headers) -> bool:
    return any(name.lower() == b"idempotent-replayed" and value.strip().lower() == b"true" for name, value in headers)
