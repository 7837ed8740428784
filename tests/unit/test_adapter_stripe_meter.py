"""What a Stripe answer proves: exposure of its object, nothing, or nothing trustworthy."""

from typing import Any

import pytest
from support.adapter_calls import JSON_TYPE, ObjectBook, answer, call, post_form, refused, stripe_adapter

from dataplane.adapters.answers import MAX_ANSWER_BYTES
from dataplane.adapters.port import Call, Outcome
from events.types import ObjectExposure
from schemas.amounts import Amounts

CENT = 10_000_000
PI = "/v1/payment_intents"
CREATE = post_form(PI, {"amount": 1000, "currency": "usd"})
CONFIRM = post_form(f"{PI}/pi_1/confirm", b"")
CAPTURE = post_form(f"{PI}/pi_1/capture", b"")
CANCEL = post_form(f"{PI}/pi_1/cancel", b"")
CHARGE = post_form("/v1/charges", {"amount": 1000, "currency": "usd"})
REFUND = post_form("/v1/refunds", {"payment_intent": "pi_1"})
REPLAYED = [JSON_TYPE, (b"idempotent-replayed", b"true")]


def intent(status: str, *, amount: int = 1000, received: int = 0, capturable: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": amount,
        "amount_received": received,
        "amount_capturable": capturable,
        "amount_details": {"tip": {"amount": 77}},
        "currency": "usd",
        "status": status,
        "latest_charge": "ch_1",
        "client_secret": "pi_1_secret_x",
        **more,
    }


def charge(status: str, *, captured: bool, amount: int = 1000, **more: Any) -> dict[str, Any]:
    base = {"id": "ch_1", "object": "charge", "amount": amount, "currency": "usd", "status": status}
    return {**base, "captured": captured, "payment_intent": None, "refunded": False, "amount_refunded": 0, **more}


def error(kind: str = "invalid_request_error", code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, "message": "no", **more}}


def settle(made: Call, body: Any, status: int = 200, headers: Any = None, **how: Any) -> Outcome:
    return answer(stripe_adapter(), made, body, status, headers, **how)


def exposed(outcome: Outcome) -> ObjectExposure:
    assert outcome.outcome == "settled"
    assert outcome.actual == Amounts(requests=1)
    assert outcome.object is not None
    return outcome.object


@pytest.mark.parametrize(
    ("body", "cents", "about"),
    [
        (intent("requires_payment_method"), 1000, 1000),
        (intent("requires_confirmation"), 1000, 1000),
        (intent("requires_action"), 1000, 1000),
        (intent("processing"), 1000, 1000),
        (intent("requires_capture", capturable=1000), 1000, 1000),
        (intent("requires_capture", received=400, capturable=600), 1000, 600),
        (intent("requires_capture", received=400, capturable=500), 900, 500),
        (intent("succeeded", received=1000), 1000, 1000),
        (intent("succeeded", received=600), 600, 1000),
        (intent("succeeded", received=1200), 1200, 1200),
        (intent("canceled"), 0, 1000),
        (intent("canceled", received=400), 400, 1000),
        (intent("invented_state", received=400, capturable=900), 1300, 1000),
        ({k: v for k, v in intent("succeeded").items() if k != "amount_received"}, 1000, 1000),
    ],
)
def test_exposure_of_an_intent(body: dict[str, Any], cents: int, about: int) -> None:
    final = body["status"] in {"succeeded", "canceled"}
    told = ObjectExposure("stripe/-/pi_1", cents * CENT, "usd", about, "usd", final)
    assert exposed(settle(CONFIRM, body)) == told


@pytest.mark.parametrize(
    ("body", "cents"),
    [
        (charge("failed", captured=False), 0),
        (charge("pending", captured=False), 1000),
        (charge("succeeded", captured=False), 1000),
        (charge("succeeded", captured=False, refunded=True, amount_refunded=1000), 0),  # released
        (charge("succeeded", captured=True, amount_captured=1000), 1000),
        (charge("succeeded", captured=True, amount_captured=600), 600),
        (charge("succeeded", captured=True), 1000),
        (charge("succeeded", captured=True, amount_captured=1000, refunded=True, amount_refunded=1000), 1000),
    ],
)
def test_exposure_of_a_charge(body: dict[str, Any], cents: int) -> None:
    assert exposed(settle(CHARGE, body)) == ObjectExposure("stripe/-/ch_1", cents * CENT, "usd", 1000, "usd")


def test_a_charge_is_counted_under_its_intent() -> None:
    body = charge("succeeded", captured=True, amount_captured=1000, payment_intent="pi_9")
    assert exposed(settle(CHARGE, body)).ref == "stripe/-/pi_9"
    expanded = {**body, "payment_intent": intent("succeeded", received=999_999, id="pi_9")}
    assert exposed(settle(CHARGE, expanded)).ref == "stripe/-/pi_9"
    assert exposed(settle(CHARGE, expanded)).exposure_nanos == 1000 * CENT


def test_expanded_and_nested_objects_change_nothing() -> None:
    plain = intent("succeeded", received=1000)
    nested = {
        **plain,
        "latest_charge": charge("succeeded", captured=True, amount=999_999, amount_captured=999_999),
        "customer": {"id": "cus_1", "object": "customer", "balance": 5, "currency": "jpy"},
        "charges": {"object": "list", "data": [charge("succeeded", captured=True, amount=5)]},
    }
    assert settle(CONFIRM, nested) == settle(CONFIRM, plain)


@pytest.mark.parametrize(
    ("status", "cents"),
    [("pending", 300), ("requires_action", 300), ("succeeded", 300), ("failed", 0), ("canceled", 0), ("other", 300)],
)
def test_refunds_are_objects_of_their_own(status: str, cents: int) -> None:
    body = {
        "id": "re_1",
        "object": "refund",
        "amount": 300,
        "currency": "usd",
        "status": status,
        "payment_intent": "pi_1",
    }
    assert exposed(settle(REFUND, body)) == ObjectExposure("stripe/-/re_1", cents * CENT, "refund", 300, "usd")


def test_a_life_counts_once() -> None:
    """Create, authorise, capture a part, and repeats of each: the sum is what moved."""
    book = ObjectBook()
    moves = [
        book.count(settle(CREATE, intent("requires_confirmation"))),
        book.count(settle(CONFIRM, intent("requires_capture", capturable=1000))),
        book.count(settle(CONFIRM, intent("requires_capture", capturable=1000), headers=REPLAYED)),
        book.count(settle(CAPTURE, intent("succeeded", received=600))),
        book.count(settle(CREATE, intent("requires_confirmation"), headers=REPLAYED)),
        book.count(settle(call("GET", f"{PI}/pi_1"), intent("succeeded", received=600))),
    ]
    assert moves == [1000 * CENT, 0, 0, -400 * CENT, 0, 0]


def test_a_cancelled_intent_gives_back() -> None:
    book = ObjectBook()
    book.count(settle(CREATE, intent("requires_capture", capturable=1000)))
    assert book.count(settle(CANCEL, intent("canceled"))) == -1000 * CENT


def test_a_refund_gives_nothing_back_to_spending() -> None:
    book = ObjectBook()
    book.count(settle(CREATE, intent("succeeded", received=1000)))
    body = {"id": "re_1", "object": "refund", "amount": 1000, "currency": "usd", "status": "succeeded"}
    book.count(settle(REFUND, body))
    assert book.objects["stripe/-/pi_1"].exposure_nanos == 1000 * CENT


def test_a_declined_card_moved_nothing() -> None:
    body = error(
        "card_error", "card_declined", decline_code="generic_decline", payment_intent=intent("requires_payment_method")
    )
    outcome = settle(CREATE, body, 402)
    assert exposed(outcome) == ObjectExposure("stripe/-/pi_1", 0, "usd", 1000, "usd")
    assert outcome.error == "card_declined"
    assert settle(CHARGE, error("card_error", "card_declined", charge="ch_1"), 402) == Outcome(
        "settled", Amounts(requests=1), error="card_declined"
    )


def test_a_declined_confirm_gives_back_what_was_held_and_the_next_is_bounded_again() -> None:
    book, adapter = ObjectBook(), stripe_adapter()
    book.count(settle(CREATE, intent("requires_confirmation")))
    declined = error("card_error", "card_declined", payment_intent=intent("requires_payment_method"))
    assert book.count(settle(CONFIRM, declined, 402)) == -1000 * CENT
    reading = adapter.read(CONFIRM)
    most = adapter.bound(CONFIRM, reading, book.known("stripe/-/pi_1"))  # type: ignore[arg-type]  # a Reading, it parsed
    assert most == Amounts(usd=1000 * CENT, requests=1)
    assert book.count(settle(CONFIRM, intent("succeeded", received=1000))) == 1000 * CENT


def test_a_decline_that_names_another_object_is_not_taken_for_ours() -> None:
    other = error("card_error", "card_declined", payment_intent=intent("requires_payment_method", id="pi_2"))
    assert settle(CONFIRM, other, 402).object is None


@pytest.mark.parametrize("status", [400, 402, 404, 409, 424])
def test_refused_calls_cost_nothing(status: int) -> None:
    outcome = settle(CREATE, error(code="parameter_invalid"), status)
    assert outcome == Outcome("settled", Amounts(requests=1), error="parameter_invalid")


@pytest.mark.parametrize("status", [401, 403, 429])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":{}}'])
def test_calls_refused_at_the_door_cost_nothing(status: int, body: bytes) -> None:
    outcome = settle(CREATE, body, status, complete=False)
    assert outcome == Outcome("settled", Amounts(requests=1), error=f"http_{status}")


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (500, error("api_error"), "http_500"),
        (502, b"<html>bad gateway</html>", "http_502"),
        (503, b"", "http_503"),
        (504, b"", "http_504"),
        (408, error(), "http_408"),
        (301, b"", "http_301"),
        (101, b"", "http_101"),
        (200, b"", "unreadable"),
        (204, b"", "unreadable"),
        (200, b"<html>hello</html>", "unreadable"),
        (200, b'{"id":"pi_1","object":"payment_intent"', "unreadable"),
        (200, b"null", "unreadable"),
        (200, b"[]", "unreadable"),
        (200, {}, "unexpected_object"),
        (200, {"object": "list", "data": [intent("succeeded", received=1000)]}, "unexpected_object"),
        (200, charge("succeeded", captured=True), "unexpected_object"),
        (200, intent("succeeded", received=-5), "unreadable"),
        (200, intent("succeeded", amount="1000"), "unreadable"),  # type: ignore[arg-type]  # a string, on purpose
        (200, {**intent("succeeded"), "amount_received": 10.5}, "unreadable"),
        (200, {**intent("succeeded"), "amount": None}, "unpriced"),
        (200, {**intent("succeeded"), "currency": "gbp"}, "unpriced"),
        (200, intent("succeeded", amount=10**12, received=10**12), "unpriced"),
        (200, b'{"id":"\xff"}', "unreadable"),
        (400, b"<html>", "unreadable"),
        (404, b"{}", "unreadable"),
        (402, b"", "unreadable"),
    ],
)
def test_what_proves_nothing_is_unknown(status: int, body: Any, word: str) -> None:
    assert settle(CREATE, body, status) == Outcome("unknown", error=word)


def test_a_lost_answer_is_unknown() -> None:
    body = intent("succeeded", received=1000)
    assert settle(CREATE, body, complete=False) == Outcome("unknown", error="incomplete")
    assert settle(CREATE, error("card_error"), 402, complete=False).outcome == "unknown"


def test_an_object_that_the_call_was_not_about_proves_nothing() -> None:
    assert settle(CONFIRM, intent("succeeded", received=1, id="pi_2")).outcome == "unknown"


def test_an_answer_too_large_to_keep_is_unknown() -> None:
    body = intent("succeeded", received=1000, description="x" * MAX_ANSWER_BYTES)
    assert settle(CREATE, body, step=65_536).outcome == "unknown"
    assert settle(CREATE, {**body, "description": "x" * 1000}, step=7).outcome == "settled"


def test_a_replay_says_so_and_resolves_the_first_attempt() -> None:
    assert settle(CREATE, intent("succeeded", received=1000), headers=REPLAYED).replayed
    assert settle(CREATE, error("card_error", "card_declined"), 402, REPLAYED).replayed
    assert not settle(CREATE, intent("succeeded", received=1000)).replayed


def test_a_replayed_failure_did_nothing_and_resolves_nothing() -> None:
    """The attempt that was executed stays unknown; the replay executed nothing."""
    outcome = settle(CREATE, error("api_error"), 500, REPLAYED)
    assert outcome == Outcome("settled", Amounts(requests=1), error="http_500", replayed=False)


@pytest.mark.parametrize("status", [200, 301, 404, 429, 500, 503])
def test_reading_costs_nothing_whatever_becomes_of_it(status: int) -> None:
    for made in (call("GET", f"{PI}/pi_1"), call("GET", f"{PI}/search"), post_form("/v1/customers", b"name=a")):
        outcome = settle(made, {"object": "list", "data": [intent("succeeded", received=9)]}, status, complete=False)
        assert (outcome.outcome, outcome.actual, outcome.object) == ("settled", Amounts(requests=1), None)


def test_an_uncapped_call_without_a_price_is_unknown() -> None:
    payout = post_form("/v1/payouts", {"amount": 1, "currency": "usd"})
    assert settle(payout, {"object": "payout", "amount": 1}) == Outcome("unknown", error="unpriced")
    assert settle(payout, b"", 500).outcome == "unknown"
    assert settle(payout, error(), 400) == Outcome("settled", Amounts(requests=1), error="http_400")


def test_a_strange_error_code_does_not_travel() -> None:
    assert settle(CREATE, error(code="Sk_live <b>"), 400).error == "http_400"
    assert settle(CREATE, error(code=None), 400).error == "invalid_request_error"


def test_answers_that_must_not_reach_a_client() -> None:
    adapter = stripe_adapter()
    assert [refused(adapter.replaces(status, [])) for status in (401, 403)] == ["upstream_credential"] * 2
    assert [refused(adapter.replaces(status, [])) for status in (301, 302, 307, 308)] == ["upstream_redirect"] * 4
    assert all(adapter.replaces(status, []) is None for status in (200, 204, 304, 400, 402, 404, 429, 500))
