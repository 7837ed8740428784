"""Idempotency keys at the simulated Stripe: one execution, one answer; and repeatable runs."""

import concurrent.futures
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe
from support.demo_sdk import PAYMENT, PAYMENT_FORM, plain_session, post_form, running_demo, stripe_api

from controlplane.demo import DemoVendors
from controlplane.demo.threads import in_thread
from controlplane.demo.wire import Clock


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


def test_an_idempotency_key_is_executed_once(vendors: DemoVendors, session: requests.Session) -> None:
    body = PAYMENT_FORM
    first, second = (post_form(vendors, session, "/v1/payment_intents", body, **{"Idempotency-Key": "k"}) for _ in "ab")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Original-Request"] == first.headers["Request-Id"] != second.headers["Request-Id"]
    assert [entry.outcome for entry in vendors.log.entries()] == ["executed", "replayed"]
    assert vendors.books.currencies["usd"].moved == 1000


def test_an_idempotency_key_belongs_to_its_parameters_and_endpoint(vendors: DemoVendors, api: Any) -> None:
    key = {"idempotency_key": "k"}
    intent = api.payment_intents.create(PAYMENT, key)
    acts: list[Callable[[], Any]] = [
        lambda: api.payment_intents.create({**PAYMENT, "amount": 200}, key),
        lambda: api.payment_intents.capture(intent.id, {}, key),
    ]
    for act in acts:
        with pytest.raises(stripe.IdempotencyError):
            act()
    assert vendors.books.currencies["usd"].moved == 1000


def test_declines_are_remembered_and_bad_parameters_are_not(vendors: DemoVendors, api: Any) -> None:
    declined = {"amount": 100, "currency": "usd", "payment_method": "pm_card_chargeDeclined", "confirm": True}
    failures = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            api.payment_intents.create(declined, {"idempotency_key": "d"})
        failures.append(caught.value)
    assert failures[0].json_body == failures[1].json_body
    assert (failures[1].headers or {})["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.InvalidRequestError):
        api.payment_intents.create({"currency": "usd"}, {"idempotency_key": "p"})
    assert api.payment_intents.create({"amount": 5, "currency": "usd"}, {"idempotency_key": "p"}).amount == 5


def test_a_key_in_use_is_a_conflict(vendors: DemoVendors, session: requests.Session) -> None:
    body = PAYMENT_FORM
    slow = {"Idempotency-Key": "k", "X-Demo-Fault": "delay_ms=1000"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(post_form, vendors, session, "/v1/payment_intents", body, **slow)
        deadline = time.monotonic() + 10
        while not vendors.log.entries() and time.monotonic() < deadline:
            time.sleep(0.005)
        with requests.Session() as other:
            second = post_form(vendors, other, "/v1/payment_intents", body, **{"Idempotency-Key": "k"})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
        assert first.result().status_code == 200
    assert post_form(vendors, session, "/v1/payment_intents", body, **{"Idempotency-Key": "k"}).status_code == 200
    assert vendors.books.currencies["usd"].moved == 1000


def test_the_same_seed_and_clock_give_the_same_bytes(session: requests.Session) -> None:
    answers = []
    for _ in range(2):
        clock = Clock(mono_ns=time.monotonic_ns, wall_ns=lambda: 1_700_000_000_000_000_000)
        with in_thread(DemoVendors(seed=3, clock=clock)) as vendors:
            body = PAYMENT_FORM
            made = [post_form(vendors, session, "/v1/payment_intents", body) for _ in range(3)]
            answers.append([(answer.content, answer.headers["Request-Id"]) for answer in made])
    assert answers[0] == answers[1]
    assert len({body for body, _ in answers[0]}) == 3
