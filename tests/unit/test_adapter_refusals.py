"""Refusals as the official SDKs see them: the right exception, our code, no retry of their own."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import openai
import pytest
import stripe
from support.adapter_calls import openai_adapter, stripe_adapter

from dataplane.adapters import neutral
from dataplane.adapters.port import Rendered
from dataplane.adapters.registry import DEFAULT_BASE_URLS, NAMES, UnknownAdapterError, build_adapter
from schemas.refusals import REFUSALS, refuse
from schemas.settings import Upstream

HTTPX: Any = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The HTTP library that the SDK was built on; its fake transport takes the network's place."""

ID = "req_0123456789abcdef"
CAP = refuse(
    "cap_exhausted", "The daily cap of key vk_1 does not allow this.", account="key:vk_1", window="day", cap_usd="5.00"
)


class StripeTransport(stripe.HTTPClient):
    """Answers every request with one rendered refusal, and counts them."""

    name = "rendered"

    def __init__(self, rendered: Rendered) -> None:
        super().__init__()
        self._rendered = rendered
        self.requests = 0

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        self.requests += 1
        got = requests_headers(self._rendered)
        return self._rendered.body.decode(), self._rendered.status, got

    def close(self) -> None:
        """Nothing is open."""


def requests_headers(rendered: Rendered) -> Any:
    """Looked up in any case, as the SDKs' own HTTP libraries do."""
    return HTTPX.Headers([(name, value) for name, value in rendered.headers])


def stripe_raises(rendered: Rendered) -> tuple[stripe.StripeError, int]:
    transport = StripeTransport(rendered)
    client = stripe.StripeClient("rfk_x", http_client=transport, max_network_retries=2)
    with pytest.raises(stripe.StripeError) as caught:
        client.v1.payment_intents.create({"amount": 100, "currency": "usd"})
    return caught.value, transport.requests


def openai_client(handler: Callable[[Any], Any]) -> openai.OpenAI:
    http = HTTPX.Client(transport=HTTPX.MockTransport(handler))
    return openai.OpenAI(api_key="rfk_x", base_url="http://gateway/openai/v1", http_client=http, max_retries=2)


def openai_raises(rendered: Rendered) -> tuple[openai.APIError, int]:
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(request)
        return HTTPX.Response(rendered.status, headers=requests_headers(rendered), content=rendered.body)

    with openai_client(handler) as client, pytest.raises(openai.APIError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    return caught.value, len(seen)


@pytest.mark.parametrize(
    ("code", "status", "stripe_class", "openai_class"),
    [
        ("cap_exhausted", 402, stripe.CardError, openai.APIStatusError),
        ("cap_exhausted", 429, stripe.RateLimitError, openai.RateLimitError),
        ("cap_exhausted", 403, stripe.PermissionError, openai.PermissionDeniedError),
        ("endpoint_not_allowed", 403, stripe.PermissionError, openai.PermissionDeniedError),
        ("key_revoked", 401, stripe.AuthenticationError, openai.AuthenticationError),
        ("rate_limited", 429, stripe.RateLimitError, openai.RateLimitError),
        ("body_unparseable", 400, stripe.InvalidRequestError, openai.BadRequestError),
        ("cost_unbounded", 422, stripe.APIError, openai.UnprocessableEntityError),
        ("upstream_credential", 502, stripe.APIError, openai.InternalServerError),
        ("budget_unavailable", 503, stripe.APIError, openai.InternalServerError),
    ],
)
def test_the_official_sdks_raise_their_own_exceptions_once(
    code: str, status: int, stripe_class: type[Exception], openai_class: type[Exception]
) -> None:
    refusal = refuse(code, "It was refused.")
    from_stripe, stripe_requests = stripe_raises(stripe_adapter().refuse(refusal, status, ID))
    assert type(from_stripe) is stripe_class
    assert from_stripe.error is not None
    assert from_stripe.error.code == code
    assert from_stripe.request_id == ID
    assert from_stripe.http_status == status
    from_openai, openai_requests = openai_raises(openai_adapter().refuse(refusal, status, ID))
    assert type(from_openai) is openai_class
    assert from_openai.code == code
    assert isinstance(from_openai, openai.APIStatusError)
    assert from_openai.request_id == ID
    assert (stripe_requests, openai_requests) == (1, 1)
    for error in (str(from_stripe), str(from_openai)):
        assert "It was refused." in error
        assert REFUSALS[code].remedy in error


def test_a_cap_is_no_declined_card() -> None:
    error, _ = stripe_raises(stripe_adapter().refuse(CAP, 402, ID))
    assert isinstance(error, stripe.CardError)
    assert error.code == "cap_exhausted"
    body: Any = error.json_body
    assert "decline_code" not in body["error"]
    assert body["error"]["details"] == CAP.details


@pytest.mark.parametrize("code", sorted(REFUSALS))
@pytest.mark.parametrize("dialect", ["stripe", "openai", "neutral"])
def test_every_refusal_has_its_headers(code: str, dialect: str) -> None:
    refusal = refuse(code, "No.")
    render = {"stripe": stripe_adapter().refuse, "openai": openai_adapter().refuse, "neutral": neutral.refuse}[dialect]
    rendered = render(refusal, refusal.kind.status, ID)
    headers = requests_headers(rendered)
    assert rendered.status == refusal.kind.status
    assert headers["content-type"] == "application/json"
    assert headers["stripe-should-retry"] == "false"
    assert headers["x-should-retry"] == "false"
    assert headers["x-ringfence-refusal"] == code
    assert headers["x-ringfence-request-id"] == ID
    assert "retry-after" not in headers
    error = json.loads(rendered.body)["error"]
    assert error["code"] == code
    assert error["message"].startswith("No.")
    assert error["remedy"] == REFUSALS[code].remedy


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30.0, "30")])
def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    rendered = neutral.refuse(refuse("rate_limited", "Slow down.", retry_after_s=seconds), 429, ID)
    assert requests_headers(rendered)["retry-after"] == header


@pytest.mark.parametrize("before", [b"", b'data: {"id":"c","choices":[]}\n\n', b'data: {"id":"c","choices":[]}\n'])
def test_a_cut_stream_raises_instead_of_ending(before: bytes) -> None:
    tail = openai_adapter().stream_error(refuse("key_revoked", "The key was revoked."), ID)
    seen: list[Any] = []

    def handler(_: Any) -> Any:
        return HTTPX.Response(200, headers={"content-type": "text/event-stream"}, content=before + tail)

    with openai_client(handler) as client:
        stream = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="The key was revoked") as caught:
            seen.extend(stream)
    assert caught.value.code == "key_revoked"
    assert len(seen) == (1 if before else 0)


def test_stripe_has_no_streams() -> None:
    assert stripe_adapter().stream_error(CAP, ID) == b""


def test_the_registry_knows_its_dialects() -> None:
    assert NAMES == ("openai", "stripe")
    for name in NAMES:
        adapter = build_adapter(name, "u", Upstream(adapter=name), prices=None, fx=None)  # type: ignore[arg-type]  # not asked
        assert (adapter.name, adapter.origin) == (name, DEFAULT_BASE_URLS[name])
    with pytest.raises(UnknownAdapterError, match="known are openai, stripe"):
        build_adapter("strpe", "u", Upstream(adapter="strpe"), prices=None, fx=None)  # type: ignore[arg-type]  # not asked


@pytest.mark.interpreted
def test_adapters_show_no_credential() -> None:
    upstream = Upstream(adapter="stripe", credential="sk_live_secret")
    adapter = build_adapter("stripe", "u", upstream, prices=None, fx=None)  # type: ignore[arg-type]  # not asked
    assert "sk_live" not in repr(vars(adapter))
