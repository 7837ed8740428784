"""What a Stripe call can cost at most, and how it goes out."""

from typing import Any

import pytest
from support.adapter_calls import (
    KEY_ID,
    bound,
    call,
    post_form,
    read,
    refused,
    stripe_adapter,
)

from dataplane.adapters.port import Call, Outgoing
from schemas.amounts import Amounts
from schemas.refusals import Refusal
from schemas.rpc import ObjectAnswer

CENT = 10_000_000
PI = "/v1/payment_intents"
FREE = Amounts(requests=1)


def known(counted_cents: int | None, about: int = 1000, currency: str = "usd") -> ObjectAnswer:
    counted = None if counted_cents is None else counted_cents * CENT
    return ObjectAnswer("stripe/-/x", counted, about, currency)


@pytest.mark.parametrize(
    ("path", "fields", "cents"),
    [
        (PI, {"amount": 1099, "currency": "usd"}, 1099),
        (PI, {"amount": 1099, "currency": "USD", "confirm": "true"}, 1099),
        (PI, {"amount": 1099, "currency": "usd", "capture_method": "manual", "metadata[amount]": 9}, 1099),
        (PI, {"amount": 100, "currency": "eur"}, 110),
        (PI, {"amount": 100, "currency": "jpy"}, 70),
        (PI, {"amount": 1000, "currency": "kwd"}, 325),
        (PI, {"amount": 0, "currency": "usd"}, 0),
        ("/v1/charges", {"amount": 250, "currency": "usd", "source": "tok_visa", "capture": "false"}, 250),
    ],
)
def test_new_money_is_bounded_by_the_request(path: str, fields: dict[str, Any], cents: int) -> None:
    assert bound(stripe_adapter(), post_form(path, fields)) == Amounts(usd=cents * CENT, requests=1)


@pytest.mark.parametrize(
    "fields",
    [
        b"currency=usd",
        b"amount=100",
        b"amount=-100&currency=usd",
        b"amount=1e3&currency=usd",
        b"amount=+5&currency=usd",
        b"amount=%2B5&currency=usd",
        b"amount=5+&currency=usd",
        b"amount=5.0&currency=usd",
        b"amount=0x10&currency=usd",
        b"amount=010&currency=usd",
        b"amount=1_000&currency=usd",
        b"amount=&currency=usd",
        b"amount=%D9%A1%D9%A2&currency=usd",  # Arabic digits
        b"amount=9999999999999&currency=usd",
        b"amount=999999999999&currency=usd",
        b"amount[]=1&currency=usd",
        b"amount=100&currency=gbp",  # no rate
        b"amount=100&currency=us",
        b"amount=100&currency=u%24d",
        b"amount=100&currency[]=usd",
    ],
)
@pytest.mark.parametrize("path", [PI, "/v1/charges"])
def test_amounts_without_one_clear_meaning_have_no_bound(path: str, fields: bytes) -> None:
    adapter, made = stripe_adapter(), post_form(path, fields)
    refusal = adapter.bound(made, read(adapter, made), None)
    assert refused(refusal) == "cost_unbounded"
    assert isinstance(refusal, Refusal)
    assert refusal.details["meter"] == "usd"


@pytest.mark.parametrize(
    ("path", "fields", "seen", "cents"),
    [
        # confirm: what is missing of the object's own amount
        (f"{PI}/pi_1/confirm", {}, known(1000), 0),
        (f"{PI}/pi_1/confirm", {}, known(0), 1000),  # declined before
        (f"{PI}/pi_1/confirm", {"amount_to_confirm": 1000}, known(0), 1000),
        (f"{PI}/pi_1/confirm", {"amount_to_confirm": 1500}, known(1000), 500),
        (f"{PI}/pi_1/confirm", {"amount_to_confirm": 10}, known(0), 1000),  # a smaller claim is not believed
        # capture: nothing more, but overcapture
        (f"{PI}/pi_1/capture", {}, known(1000), 0),
        (f"{PI}/pi_1/capture", {"amount_to_capture": 600}, known(1000), 0),
        (f"{PI}/pi_1/capture", {"amount_to_capture": 1200}, known(1000), 200),
        # 500 of 1000 captured, 500 capturable: 600 of it is 100 more
        (f"{PI}/pi_1/capture", {"amount_to_capture": 600, "final_capture": "false"}, known(1000, about=500), 100),
        ("/v1/charges/ch_1/capture", {}, known(1000), 0),
        ("/v1/charges/ch_1/capture", {"amount": 1100}, known(1000), 100),
        # increment: the new total
        (f"{PI}/pi_1/increment_authorization", {"amount": 1500}, known(1000), 500),
        (f"{PI}/pi_1/increment_authorization", {"amount": 900}, known(1000), 0),
        # update: raises, lowers, moves to another currency, or changes nothing
        (f"{PI}/pi_1", {"amount": 2500}, known(1000), 1500),
        (f"{PI}/pi_1", {"amount": 500}, known(1000), 0),
        (f"{PI}/pi_1", {"currency": "eur"}, known(1000), 100),
        (f"{PI}/pi_1", {"description": "x"}, known(1000), 0),
        (f"{PI}/pi_1", {"description": "x"}, known(0), 1000),
        (f"{PI}/pi_1", {"amount": 700, "currency": "usd"}, known(None), 700),
        (f"{PI}/pi_1", {"amount": 700, "currency": "usd"}, None, 700),
        # the object's own currency
        (f"{PI}/pi_1/confirm", {}, known(0, 1000, "jpy"), 700),
    ],
)
def test_calls_on_a_known_object_cost_the_difference(
    path: str, fields: dict[str, Any], seen: ObjectAnswer | None, cents: int
) -> None:
    assert bound(stripe_adapter(), post_form(path, fields), seen) == Amounts(usd=cents * CENT, requests=1)


@pytest.mark.parametrize("seen", [None, known(None), known(1000, currency=""), known(1000, currency="gbp")])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"{PI}/pi_1/confirm", {}),
        (f"{PI}/pi_1/confirm", {"amount_to_confirm": 10}),
        (f"{PI}/pi_1/capture", {"amount_to_capture": 10}),
        (f"{PI}/pi_1/increment_authorization", {"amount": 10}),
        (f"{PI}/pi_1", {"amount": 10}),
        (f"{PI}/pi_1", {"description": "x"}),
        ("/v1/charges/ch_1/capture", {}),
        ("/v1/refunds", {"payment_intent": "pi_1"}),
        ("/v1/refunds", {"payment_intent": "pi_1", "amount": 10}),
    ],
)
def test_an_object_never_seen_has_no_bound(path: str, fields: dict[str, Any], seen: ObjectAnswer | None) -> None:
    adapter, made = stripe_adapter(), post_form(path, fields)
    assert refused(adapter.bound(made, read(adapter, made), seen)) == "cost_unbounded"


@pytest.mark.parametrize(
    ("fields", "seen", "cents"),
    [
        ({"payment_intent": "pi_1", "amount": 300}, known(1000), 300),
        ({"payment_intent": "pi_1"}, known(1000), 1000),
        ({"payment_intent": "pi_1"}, known(800, about=200), 800),  # partly captured: all that may have moved
        ({"charge": "ch_1", "amount": 300}, known(1000, currency="eur"), 330),
    ],
)
def test_refunds_count_on_their_own_meter(fields: dict[str, Any], seen: ObjectAnswer, cents: int) -> None:
    most = bound(stripe_adapter(), post_form("/v1/refunds", fields), seen)
    assert most == Amounts(refund=cents * CENT, requests=1)


def test_an_unbounded_refund_concerns_only_refund_caps() -> None:
    adapter, made = stripe_adapter(), post_form("/v1/refunds", {"charge": "ch_1"})
    refusal = adapter.bound(made, read(adapter, made), None)
    assert isinstance(refusal, Refusal)
    assert refusal.details["meter"] == "refund"


@pytest.mark.parametrize(
    ("made", "wants"),
    [
        (post_form(f"{PI}/pi_1/confirm", b""), "stripe/-/pi_1"),
        (post_form(f"{PI}/pi_1/capture", b""), "stripe/-/pi_1"),
        (post_form(f"{PI}/pi_1", b"amount=1"), "stripe/-/pi_1"),
        (post_form("/v1/charges/ch_1/capture", b""), "stripe/-/ch_1"),
        (post_form("/v1/refunds", {"payment_intent": "pi_1"}), "stripe/-/pi_1"),
        (post_form("/v1/refunds", {"charge": "ch_1"}), "stripe/-/ch_1"),
        (post_form("/v1/refunds", {"charge": "ch_1", "payment_intent": "pi_1"}), ""),
        (post_form("/v1/refunds", {"charge": "../../other/-/ch_1"}), ""),
        (post_form(PI, {"amount": 1, "currency": "usd"}), ""),
        (post_form(f"{PI}/pi_1/cancel", b""), ""),
    ],
)
def test_which_object_the_bound_needs(made: Call, wants: str) -> None:
    assert read(stripe_adapter(), made).wants == wants


@pytest.mark.parametrize(
    ("made", "operation"),
    [
        (call("GET", f"{PI}/pi_1"), "payment_intents.retrieve"),
        (call("GET", PI, query=b"limit=100"), "payment_intents.list"),
        (call("GET", f"{PI}/search", query=b"query=x"), "payment_intents.search"),
        (call("GET", "/v1/charges/ch_1"), "charges.retrieve"),
        (call("GET", "/v1/balance"), "balance.retrieve"),
        (call("GET", "/v1/payouts/po_1"), "read"),
        (call("HEAD", "/v1/customers/cus_1"), "customers.retrieve"),
        (call("GET", "/v2/core/accounts/acct_1"), "read"),
        (post_form("/v1/customers", {"email": "a@example.com"}), "customers.create"),
        (post_form("/v1/customers/cus_1", {"name": "A"}), "customers.update"),
        (call("DELETE", "/v1/customers/cus_1"), "customers.delete"),
        (post_form("/v1/charges/ch_1", {"description": "x"}), "charges.update"),
        (post_form("/v1/refunds/re_1", {"metadata[a]": "b"}), "refunds.update"),
    ],
)
def test_calls_that_cost_nothing(made: Call, operation: str) -> None:
    adapter = stripe_adapter()
    reading = read(adapter, made)
    assert (reading.operation, reading.reads_only) == (operation, True)
    assert adapter.bound(made, reading, None) == FREE


def test_giving_back_costs_nothing() -> None:
    assert bound(stripe_adapter(), post_form(f"{PI}/pi_1/cancel", b"")) == FREE
    assert bound(stripe_adapter(), post_form("/v1/refunds/re_1/cancel", b"")) == FREE


@pytest.mark.parametrize(
    "made",
    [
        post_form("/v1/payouts", {"amount": 1, "currency": "usd"}),
        post_form("/v1/transfers", {"amount": 1, "currency": "usd"}),
        post_form("/v1/topups", {"amount": 1, "currency": "usd"}),
        post_form("/v1/invoices/in_1/pay", b""),
        post_form("/v1/subscriptions", {"customer": "cus_1"}),
        post_form("/v1/checkout/sessions", {"mode": "payment"}),
        post_form("/v1/payment_links", b"a=1"),
        post_form("/v1/charges/ch_1/refund", b""),
        post_form("/v1/customers/cus_1/balance_transactions", {"amount": -5}),
        post_form(f"{PI}/pi_1/apply_customer_balance", b""),
        post_form(f"{PI}/pi_1/confirm/again", b""),
        post_form(f"{PI}/search", b""),
        post_form(f"{PI}/ch_1/confirm", b""),
        post_form("/v1/payment_intentsX", {"amount": 1, "currency": "usd"}),
        post_form("/v1", b""),
        post_form("/", b""),
        call(
            "POST", "/v2/money_management/outbound_payments", b'{"amount":{"value":1}}', Content_Type="application/json"
        ),
        call("PUT", PI),
        call("PATCH", f"{PI}/pi_1"),
        call("DELETE", f"{PI}/pi_1"),
        post_form("/v1/customers", {"balance": -100000}),
        post_form("/v1/customers/cus_1", {"cash_balance[settings][reconciliation_mode]": "x"}),
        post_form("/v1/customers", {"items[0][plan]": "gold"}),
    ],
)
def test_money_that_moves_elsewhere_has_no_bound(made: Call) -> None:
    adapter = stripe_adapter()
    reading = read(adapter, made)
    assert not reading.reads_only
    assert refused(adapter.bound(made, reading, None)) == "cost_unbounded"


@pytest.mark.parametrize(
    "made",
    [
        post_form("/v1/ephemeral_keys", {"customer": "cus_1"}),
        call("DELETE", "/v1/ephemeral_keys/ephkey_1"),
        post_form("/v1/webhook_endpoints", {"url": "https://x"}),
        post_form("/v1/terminal/connection_tokens", b""),
        post_form("/v1/account_sessions", b""),
        call("GET", "/v1/apps/secrets/find", query=b"expand[]=payload"),
        call("GET", "/v1/issuing/cards/ic_1", query=b"expand%5B%5D=n%75mber"),
        call("GET", "/v2/core/event_destinations/ed_1", query=b"include=webhook_endpoint.signing_secret"),
        call("POST", "/v2/core/event_destinations", b"{}", Content_Type="application/json"),
    ],
)
def test_answers_with_secrets_are_denied(made: Call) -> None:
    assert refused(stripe_adapter().read(made)) == "policy_denied"


def test_harmless_neighbours_of_secrets_are_not() -> None:
    adapter = stripe_adapter()
    for path in ("/v1/webhook_endpoints", "/v1/issuing/cards/ic_1", "/v1/apps"):
        assert read(adapter, call("GET", path)).reads_only


def sent(made: Call, **settings: Any) -> Outgoing:
    adapter = stripe_adapter(**settings)
    out = adapter.rewrite(made, read(adapter, made), KEY_ID, "sk_live_real")
    assert isinstance(out, Outgoing)
    return out


def test_the_body_goes_out_as_it_came() -> None:
    body = b"amount=%31099&currency=usd&metadata%5Ba%5D=b+c"
    out = sent(post_form(PI, body))
    assert out.body is not None
    assert (out.method, out.target, out.body) == ("POST", b"/v1/payment_intents", body)
    assert [value for name, value in out.headers if name.lower() == b"authorization"] == [b"Bearer sk_live_real"]


def test_target_and_origin() -> None:
    made = call("GET", PI, query=b"limit=3&key=stolen&expand[]=data.customer")
    assert sent(made).target == b"/v1/payment_intents?limit=3&expand[]=data.customer"
    assert sent(made, base_url="http://127.0.0.1:9/stripe/").target.startswith(b"/stripe/v1/payment_intents?")
    assert stripe_adapter().origin == "https://api.stripe.com"
    assert stripe_adapter(base_url="http://127.0.0.1:9/stripe/").origin == "http://127.0.0.1:9"


def idempotency(key: str | None, key_id: str = KEY_ID) -> list[bytes]:
    adapter = stripe_adapter()
    made = post_form(PI, {"amount": 1, "currency": "usd"}, Idempotency_Key=key)
    out = adapter.rewrite(made, read(adapter, made), key_id, "sk")
    assert isinstance(out, Outgoing)
    return [value for name, value in out.headers if name.lower() == b"idempotency-key"]


def test_idempotency_keys_are_the_vault_keys_own() -> None:
    assert idempotency(None) == []
    assert idempotency("order-7") == [f"{KEY_ID}.order-7".encode()]
    assert idempotency("order-7", "vk_other") != idempotency("order-7")
    longest = "k" * (255 - len(KEY_ID) - 1)
    assert idempotency(longest) == [f"{KEY_ID}.{longest}".encode()]
    hashed = idempotency(longest + "k")
    assert hashed != idempotency(longest + "l")
    assert len(hashed[0]) <= 255
    assert hashed[0].startswith(KEY_ID.encode())
    # A client cannot write the digest form by itself.
    assert idempotency(hashed[0].decode().removeprefix(KEY_ID)[1:]) != hashed
    made = post_form(PI, {"amount": 1, "currency": "usd"}, Idempotency_Key="order-7")
    assert read(stripe_adapter(), made).idempotency == "order-7"
