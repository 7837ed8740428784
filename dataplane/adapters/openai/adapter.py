"""The OpenAI adapter: one upstream's calls read, bounded, rewritten, metered and refused."""

import re
from typing import Any, Final

import msgspec

from dataplane.adapters import credentials, headers
from dataplane.adapters.answers import ONE_REQUEST, costs_nothing, is_type, unpriced
from dataplane.adapters.checks import peek, require_content_type
from dataplane.adapters.openai import chat, embed
from dataplane.adapters.openai.answer import AnswerMeter
from dataplane.adapters.openai.shapes import Pricing
from dataplane.adapters.openai.stream import StreamMeter
from dataplane.adapters.openai.usage import VENDOR, billed_tier, list_name
from dataplane.adapters.port import Call, Headers, Meter, Outgoing, Prices, Reading, Rendered
from dataplane.adapters.redirects import replaces
from dataplane.adapters.render import extras, message, render
from dataplane.adapters.splice import add_member, replace_member
from dataplane.adapters.strict import Malformed, parse_json_object
from dataplane.adapters.targets import split_base, target
from schemas.amounts import Amounts
from schemas.prices import DEFAULT_TIER
from schemas.refusals import Refusal, refuse
from schemas.rpc import ObjectAnswer
from schemas.settings import Upstream

DEFAULT_BASE_URL: Final = "https://api.openai.com"

CHAT: Final = "chat.completions.create"
EMBEDDINGS: Final = "embeddings.create"

_POST: Final = {("v1", "chat", "completions"): CHAT, ("v1", "embeddings"): EMBEDDINGS}
_BOUNDS: Final = {CHAT: chat.bound_of, EMBEDDINGS: embed.bound_of}
_SWITCHES: Final = frozenset({b"openai-organization", b"openai-project"})
_JSON: Final = b"application/json"
_VERSION: Final = "/v1"
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class OpenAiAdapter:
    """Configured for one upstream. Raises targets.BaseUrlError for an unusable base URL.

    A version at the end of the base URL belongs to the requests' paths: `/v1/chat/completions` and, below such a
    base, `/chat/completions` reach the same endpoint.
    """

    name = "openai"

    def __init__(self, upstream: Upstream, prices: Prices) -> None:
        base = split_base(upstream.base_url or DEFAULT_BASE_URL)
        self.origin = base.origin
        self._versioned = base.prefix.endswith(_VERSION)
        self._prefix = base.prefix.removesuffix(_VERSION)
        self._allowed = frozenset(upstream.allow_headers)
        self._identity = upstream.forward_identity
        self._aliases = upstream.models
        self._prices = prices

    def find_tokens(self, call: Call) -> list[str]:
        return credentials.find_tokens(call)

    def read(self, call: Call) -> Reading | Refusal:
        seen = peek(call, _SWITCHES, self._allowed)
        if isinstance(seen, Refusal):
            return seen
        segments = self._segments(call)
        if call.method in {"GET", "HEAD"} and segments[:2] == ("v1", "models") and len(segments) <= 3:
            return Reading("models.list" if len(segments) == 2 else "models.retrieve", reads_only=True)
        operation = _POST.get(segments, "") if call.method == "POST" else ""
        if not operation:
            return Reading("")
        params = parse_json_object(call.body)
        wrong = require_content_type(seen.content_type, _JSON)
        if wrong is not None:
            return wrong
        if isinstance(params, Malformed):
            return refuse("body_unparseable", f"In the body {params.reason}.")
        return _reading(operation, params)

    def bound(self, call: Call, reading: Reading, known: ObjectAnswer | None) -> Amounts | Refusal:  # noqa: ARG002
        """`known` is never asked for: nothing here outlives its request."""
        if reading.reads_only:
            return ONE_REQUEST
        bound_of = _BOUNDS.get(reading.operation)
        if bound_of is None:
            return _unbounded(f"What {call.method} {call.path[:200]} can cost does not follow from the request.")
        price = self._prices.model(VENDOR, list_name(reading.model, self._aliases))
        if price is None:
            return _unbounded(f"The price list has no model {reading.model!r}.")
        try:
            most = bound_of(reading.params, len(call.body), price)
        except chat.Unbounded as error:
            return _unbounded(f"For {reading.model!r} {error}.")
        return Amounts(usd=most.usd_nanos, requests=1, tokens=most.prompt_tokens + most.output_tokens)

    def rewrite(self, call: Call, reading: Reading, key_id: str, credential: str) -> Outgoing | Refusal:  # noqa: ARG002
        """OpenAI has no idempotency keys, so nothing is made the vault key's own."""
        bearer = b"Bearer " + credential.encode("latin-1") if credential else b""
        sent = headers.outgoing(call.seen, (b"Authorization", bearer), identity=self._identity)
        body = _asking_for_usage(call.body, reading.params) if reading.inject_usage else call.body
        path = call.path if call.segments[0] == "v1" or not self._versioned else _VERSION + call.path
        where = target(self._prefix, path, credentials.without_credentials(call.query))
        return Outgoing(call.method, where, sent, body)

    def meter(self, call: Call, reading: Reading, status: int, answer: Headers) -> Meter:  # noqa: ARG002
        """By what the answer is, not by what was asked for: some servers ignore `stream`."""
        if reading.reads_only:
            return costs_nothing(status)
        if not reading.operation:
            return unpriced(status)
        pricing = Pricing(self._prices, self._aliases, reading.model, _asked_tier(reading.params))
        if 200 <= status < 300 and is_type(answer, b"text/event-stream"):
            return StreamMeter(pricing, strip=reading.inject_usage)
        return AnswerMeter(pricing, status)

    def replaces(self, status: int, answer: Headers) -> Refusal | None:
        return replaces(status, answer)

    def relayed_headers(self, answer: Headers) -> list[tuple[bytes, bytes]]:
        return headers.relayed(answer)

    def refuse(self, refusal: Refusal, status: int, request_id: str) -> Rendered:
        """OpenAI's error object. The SDK raises by status (401 AuthenticationError, 403 PermissionDeniedError, 429
        RateLimitError, 402 APIStatusError, ...) and takes `code` from the body.
        """
        rendered = render(refusal, status, request_id, {"error": _error(refusal, status, request_id)})
        rendered.headers.append((b"x-request-id", request_id.encode()))
        return rendered

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """An event that makes the SDK raise APIError. A stream that merely ends would look like a success.

        The empty line before it ends an event that was cut by its length, and means nothing otherwise.
        """
        body = msgspec.json.encode({"error": _error(refusal, refusal.kind.status, request_id)})
        return b"\n\ndata: " + body + b"\n\n"

    def _segments(self, call: Call) -> tuple[str, ...]:
        if self._versioned and call.segments[0] != "v1":
            return ("v1", *call.segments)
        return call.segments


def _reading(operation: str, params: dict[str, Any]) -> Reading | Refusal:
    model = params.get("model")
    if not isinstance(model, str) or _MODEL.match(model) is None:
        return refuse("body_unparseable", "The model is missing or not a model's name.")
    stream = params.get("stream")
    options = params.get("stream_options")
    if not isinstance(stream, bool | None) or not isinstance(options, dict | None):
        return refuse("body_unparseable", "stream is true or false, and stream_options an object.")
    asked = options is not None and options.get("include_usage") is True
    return Reading(
        operation=operation,
        model=model,
        stream=bool(stream),
        params=params,
        inject_usage=operation == CHAT and bool(stream) and not asked,
    )


def _asking_for_usage(body: bytes, params: dict[str, Any]) -> bytes:
    """The client's own bytes with `stream_options.include_usage` set, all others in their place."""
    if "stream_options" not in params:
        return add_member(body, b'"stream_options":{"include_usage":true}')
    return replace_member(body, "stream_options", {**(params["stream_options"] or {}), "include_usage": True})


def _asked_tier(params: dict[str, Any]) -> str:
    try:
        return billed_tier(chat.tier_of(params))
    except chat.Unbounded:
        return DEFAULT_TIER


def _unbounded(text: str) -> Refusal:
    return refuse("cost_unbounded", text, meter="usd")


def _error(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if refusal.code == "cap_exhausted":
        kind = "insufficient_quota"  # what client libraries know as "do not wait and try again"
    return {
        "message": message(refusal),
        "type": kind,
        "param": None,
        "code": refusal.code,
        **extras(refusal, request_id),
    }
