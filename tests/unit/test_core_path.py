import pytest

from dataplane.core.path import MAX_PATH_CHARS, MAX_SEGMENTS, MAX_TARGET_CHARS, Target, parse_target
from schemas.refusals import Refusal

CANONICAL = [
    ("/", ("",), "", False),
    ("/stripe", ("stripe",), "", False),
    ("/stripe/", ("stripe",), "", True),
    ("/stripe/v1/payment_intents", ("stripe", "v1", "payment_intents"), "", False),
    ("/stripe/v1/charges?limit=3&expand[]=data", ("stripe", "v1", "charges"), "limit=3&expand[]=data", False),
    ("/openai/v1/models/ft:gpt-4o:acme::abc", ("openai", "v1", "models", "ft:gpt-4o:acme::abc"), "", False),
    ("/gemini/v1beta/models/g-2:generateContent", ("gemini", "v1beta", "models", "g-2:generateContent"), "", False),
    ("/twilio/v1/PhoneNumbers/%2B14155550100", ("twilio", "v1", "PhoneNumbers", "%2B14155550100"), "", False),
    ("/postmark/x/a%40b.example", ("postmark", "x", "a%40b.example"), "", False),
    ("/x/caf%C3%A9", ("x", "caf%C3%A9"), "", False),
    ("/x/..y/.z./w..", ("x", "..y", ".z.", "w.."), "", False),
    ("/x?a=%2f..//;\\", ("x",), "a=%2f..//;\\", False),
    ("/x?", ("x",), "", False),
]

REFUSED = {
    "": "must begin with '/'",
    "*": "must begin with '/'",
    "http://api.stripe.com/v1/charges": "must begin with '/'",
    "example.com:443": "must begin with '/'",
    "v1/charges": "must begin with '/'",
    "//evil.example/v1": "empty segment",
    "/stripe//v1": "empty segment",
    "/stripe/v1//": "empty segment",
    "/a/./b": "dot segment",
    "/a/../b": "dot segment",
    "/a/..": "dot segment",
    "/a/.": "dot segment",
    "/..?x": "dot segment",
    "/a/%2e%2e/b": "encoded separator",
    "/a/%2E/b": "encoded separator",
    "/a%2Fb": "encoded separator",
    "/a%2fb": "encoded separator",
    "/a%5Cb": "encoded separator",
    "/a%255Cb": "encoded separator",
    "/a%3Bb": "encoded separator",
    "/a%3Fb": "encoded separator",
    "/a%23b": "encoded separator",
    "/a%3Ab": "encoded separator",
    "/a%00": "encoded control",
    "/a%0d%0aHost:x": "encoded control",
    "/a%7F": "encoded control",
    "/a\x00": "control character",
    "/a b": "space",
    "/a\tb": "control character",
    "/caf\u00e9": "beyond ASCII",
    "/caf\udce9": "beyond ASCII",
    "/a\\b": "backslash",
    "/a;jsessionid=1": "';'",
    "/a#frag": "'#'",
    "/a?x#frag": "'#'",
    "/a%3d": "capitals",
    "/a%c3%A9": "capitals",
    "/%61dmin": "needs none",
    "/a%7Eb": "needs none",
    "/a%30": "needs none",
    "/a%2Db": "needs none",
    "/a%": "two hexadecimal digits",
    "/a%4": "two hexadecimal digits",
    "/a?b=%zz": "two hexadecimal digits",
    "/a%C0%AF": "not valid UTF-8",
    "/a%FF": "not valid UTF-8",
    '/a"b': "must be percent-encoded",
    "/a|b": "must be percent-encoded",
    "/a[0]": "must be percent-encoded",
}


@pytest.mark.parametrize(("raw", "segments", "query", "slash"), CANONICAL)
def test_canonical_targets_pass_as_they_are(raw: str, segments: tuple[str, ...], query: str, slash: bool) -> None:
    assert parse_target(raw) == Target(raw.partition("?")[0], segments, query, slash)


@pytest.mark.parametrize("raw", REFUSED)
def test_anything_else_is_refused_with_its_reason(raw: str) -> None:
    refusal = parse_target(raw)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "path_not_canonical"
    assert REFUSED[raw] in refusal.message


def test_lengths_are_bounded() -> None:
    assert isinstance(parse_target("/" + "a" * (MAX_PATH_CHARS - 1)), Target)
    assert isinstance(parse_target("/" + "a" * MAX_PATH_CHARS), Refusal)
    assert isinstance(parse_target("/a" * MAX_SEGMENTS), Target)
    assert isinstance(parse_target("/a" * (MAX_SEGMENTS + 1)), Refusal)
    assert isinstance(parse_target("/a?" + "b" * (MAX_TARGET_CHARS - 3)), Target)
    assert isinstance(parse_target("/a?" + "b" * (MAX_TARGET_CHARS - 2)), Refusal)


def test_a_refusal_never_repeats_what_was_sent() -> None:
    refusal = parse_target("/a?key=rfk_secret#x")
    assert isinstance(refusal, Refusal)
    assert "rfk_secret" not in refusal.message
