"""What passes the gateway's edges: headers, credentials in all their forms, targets, doubtful framing."""

from base64 import b64encode
from typing import Any

import pytest
from support.adapter_calls import (
    KEY_ID,
    TOKEN,
    call,
    openai_adapter,
    post_form,
    post_json,
    read,
    refused,
    stripe_adapter,
)

from dataplane.adapters.credentials import find_tokens, without_credentials
from dataplane.adapters.headers import outgoing, relayed
from dataplane.adapters.port import Call, Outgoing
from dataplane.adapters.scan import scan
from dataplane.adapters.targets import BaseUrlError, split_base, target

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
BASIC = b64encode(f"{TOKEN}:".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "query", "tokens"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, b"", [TOKEN]),
        ({"Authorization": f"bearer  {TOKEN} "}, b"", [TOKEN]),
        ({"Authorization": TOKEN}, b"", [TOKEN]),
        ({"Authorization": f"Basic {BASIC}"}, b"", [TOKEN]),
        ({"Authorization": "Basic " + b64encode(b"AC1:secret:x").decode()}, b"", ["AC1", "secret:x"]),
        ({"Authorization": "Basic !!!"}, b"", []),
        ({"Authorization": None, "X_Api_Key": "k"}, b"", ["k"]),
        ({"Authorization": None, "x_goog_api_key": "k"}, b"", ["k"]),
        ({"Authorization": None, "X_Shopify_Access_Token": "k"}, b"", ["k"]),
        ({"Authorization": None, "X_Postmark_Server_Token": "k"}, b"", ["k"]),
        ({"Authorization": None}, b"alt=sse&key=a%2Bb", ["a+b"]),
        ({"Authorization": None}, b"%6Bey=k", ["k"]),
        ({"X_Api_Key": "k"}, b"key=q", [TOKEN, "k", "q"]),
        ({"X_Api_Key": TOKEN}, b"", [TOKEN]),
        ({"Authorization": None}, b"", []),
        ({"Authorization": "Bearer " + "x" * 2000}, b"", []),
    ],
)
def test_every_form_of_credential_is_found(headers: dict[str, Any], query: bytes, tokens: list[str]) -> None:
    assert find_tokens(call("GET", "/v1/x", query=query, **headers)) == tokens


def test_a_flood_of_credentials_is_cut() -> None:
    flood = call("GET", "/v1/x", query=b"&".join(b"key=%d" % n for n in range(100)))
    assert len(find_tokens(flood)) == 8


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (b"", b""),
        (b"limit=3&starting_after=pi_1", b"limit=3&starting_after=pi_1"),
        (b"key=a&limit=3&ACCESS_TOKEN=b", b"limit=3"),
        (b"%6bey=a&limit=%33", b"limit=%33"),
        (b"keys=1&monkey=2", b"keys=1&monkey=2"),
    ],
)
def test_credentials_leave_the_query(query: bytes, kept: bytes) -> None:
    assert without_credentials(query) == kept


def test_outgoing_headers_hold_one_credential_and_nothing_of_ours() -> None:
    sent = [
        (b"Host", b"gateway"),
        (b"AUTHORIZATION", b"Bearer old"),
        (b"authorization", b"Basic old"),
        (b"x-api-key", b"old"),
        (b"X-Goog-Api-Key", b"old"),
        (b"X-Shopify-Access-Token", b"old"),
        (b"Proxy-Authorization", b"old"),
        (b"Cookie", b"old=1"),
        (b"X-Custom", b"contains " + TOKEN.encode()),
        (b"Connection", b"keep-alive, X-Private"),
        (b"X-Private", b"hop"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Length", b"5"),
        (b"Expect", b"100-continue"),
        (b"Accept-Encoding", b"gzip, br, zstd"),
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Forwarded-Anything", b"x"),
        (b"Forwarded", b"for=10.0.0.1"),
        (b"Via", b"1.1 me"),
        (b"X-Real-IP", b"10.0.0.1"),
        (b"X-Ringfence-Debug", b"1"),
        (b"X-Agent-Identity", b"name=bot"),
        (b"Stripe-Version", b"2026-10-28.endive"),
        (b"X-Stainless-Retry-Count", b"1"),
        (b"Content-Type", b"application/json"),
    ]
    credential = (b"Authorization", b"Bearer sk_real")
    assert outgoing(scan(sent), credential, identity=False) == [
        (b"Stripe-Version", b"2026-10-28.endive"),
        (b"X-Stainless-Retry-Count", b"1"),
        (b"Content-Type", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        credential,
    ]
    assert (b"X-Agent-Identity", b"name=bot") in outgoing(scan(sent), credential, identity=True)


def test_relayed_headers_hide_framing_cookies_and_the_account() -> None:
    got = [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"10"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Set-Cookie", b"a=b"),
        (b"openai-organization", b"acme"),
        (b"Stripe-Account", b"acct_1"),
        (b"Alt-Svc", b'h3=":443"'),
        (b"X-Ringfence-Request-Id", b"forged"),
        (b"Request-Id", b"req_vendor"),
        (b"Idempotent-Replayed", b"true"),
        (b"Retry-After", b"2"),
    ]
    assert relayed(got) == [
        (b"Content-Type", b"application/json"),
        (b"Request-Id", b"req_vendor"),
        (b"Idempotent-Replayed", b"true"),
        (b"Retry-After", b"2"),
    ]


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("https://api.stripe.com", "https://api.stripe.com", ""),
        ("https://api.openai.com/v1/", "https://api.openai.com", "/v1"),
        ("http://127.0.0.1:12111", "http://127.0.0.1:12111", ""),
        ("http://[::1]:80/x/y", "http://[::1]:80", "/x/y"),
    ],
)
def test_base_urls(url: str, origin: str, prefix: str) -> None:
    assert split_base(url) == (origin, prefix)
    assert target(prefix, "/v1/a", b"b=1") == f"{prefix}/v1/a?b=1".encode()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?a=1",
        "https://x/#f",
        "https://x:port",
        "https://x/a/../b",
        "https://x//b",
        "https://x/ä",
    ],
)
def test_unusable_base_urls(url: str) -> None:
    with pytest.raises(BaseUrlError, match="base_url"):
        split_base(url)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (call("POST", "/v1/customers", X_HTTP_Method_Override="DELETE"), "method_override"),
        (call("GET", "/v1/customers", x_method_override="POST"), "method_override"),
        (call("GET", "/v1/customers", query=b"limit=1&_method=POST"), "method_override"),
        (call("GET", "/v1/customers", query=b"limit=1;%5Fmethod=POST"), "method_override"),
        (post_form("/v1/customers", b"_method=DELETE"), "method_override"),
        (post_form("/v1/payouts", b"_method=DELETE"), "method_override"),
        (call("GET", "/v1/charges", b"amount=1"), "request_malformed"),
        (call("DELETE", "/v1/customers/cus_1", b"a=1"), "request_malformed"),
        (call("GET", "/v1/charges", Stripe_Account="acct_1"), "account_switch"),
        (call("GET", "/v1/charges", stripe_context="acct_1"), "account_switch"),
        (
            post_form("/v1/payment_intents", b"amount=1&currency=usd", Content_Type="application/json"),
            "body_unparseable",
        ),
        (post_form("/v1/payment_intents", b"amount=1&currency=usd", Content_Type=None), "body_unparseable"),
        (
            post_form("/v1/payment_intents", b"amount=1&currency=usd", Content_Type="multipart/form-data; boundary=x"),
            "body_unparseable",
        ),
        (post_form("/v1/payment_intents", b"amount=1&amount=9"), "body_unparseable"),
        (call("POST", "/v1/payment_intents", query=b"amount=1&currency=usd"), "body_unparseable"),
        (call("POST", "/v1/payouts", query=b"amount=1&currency=usd"), "body_unparseable"),
    ],
)
def test_stripe_refuses_what_could_be_read_in_two_ways(made: object, code: str) -> None:
    assert refused(stripe_adapter().read(made)) == code  # type: ignore[arg-type]  # a Call, from the table


@pytest.mark.parametrize("name", [b"idempotency-key", b"CONTENT-TYPE"])
def test_repeated_headers_that_matter_are_refused(name: bytes) -> None:
    made = post_form("/v1/payment_intents", b"amount=1&currency=usd")
    twice = [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Idempotency-Key", b"a"), (name, b"b")]
    doubled = Call(made.upstream, made.method, made.path, made.segments, made.query, scan(twice), made.body)
    assert refused(stripe_adapter().read(doubled)) == "request_malformed"


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (post_json("/v1/chat/completions", CHAT, OpenAI_Organization="org-1"), "account_switch"),
        (call("GET", "/v1/models", OpenAI_Project="proj_1"), "account_switch"),
        (post_json("/v1/chat/completions", CHAT, Content_Type="text/plain"), "body_unparseable"),
        (post_json("/v1/chat/completions", b'{"model":"gpt-4o","n":1,"n":9}'), "body_unparseable"),
        (post_json("/v1/chat/completions", {**CHAT, "model": None}), "body_unparseable"),
        (post_json("/v1/chat/completions", {**CHAT, "model": "a\ud800"}), "body_unparseable"),
        (post_json("/v1/chat/completions", {**CHAT, "stream": "true"}), "body_unparseable"),
        (post_json("/v1/chat/completions", {**CHAT, "stream": 1}), "body_unparseable"),
        (post_json("/v1/chat/completions", {**CHAT, "stream_options": []}), "body_unparseable"),
        (post_json("/v1/chat/completions", CHAT, X_HTTP_Method="GET"), "method_override"),
    ],
)
def test_openai_refuses_what_could_be_read_in_two_ways(made: object, code: str) -> None:
    assert refused(openai_adapter().read(made)) == code  # type: ignore[arg-type]  # a Call, from the table


def test_account_headers_pass_where_the_configuration_allows_them() -> None:
    adapter = stripe_adapter(allow_headers=("stripe-account",))
    made = post_form("/v1/payment_intents/pi_1/confirm", b"", Stripe_Account="acct_7")
    assert read(adapter, made).wants == "stripe/acct_7/pi_1"
    sent = adapter.rewrite(made, read(adapter, made), KEY_ID, "sk")
    assert isinstance(sent, Outgoing)
    assert (b"Stripe-Account", b"acct_7") in sent.headers
    assert refused(adapter.read(call("GET", "/v1/charges", Stripe_Account="acct_1/../x"))) == "account_switch"
    assert refused(adapter.read(call("GET", "/v1/charges", Stripe_Context="acct_1"))) == "account_switch"


def test_nothing_that_holds_a_secret_shows_it() -> None:
    adapter = stripe_adapter()
    made = post_form("/v1/payment_intents", {"amount": 1, "currency": "usd", "description": "secret-text"})
    reading = read(adapter, made)
    sent = adapter.rewrite(made, reading, KEY_ID, "sk_live_real")
    for shown in (repr(made), repr(reading), repr(sent), *map(repr, (made.__rich_repr__(), reading.__rich_repr__()))):
        assert TOKEN not in shown
        assert "secret-text" not in shown
        assert "sk_live_real" not in shown
