"""Refusals in Stripe's shape: `{"error": {"type", "code", "message", "param", ...}}`.

Types, codes and statuses follow Stripe's error reference; the official SDK chooses its exception class by status,
and at 400 by `type` (`idempotency_error`).
"""

from typing import Any, Literal

import msgspec

ErrorType = Literal["api_error", "card_error", "idempotency_error", "invalid_request_error"]


class Refused(msgspec.Struct, frozen=True):
    """A call that failed. `attempted` means that it got as far as the card network or an object's state, so that
    an idempotency key remembers it; a call refused for its parameters alone is not remembered.
    """

    status: int
    message: str
    code: str = ""
    param: str = ""
    type: ErrorType = "invalid_request_error"
    attempted: bool = False
    extra: dict[str, Any] = {}

    def body(self) -> bytes:
        error: dict[str, Any] = {"message": self.message, "type": self.type, **self.extra}
        if self.code:
            error["code"] = self.code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"
        if self.param:
            error["param"] = self.param
        return msgspec.json.encode({"error": error})


def no_such(kind: str, object_id: str, param: str) -> Refused:
    return Refused(status=404, code="resource_missing", param=param, message=f"No such {kind}: '{object_id}'")


def missing(param: str) -> Refused:
    return Refused(400, f"Missing required param: {param}.", code="parameter_missing", param=param)


def invalid(param: str, message: str, code: str = "") -> Refused:
    return Refused(400, message, code=code, param=param)


def unexpected_state(message: str, intent: dict[str, Any]) -> Refused:
    return Refused(
        400,
        message,
        code="payment_intent_unexpected_state",
        attempted=True,
        extra={"payment_intent": intent},
    )
