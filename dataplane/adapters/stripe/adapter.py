"""The Stripe adapter: one upstream's calls read, bounded, rewritten, metered and refused."""

import hashlib
from typing import Final

from dataplane.adapters import credentials, headers
from dataplane.adapters.answers import costs_nothing, unpriced
from dataplane.adapters.checks import Peek, peek, require_content_type
from dataplane.adapters.forms import Fields, parse_form
from dataplane.adapters.port import Call, Fx, Headers, Meter, Outgoing, Reading, Rendered
from dataplane.adapters.redirects import replaces
from dataplane.adapters.render import extras, message, render
from dataplane.adapters.strict import Malformed
from dataplane.adapters.stripe.bounds import ONE_REQUEST, bound_of
from dataplane.adapters.stripe.meter import MoneyMeter
from dataplane.adapters.stripe.money import reference, text_of
from dataplane.adapters.stripe.objects import Place
from dataplane.adapters.stripe.operations import BY_NAME, CREDIT_PARAMS, PLAIN_ID, UNKNOWN, Operation, classify
from dataplane.adapters.targets import split_base, target
from schemas.amounts import Amounts
from schemas.refusals import Refusal, refuse
from schemas.rpc import ObjectAnswer
from schemas.settings import Upstream

DEFAULT_BASE_URL: Final = "https://api.stripe.com"

MAX_KEY_CHARS: Final = 255
"""Stripe's own limit of an Idempotency-Key."""

_FORM: Final = b"application/x-www-form-urlencoded"
_SWITCHES: Final = frozenset({b"stripe-account", b"stripe-context"})
_ON_REQUESTED_OBJECT: Final = frozenset(
    {
        "payment_intents.update",
        "payment_intents.confirm",
        "payment_intents.capture",
        "payment_intents.increment_authorization",
        "charges.capture",
    }
)
"""Operations whose bound needs what the ledger knows of the object in their path."""


class StripeAdapter:
    """Configured for one upstream. Raises targets.BaseUrlError for an unusable base URL."""

    name = "stripe"

    def __init__(self, upstream_name: str, upstream: Upstream, fx: Fx) -> None:
        base = split_base(upstream.base_url or DEFAULT_BASE_URL)
        self.origin = base.origin
        self._prefix = base.prefix
        self._upstream = upstream_name
        self._allowed = frozenset(upstream.allow_headers)
        self._identity = upstream.forward_identity
        self._fx = fx

    def find_tokens(self, call: Call) -> list[str]:
        return credentials.find_tokens(call)

    def read(self, call: Call) -> Reading | Refusal:
        operation = classify(call.method, call.segments, call.query)
        if operation.kind == "denied":
            return refuse(
                "policy_denied",
                "This endpoint answers with a secret that would outlive the vault key.",
                rule="vendor_secrets",
            )
        seen = peek(call, _SWITCHES, self._allowed)
        if isinstance(seen, Refusal):
            return seen
        if operation.kind == "read":
            return Reading(operation.name, reads_only=True)
        fields = _fields(call, operation, seen)
        if isinstance(fields, Refusal):
            return fields
        return Reading(
            operation=operation.name,
            reads_only=operation.kind == "free" and _gives_credit(operation, fields) == "",
            wants=self._wants(call, operation, fields, seen.account),
            params=fields,
            idempotency=seen.idempotency.decode("latin-1"),
            account=seen.account,
        )

    def bound(self, call: Call, reading: Reading, known: ObjectAnswer | None) -> Amounts | Refusal:
        if reading.reads_only:
            return ONE_REQUEST
        operation = BY_NAME.get(reading.operation, UNKNOWN)
        if operation.kind == "money":
            return bound_of(operation.name, reading.params, known, self._fx)
        if operation.kind == "free":
            name = _gives_credit(operation, reading.params)
            return refuse("cost_unbounded", f"The parameter {name} gives credit or starts a charge.", meter="usd")
        return refuse(
            "cost_unbounded",
            f"The most that {call.method} {call.path[:200]} can cost does not follow from the request.",
            meter="usd",
        )

    def rewrite(self, call: Call, reading: Reading, key_id: str, credential: str) -> Outgoing | Refusal:
        bearer = b"Bearer " + credential.encode("latin-1") if credential else b""
        sent = headers.outgoing(call.seen, (b"Authorization", bearer), identity=self._identity)
        if reading.idempotency:
            sent = [pair for pair in sent if pair[0].lower() != b"idempotency-key"]
            sent.append((b"Idempotency-Key", namespaced(key_id, reading.idempotency)))
        where = target(self._prefix, call.path, credentials.without_credentials(call.query))
        return Outgoing(call.method, where, sent, call.body)

    def meter(self, call: Call, reading: Reading, status: int, answer: Headers) -> Meter:
        if reading.reads_only:
            return costs_nothing(status)
        operation = BY_NAME.get(reading.operation, UNKNOWN)
        if operation.kind != "money":
            return unpriced(status)
        place = Place(self._upstream, reading.account)
        wanted = call.segments[2] if len(call.segments) > 2 else ""
        return MoneyMeter(operation, wanted, place, self._fx, status, answer)

    def replaces(self, status: int, answer: Headers) -> Refusal | None:
        return replaces(status, answer)

    def relayed_headers(self, answer: Headers) -> list[tuple[bytes, bytes]]:
        return headers.relayed(answer)

    def refuse(self, refusal: Refusal, status: int, request_id: str) -> Rendered:
        """Stripe's error object. The SDK raises by status: 402 CardError, 401 AuthenticationError, 403
        PermissionError, 429 RateLimitError, 400 and 404 InvalidRequestError, others APIError. `decline_code` is
        never set: a cap is no declined card, and trying another card does not help.
        """
        kind = "api_error" if status >= 500 else "invalid_request_error"
        error = {"type": kind, "code": refusal.code, "message": message(refusal), **extras(refusal, request_id)}
        rendered = render(refusal, status, request_id, {"error": error})
        rendered.headers.append((b"Request-Id", request_id.encode()))
        return rendered

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG002 - the port's signature
        """Nothing: Stripe answers no call with a stream, and half an object has no place for an error."""
        return b""

    def _wants(self, call: Call, operation: Operation, fields: Fields, account: str) -> str:
        object_id = ""
        if operation.name in _ON_REQUESTED_OBJECT:
            object_id = call.segments[2]
        elif operation.name == "refunds.create":
            intent, charge = text_of(fields, "payment_intent"), text_of(fields, "charge")
            object_id = "" if intent and charge else intent or charge
        return reference(self._upstream, account, object_id) if PLAIN_ID.match(object_id) else ""


def namespaced(key_id: str, idempotency: str) -> bytes:
    """The client's Idempotency-Key as the vault key's own, so that two keys never share a stored answer.

    Plain while it fits, else a digest; the two forms differ in the character after the id and cannot collide. A
    call without a key gets none: the gateway sends again only what was never sent.
    """
    plain = f"{key_id}.{idempotency}"
    if len(plain) <= MAX_KEY_CHARS:
        return plain.encode("latin-1")
    return f"{key_id}:{hashlib.sha256(idempotency.encode('latin-1')).hexdigest()}".encode()


def _fields(call: Call, operation: Operation, seen: Peek) -> Fields | Refusal:
    """The form of a call that changes something."""
    if call.method == "POST" and call.query:
        return refuse("body_unparseable", "The query has parameters; those of a POST belong in its body.")
    if not call.body:
        return {}
    if operation.kind == "unknown" and seen.content_type != _FORM:
        return {}
    wrong = require_content_type(seen.content_type, _FORM)
    if wrong is not None:
        return wrong
    fields = parse_form(call.body)
    if isinstance(fields, Malformed):
        return refuse("body_unparseable", f"In the body {fields.reason}.")
    if "_method" in fields:
        return refuse("method_override", "the body has a _method parameter")
    return fields


def _gives_credit(operation: Operation, fields: Fields) -> str:
    """A parameter of a customer call that is worth money, "" if none."""
    if not operation.name.startswith("customers."):
        return ""
    return next((name for name in fields if name.partition("[")[0] in CREDIT_PARAMS), "")
