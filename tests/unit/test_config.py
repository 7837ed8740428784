"""ringfence.yaml: what it may say, and that each mistake is named with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import ConfigError, load_settings, settings_from_env
from schemas.settings import Timing

ENV = {"STRIPE_SECRET_KEY": "sk_test_123", "OPENAI_API_KEY": "sk-456"}

GOOD = """
upstreams:
  stripe: {adapter: stripe, credential: "${STRIPE_SECRET_KEY}"}
  openai: {adapter: openai, base_url: https://api.openai.com/v1, credential: "${OPENAI_API_KEY}", cap_status: 429}
  stripe-eu: {adapter: stripe, base_url: "https://stripe.example/eu/", host: eu.internal, credential: sk_eu}
defaults: {expires_in: 1h, max_expires_in: 30d}
fx: {base: usd, rates: {eur: "1.09", jpy: "0.0067"}, margin: "0.02"}
"""


def test_a_whole_file() -> None:
    settings = load_settings(GOOD, "ringfence.yaml", ENV)
    assert settings.upstreams["stripe"].base_url == "https://api.stripe.com"
    assert settings.upstreams["stripe"].credential == "sk_test_123"
    assert settings.upstreams["openai"].base_url == "https://api.openai.com"  # the version belongs to the request
    assert settings.upstreams["openai"].cap_status == 429
    assert settings.upstreams["stripe-eu"].base_url == "https://stripe.example/eu"
    assert (settings.defaults.expires_in_s, settings.defaults.max_expires_in_s) == (3600, 30 * 86400)
    assert settings.fx.rates == {"eur": "1.09", "jpy": "0.0067"}
    assert settings.timing == Timing()


def test_credentials_show_in_no_repr() -> None:
    settings = load_settings(GOOD, "ringfence.yaml", ENV)
    assert "sk_" not in repr(settings)
    assert "sk-" not in repr(settings)


def test_without_a_file_each_vendor_whose_variable_is_set_is_served() -> None:
    settings = settings_from_env({"STRIPE_SECRET_KEY": "sk_test_1", "OPENAI_API_KEY": ""})
    assert {name: upstream.base_url for name, upstream in settings.upstreams.items()} == {
        "stripe": "https://api.stripe.com"
    }


STRIPE = "upstreams:\n  stripe: {adapter: stripe, credential: x"

# text, line of the problem, words that its message must hold
BAD = [
    ("upstreams: [", 1, "YAML"),
    ("\n\nupstream: {}", 3, "no field 'upstream'"),
    ("upstreams: 3", 1, "not a mapping"),
    (f"{STRIPE}, colour: red}}", 2, "no field 'colour'"),
    (f"{STRIPE}, cap_status: 500}}", 2, "cap_status"),
    (f"{STRIPE}, max_body_bytes: ten}}", 2, "max_body_bytes"),
    (f"{STRIPE}, base_url: 'ftp://x'}}", 2, "base_url"),
    (f"{STRIPE}, base_url: 'https://user:pw@x'}}", 2, "base_url"),
    (f"{STRIPE}, base_url: 'https://x/?a=b'}}", 2, "base_url"),
    (f"{STRIPE}, base_url: 'http://x', tls: {{ca_file: ca.pem}}}}", 2, "base_url is not https"),
    (f"{STRIPE}, tls: {{cert_file: me.pem}}}}", 2, "needs its key"),
    (f"{STRIPE}, tls: {{server_name: other}}}}", 2, "server_name"),
    (f"{STRIPE}, tls: {{ca: ca.pem}}}}", 2, "tls"),
    (f"{STRIPE}, base_url: 'https://x:99999'}}", 2, "base_url"),
    (f"{STRIPE}, credential: y}}", 2, "twice"),
    ("upstreams:\n  stripe: {adapter: stripe}", 2, "no credential"),
    ('upstreams:\n  stripe: {adapter: stripe, credential: "${NOT_SET}"}', 2, "NOT_SET is not set"),
    ('upstreams:\n  stripe: {adapter: stripe, credential: "a\\nb"}', 2, "no header can carry"),
    ("upstreams:\n  sap: {credential: x}", 2, "no adapter 'sap'"),
    ("upstreams:\n  v1: {adapter: stripe, credential: x}", 2, "cannot have that name"),
    ("upstreams:\n  'a/b': {adapter: stripe, credential: x}", 2, "cannot have that name"),
    (f"{STRIPE}, host: h}}\n  s2: {{adapter: stripe, credential: x, host: H}}", 2, "same host"),
    ("defaults: {expires_in: soon}", 1, "expires_in"),
    ("defaults: {expires_in: 2d, max_expires_in: 1d}", 1, "above"),
    ("fx: {rates: {eur: '0'}}", 1, "zero"),
    ("fx: {rates: {eur: 'abc'}}", 1, "not a number"),
    ("fx: {rates: {eur: 1.09}}", 1, "rates"),
    ("timing: {proof_ttl_ms: 100, heartbeat_ms: 100}", 1, "proof_ttl_ms"),
    ("timing: {heartbeat_ms: 0}", 1, "above zero"),
    ("? [a]\n: b", 1, "plain text"),
    ("a: &x [*x]", 1, ""),
]


@pytest.mark.parametrize(("text", "line", "words"), BAD)
def test_each_mistake_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(text, "f.yaml", ENV)
    assert words in str(caught.value)
    assert any(str(problem).startswith(f"f.yaml:{line}: ") for problem in caught.value.problems)
    assert all(problem.remedy for problem in caught.value.problems)


def test_all_mistakes_are_told_at_once_and_no_secret_with_them() -> None:
    text = 'upstreams:\n  a: {adapter: x, credential: "${STRIPE_SECRET_KEY}"}\n  b: {adapter: stripe}\nmore: 1\n'
    with pytest.raises(ConfigError) as caught:
        load_settings(text, "f.yaml", ENV)
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]
    assert "sk_test_123" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    try:
        load_settings(text, "f.yaml", {})
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either outcome is fine; an error says why


def test_a_file_that_unfolds_without_end_is_refused_at_once() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    with pytest.raises(ConfigError, match="too large"):
        load_settings("a0: &a0 x\n" + levels, "f.yaml", {})


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(ConfigError):
        load_settings("#" * (1 << 20) + "\n# x", "f.yaml", {})
