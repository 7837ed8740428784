"""The simulated Stripe, driven by the official SDK: what happens to money, and what the books say of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe
from support.demo_sdk import CARD, details, pay, plain_session, running_demo, stripe_api, totals

from controlplane.demo import DemoVendors


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


def test_automatic_capture_moves_the_amount_once(vendors: DemoVendors, api: Any) -> None:
    intent = pay(api, expand=["latest_charge"], metadata={"order": "6735"})
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 1000, 0)
    assert (intent.latest_charge.captured, intent.latest_charge.amount_captured) == (True, 1000)
    assert intent.latest_charge.payment_intent == intent.id
    assert intent.metadata["order"] == "6735"
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    for _ in range(2):
        assert api.payment_intents.retrieve(intent.id).status == "succeeded"
    assert totals(vendors, intent.id) == (1000, 0, 0)
    assert vendors.books.currencies["usd"].moved == 1000
    assert [entry.moves != () for entry in vendors.log.entries()] == [True, False, False]


def test_manual_capture_takes_a_part_and_releases_the_rest(vendors: DemoVendors, api: Any) -> None:
    intent = pay(api, capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 1000)
    assert totals(vendors, intent.id) == (0, 1000, 0)
    intent = api.payment_intents.capture(intent.id, {"amount_to_capture": 600})
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 600, 0)
    assert totals(vendors, intent.id) == (600, 0, 0)
    assert api.charges.retrieve(intent.latest_charge).amount_captured == 600


def test_several_captures_increment_and_overcapture(vendors: DemoVendors, api: Any) -> None:
    intent = pay(api, capture_method="manual")
    intent = api.payment_intents.increment_authorization(intent.id, {"amount": 1500})
    assert (intent.amount, intent.amount_capturable) == (1500, 1500)
    assert totals(vendors, intent.id) == (0, 1500, 0)
    intent = api.payment_intents.capture(intent.id, {"amount_to_capture": 400, "final_capture": False})
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 1100)
    assert totals(vendors, intent.id) == (400, 1100, 0)
    intent = api.payment_intents.capture(intent.id)
    assert (intent.status, intent.amount_received) == ("succeeded", 1500)
    assert totals(vendors, intent.id) == (1500, 0, 0)

    options = {"card": {"request_overcapture": "if_available"}}
    roomy = pay(api, capture_method="manual", payment_method_options=options)
    assert api.payment_intents.capture(roomy.id, {"amount_to_capture": 1200}).amount_received == 1200
    plain = pay(api, capture_method="manual")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.payment_intents.capture(plain.id, {"amount_to_capture": 1001})
    assert caught.value.code == "amount_too_large"
    assert totals(vendors, plain.id) == (0, 1000, 0)


def test_an_intent_walks_from_wish_to_payment_and_can_be_changed_until_then(vendors: DemoVendors, api: Any) -> None:
    intent = api.payment_intents.create({"amount": 500, "currency": "EUR"})
    assert (intent.status, intent.currency) == ("requires_payment_method", "eur")
    intent = api.payment_intents.update(intent.id, {"amount": 700, "payment_method": CARD})
    assert (intent.status, intent.amount) == ("requires_confirmation", 700)
    with pytest.raises(stripe.InvalidRequestError):
        api.payment_intents.confirm(intent.id, {"amount_to_confirm": 500})
    intent = api.payment_intents.confirm(intent.id, {"amount_to_confirm": 700})
    assert (intent.status, intent.amount_received) == ("succeeded", 700)
    assert totals(vendors, intent.id) == (700, 0, 0)
    api.payment_intents.update(intent.id, {"metadata": {"late": "yes"}})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.payment_intents.update(intent.id, {"amount": 900})
    assert caught.value.code == "payment_intent_unexpected_state"


STATES: dict[str, dict[str, Any]] = {
    "requires_payment_method": {"payment_method": None, "confirm": None},
    "requires_confirmation": {"confirm": None},
    "requires_action": {"payment_method": "pm_card_authenticationRequired"},
    "processing": {"payment_method": "pm_usBankAccount_success"},
    "requires_capture": {"capture_method": "manual"},
    "succeeded": {},
    "canceled": {"confirm": None},
}
# Which actions each state allows, written out: https://docs.stripe.com/payments/paymentintents/lifecycle
ALLOWED = {
    "requires_payment_method": {"update", "confirm", "cancel"},
    "requires_confirmation": {"update", "confirm", "cancel"},
    "requires_action": {"update", "confirm", "cancel"},
    "processing": {"cancel"},
    "requires_capture": {"capture", "cancel", "increment"},
    "succeeded": set(),
    "canceled": set(),
}


@pytest.mark.parametrize("state", STATES)
def test_every_action_in_every_state(vendors: DemoVendors, api: Any, state: Any) -> None:
    more = {name: value for name, value in STATES[state].items() if value is not None}
    base = {"amount": 1000, "currency": "usd", "payment_method": CARD, "confirm": True}
    base = {name: value for name, value in base.items() if STATES[state].get(name, value) is not None} | more
    actions = {
        "update": lambda i: api.payment_intents.update(i, {"amount": 1100}),
        "confirm": lambda i: api.payment_intents.confirm(i, {"payment_method": CARD}),
        "capture": api.payment_intents.capture,
        "cancel": api.payment_intents.cancel,
        "increment": lambda i: api.payment_intents.increment_authorization(i, {"amount": 1100}),
    }
    for name, act in actions.items():
        intent = api.payment_intents.create(base)
        if state == "canceled":
            intent = api.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"})
        assert intent.status == state
        if name in ALLOWED[state]:
            act(intent.id)
        else:
            with pytest.raises(stripe.InvalidRequestError) as caught:
                act(intent.id)
            assert caught.value.code == "payment_intent_unexpected_state"
            assert details(caught.value)["payment_intent"]["status"] == state
    held = vendors.books.currencies["usd"].held if vendors.books.currencies else 0
    live = [row for row in api.payment_intents.list({"limit": 100}).data if row.status != "canceled"]
    assert held == sum(row.amount if row.status == "processing" else row.amount_capturable for row in live)


@pytest.mark.parametrize(
    ("method", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", None),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None),
    ],
)
def test_declined_cards_move_nothing_and_can_be_replaced(
    vendors: DemoVendors, api: Any, method: Any, code: Any, decline_code: Any
) -> None:
    with pytest.raises(stripe.CardError) as caught:
        pay(api, payment_method=method)
    error = caught.value
    assert (error.http_status, error.code) == (402, code)
    assert details(error)["type"] == "card_error"
    assert details(error).get("decline_code") == decline_code
    intent = api.payment_intents.retrieve(details(error)["payment_intent"]["id"])
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", code)
    assert api.charges.retrieve(intent.latest_charge).status == "failed"
    assert vendors.books.currencies == {}
    assert api.payment_intents.confirm(intent.id, {"payment_method": CARD}).status == "succeeded"
    assert totals(vendors, intent.id) == (1000, 0, 0)


def test_money_that_arrives_later_by_itself(vendors: DemoVendors, api: Any, session: requests.Session) -> None:
    def settle(intent_id: str, outcome: str) -> int:
        body = {"object": intent_id, "outcome": outcome}
        return session.post(f"{vendors.stripe_url}/_demo/settle", json=body, timeout=10).status_code

    arrives, fails = (pay(api, payment_method="pm_usBankAccount_success") for _ in range(2))
    assert arrives.status == "processing"
    assert totals(vendors, arrives.id) == (0, 1000, 0)
    assert [settle(arrives.id, "succeeded"), settle(fails.id, "failed")] == [200, 200]
    assert api.payment_intents.retrieve(arrives.id).status == "succeeded"
    assert api.payment_intents.retrieve(fails.id).status == "requires_payment_method"
    assert (totals(vendors, arrives.id), totals(vendors, fails.id)) == ((1000, 0, 0), (0, 0, 0))
    challenged = pay(api, payment_method="pm_card_authenticationRequired")
    assert (challenged.status, challenged.next_action.type) == ("requires_action", "use_stripe_sdk")
    assert [settle(challenged.id, "succeeded"), settle(challenged.id, "succeeded")] == [200, 404]
    assert totals(vendors, challenged.id) == (1000, 0, 0)
    with pytest.raises(stripe.CardError) as caught:
        pay(api, payment_method="pm_card_authenticationRequired", off_session=True)
    assert caught.value.code == "authentication_required"
    assert [e.outcome for e in vendors.log.entries() if e.path == "/_demo/settle"] == ["settled"] * 3


def test_direct_charges_and_their_capture(vendors: DemoVendors, api: Any) -> None:
    charge = api.charges.create({"amount": 900, "currency": "usd", "source": "tok_visa"})
    assert (charge.status, charge.captured, charge.payment_intent) == ("succeeded", True, None)
    held = api.charges.create({"amount": 900, "currency": "usd", "source": "tok_visa", "capture": False})
    assert totals(vendors, held.id) == (0, 900, 0)
    assert api.charges.capture(held.id, {"amount": 400}).amount_captured == 400
    assert totals(vendors, held.id) == (400, 0, 0)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.charges.capture(held.id)
    assert caught.value.code == "charge_already_captured"
    with pytest.raises(stripe.CardError) as declined:
        api.charges.create({"amount": 900, "currency": "usd", "source": "tok_chargeDeclinedInsufficientFunds"})
    assert details(declined.value)["decline_code"] == "insufficient_funds"
    customer = api.customers.create({"source": "tok_mastercard"})
    paid = api.charges.create({"amount": 50, "currency": "usd", "customer": customer.id, "expand": ["customer"]})
    assert (paid.customer.id, paid.payment_method_details.card.brand) == (customer.id, "mastercard")
    poor = api.customers.create({})
    with pytest.raises(stripe.CardError):
        api.charges.create({"amount": 50, "currency": "usd", "customer": poor.id})


def test_refunds_never_exceed_what_was_captured(vendors: DemoVendors, api: Any) -> None:
    intent = pay(api)
    refund = api.refunds.create({"payment_intent": intent.id, "amount": 300, "reason": "duplicate"})
    assert (refund.status, refund.charge, refund.payment_intent) == ("succeeded", intent.latest_charge, intent.id)
    with pytest.raises(stripe.InvalidRequestError):
        api.refunds.create({"charge": intent.latest_charge, "amount": 701})
    assert api.refunds.create({"charge": intent.latest_charge}).amount == 700
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.refunds.create({"payment_intent": intent.id})
    assert caught.value.code == "charge_already_refunded"
    assert totals(vendors, intent.id) == (1000, 0, 1000)
    assert api.charges.retrieve(intent.latest_charge).refunded is True
    assert api.refunds.retrieve(refund.id, {"expand": ["charge"]}).charge.amount_refunded == 1000
    assert [row.amount for row in api.refunds.list({"payment_intent": intent.id}).data] == [700, 300]
    slow = pay(api, payment_method="pm_card_pendingRefund")
    assert api.refunds.create({"payment_intent": slow.id}).status == "pending"
    held = api.charges.create({"amount": 900, "currency": "usd", "source": "tok_visa", "capture": False})
    api.refunds.create({"charge": held.id})
    assert totals(vendors, held.id) == (0, 0, 0)
    assert api.balance.retrieve().available[0].amount == 0


def test_customers_are_kept_changed_and_deleted(api: Any) -> None:
    customer = api.customers.create({"email": "a@example.com", "name": "Ada", "metadata": {"a": "1", "b": "2"}})
    changed = api.customers.update(customer.id, {"name": "Eve", "metadata": {"a": "", "c": "3"}})
    assert (changed.name, changed.email, changed.metadata.to_dict()) == ("Eve", "a@example.com", {"b": "2", "c": "3"})
    assert [row.id for row in api.customers.list({"email": "a@example.com"}).data] == [customer.id]
    assert pay(api, customer=customer.id, expand=["customer"]).customer.name == "Eve"
    assert api.customers.delete(customer.id).deleted is True
    assert api.customers.retrieve(customer.id).deleted is True
    assert api.customers.list().data == []
    acts: list[Callable[[], Any]] = [
        lambda: api.customers.delete(customer.id),
        lambda: pay(api, customer=customer.id),
    ]
    for act in acts:
        with pytest.raises(stripe.InvalidRequestError):
            act()


def test_pages_hold_every_object_once_newest_first(api: Any) -> None:
    made = [pay(api, amount=100 + n).id for n in range(25)]
    newest_first = made[::-1]
    seen = [row.id for row in api.payment_intents.list({"limit": 10}).auto_paging_iter()]
    assert seen == newest_first
    page = api.payment_intents.list({"limit": 3, "ending_before": newest_first[10], "expand": ["data.latest_charge"]})
    assert ([row.id for row in page.data], page.has_more) == (newest_first[7:10], True)
    assert page.data[0].latest_charge.amount_captured == page.data[0].amount
    last = api.payment_intents.list({"limit": 5, "starting_after": newest_first[19]})
    assert ([row.id for row in last.data], last.has_more) == (newest_first[20:], False)
    assert len(api.charges.list({"payment_intent": made[0]}).data) == 1
    created = api.payment_intents.retrieve(made[0]).created
    assert len(api.payment_intents.list({"created": {"gte": created}, "limit": 100}).data) == 25
    assert api.payment_intents.list({"created": {"lt": created}}).data == []
