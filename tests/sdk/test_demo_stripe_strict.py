"""What the simulated Stripe refuses: bad parameters, bodies with two meanings, unknown paths, wrong keys."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st
from stripe._encode import _api_encode
from support.demo_sdk import CARD, plain_session, post_form, running_demo, stripe_api

from controlplane.demo import DemoVendors
from controlplane.demo.stripe_sim import form
from controlplane.demo.stripe_sim.refuse import Refused


@pytest.fixture
def vendors() -> Iterator[DemoVendors]:
    with running_demo() as vendors:
        yield vendors


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with plain_session() as session:
        yield session


@pytest.fixture
def api(vendors: DemoVendors, session: requests.Session) -> Any:
    return stripe_api(vendors, session)


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"currency": "usd"}, "parameter_missing", "amount"),
        ({"amount": 100}, "parameter_missing", "currency"),
        ({"amount": 100, "currency": "zzz"}, "parameter_invalid_currency", "currency"),
        ({"amount": 100, "currency": "usd", "amont": 5}, "parameter_unknown", "amont"),
        ({"amount": 100_000_000, "currency": "usd"}, "amount_too_large", "amount"),
        ({"amount": 1001, "currency": "kwd"}, "parameter_invalid_integer", "amount"),
        ({"amount": 100, "currency": "usd", "payment_method": "pm_none"}, "resource_missing", "payment_method"),
        ({"amount": 100, "currency": "usd", "customer": "cus_none"}, "resource_missing", "customer"),
        ({"amount": 100, "currency": "usd", "confirm": True}, "parameter_missing", "payment_method"),
        ({"amount": 100, "currency": "usd", "confirm": "yes"}, "parameter_invalid_boolean", "confirm"),
    ],
)
def test_bad_parameters_are_named(vendors: DemoVendors, api: Any, params: Any, code: Any, param: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.payment_intents.create(params)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert (vendors.log.entries()[-1].outcome, vendors.books.currencies) == ("refused", {})


@pytest.mark.parametrize("amount", ["-100", "1e9", "+5", "%205", "5%20", "1.0", "0", "", "0x10", "%EF%BC%91", "1_0"])
def test_only_plain_digits_are_an_amount(vendors: DemoVendors, session: requests.Session, amount: Any) -> None:
    body = f"amount={amount}&currency=usd&payment_method={CARD}&confirm=true"
    assert post_form(vendors, session, "/v1/payment_intents", body).status_code == 400
    assert vendors.books.currencies == {}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/payment_intents", "amount=100&amount=99999&currency=usd", None),
        ("/v1/payment_intents", "amount=100&amount[a]=1&currency=usd", None),
        ("/v1/payment_intents", "amount=100&currency=usd&metadata[]=a&metadata[b]=c", None),
        ("/v1/payment_intents", "amount=100&currency=usd&expand[1]=customer", None),
        ("/v1/payment_intents", "amount=100&currency=usd&descr%", None),
        ("/v1/payment_intents", "amount=100&currency=usd&description=%FF", None),
        ("/v1/payment_intents?amount=1", "amount=100&currency=usd", None),
        ("/v1/payment_intents", '{"amount": 100, "currency": "usd"}', "application/json"),
        ("/v1/payment_intents", "amount=100&currency=usd&expand[]=nonsense", None),
        ("/v1/payment_intents", "amount=100&currency=usd&expand[]=customer.email", None),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    vendors: DemoVendors, session: requests.Session, path: Any, body: Any, kind: Any
) -> None:
    body += f"&payment_method={CARD}&confirm=true" if kind is None else ""
    answer = post_form(vendors, session, path, body, **({"Content-Type": kind} if kind else {}))
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert vendors.books.currencies == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/payment_intents/pi_none", 404),
        ("/v1/charges/ch_none", 404),
        ("/v1/payouts", 404),
        ("/v1/payment_intentsX", 404),
        ("/v1/payment%2Fintents", 404),
        ("/v1//charges", 404),
        ("/v1/charges/", 404),
        ("/v1/charges?limit=101", 400),
        ("/v1/charges?limit=x", 400),
        ("/v1/charges?starting_after=ch_none", 404),
        ("/v1/charges?expand[]=data.nothing", 400),
    ],
)
def test_what_cannot_be_read_has_its_status(
    vendors: DemoVendors, session: requests.Session, path: Any, status: Any
) -> None:
    answer = session.get(vendors.stripe_url + path, auth=(vendors.stripe_key, ""), timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_only_the_configured_key_is_accepted(vendors: DemoVendors, session: requests.Session) -> None:
    with pytest.raises(stripe.AuthenticationError):
        stripe_api(vendors, session, key="sk_test_wrong").balance.retrieve()
    assert session.get(f"{vendors.stripe_url}/v1/balance", timeout=10).status_code == 401
    basic = session.get(f"{vendors.stripe_url}/v1/balance", auth=(vendors.stripe_key, ""), timeout=10)
    assert (basic.status_code, basic.headers["Stripe-Version"]) == (200, "2026-10-28.endive")
    with pytest.raises(stripe.PermissionError):
        stripe_api(vendors, session, stripe_account="acct_1").balance.retrieve()
    assert [entry.real_credential for entry in vendors.log.entries()] == [False, False, True, True]


_names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
_values: Any = st.recursive(
    st.text(min_size=1),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_names, inner, min_size=1, max_size=3),
    max_leaves=6,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()))
    return 1 + max(map(_depth, value)) if isinstance(value, list) else 0


@given(st.dictionaries(_names, _values, max_size=4).filter(lambda d: not d or _depth(d) <= 5))
@settings(max_examples=200, deadline=None)
def test_the_form_reader_undoes_what_the_sdk_writes(params: Any) -> None:
    encodable = all(text.encode(errors="ignore").decode() == text for text in _texts(params))
    if encodable:
        assert form.parse(urlencode(list(_api_encode(params)))) == params


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]


@given(st.text(alphabet="ab=&[]%+0159é ", max_size=30))
def test_the_form_reader_answers_anything(text: Any) -> None:
    assert isinstance(form.parse(text), dict | Refused)
