"""Endpoint patterns match whole segments, never prefixes."""

import pytest

from schemas.patterns import PatternError, matches, parse_pattern

# pattern, upstream, method, path, matches?
TABLE = [
    ("/v1/payment_intents", "stripe", "GET", "/v1/payment_intents", True),
    ("/v1/payment_intents", "stripe", "GET", "/v1/payment_intentsX", False),
    ("/v1/payment_intents", "stripe", "GET", "/v1/payment_intents/pi_1", False),
    ("/v1/payment_intents/*", "stripe", "GET", "/v1/payment_intents/pi_1", True),
    ("/v1/payment_intents/*", "stripe", "GET", "/v1/payment_intents", False),
    ("/v1/payment_intents/*", "stripe", "POST", "/v1/payment_intents/pi_1/capture", False),
    ("/v1/payment_intents/**", "stripe", "POST", "/v1/payment_intents/pi_1/capture", True),
    ("/v1/payment_intents/**", "stripe", "POST", "/v1/payment_intents", True),
    ("/v1/payment_intents/**", "stripe", "POST", "/v1/payment_intentsX", False),
    ("/v1/*/capture", "stripe", "POST", "/v1/pi_1/capture", True),
    ("POST /v1/charges", "stripe", "POST", "/v1/charges", True),
    ("POST /v1/charges", "stripe", "GET", "/v1/charges", False),
    ("stripe:POST /v1/charges", "stripe", "POST", "/v1/charges", True),
    ("stripe:/v1/charges", "openai", "POST", "/v1/charges", False),
    ("stripe: GET /v1/charges", "stripe", "GET", "/v1/charges", True),
    ("/**", "any", "GET", "/v1/charges", True),
    ("/", "any", "GET", "/", True),
    ("/", "any", "GET", "/v1", False),
]


@pytest.mark.parametrize(("pattern", "upstream", "method", "path", "expected"), TABLE)
def test_matching(pattern: str, upstream: str, method: str, path: str, expected: bool) -> None:
    assert matches(parse_pattern(pattern), upstream, method, tuple(path[1:].split("/"))) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "post /v1/charges",
        "/v1//charges",
        "/v1/",
        "/v1/../admin",
        "/v1/**/x",
        "/v1/a*",
        "/v1/%00 x",
        ":GET /v1",
        "/v1/ü",
        "/" + "a/" * 40,
        "/" + "x" * 600,
        "GET/v1 x",
    ],
)
def test_what_can_never_match_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(PatternError):
        parse_pattern(text)
