"""Refusals as HTTP answers: the headers that all of them carry, and the parts of their bodies.

The headers tell every official SDK not to retry by itself: a policy decision does not change because it is asked
again (docs/adr/0003-refusal-statuses.md). `Retry-After` stands only where trying again soon truly helps; until a
cap resets it would put some SDKs to sleep for a day.
"""

from math import ceil
from typing import Any

import msgspec

from dataplane.adapters.port import Rendered
from schemas.refusals import Refusal


def render(refusal: Refusal, status: int, request_id: str, body: dict[str, Any]) -> Rendered:
    """An answer around a body in the vendor's own error shape."""
    headers = [
        (b"Content-Type", b"application/json"),
        (b"Stripe-Should-Retry", b"false"),
        (b"x-should-retry", b"false"),
        (b"X-Ringfence-Refusal", refusal.code.encode()),
        (b"X-Ringfence-Request-Id", request_id.encode()),
        (b"Cache-Control", b"no-store"),
    ]
    if refusal.retry_after_s is not None:
        headers.append((b"Retry-After", str(max(1, ceil(refusal.retry_after_s))).encode()))
    return Rendered(status, headers, msgspec.json.encode(body))


def message(refusal: Refusal) -> str:
    """What was wrong, then what to do, as sentences: the one text that every SDK shows."""
    text = refusal.message
    stop = "" if text.endswith(".") else "."
    return f"{text[:1].upper()}{text[1:]}{stop} {refusal.kind.remedy}"


def extras(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """Members beside the vendor's own, for programs: figures of the refusal, and its remedy alone."""
    return {"remedy": refusal.kind.remedy, "details": refusal.details, "request_id": request_id}
