"""The official Stripe SDK through a running gateway: only the key and the base URL differ."""

import time
import urllib.error
import urllib.request
from typing import Any

import pytest
import stripe
from support.stack import AUDIT_S, Stack

CARD = {"currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


def client(stack: Stack, token: str, **options: Any) -> stripe.StripeClient:
    return stripe.StripeClient(token, base_addresses={"api": stack.stripe}, **options)


def test_a_charge_a_cap_and_a_revocation(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00", label="first")
    sdk = client(stack, key["token"])
    intent = sdk.v1.payment_intents.create({"amount": 700, **CARD})
    assert intent.status == "succeeded"
    with pytest.raises(stripe.CardError) as refused:
        sdk.v1.payment_intents.create({"amount": 301, **CARD})
    assert code(refused.value) == "cap_exhausted"
    assert refused.value.http_status == 402
    assert "3.00" in str(refused.value.user_message)
    assert sdk.v1.payment_intents.create({"amount": 300, **CARD}).status == "succeeded"
    stack.control("DELETE", f"/v1/keys/{key['id']}")
    with pytest.raises(stripe.AuthenticationError) as revoked:
        sdk.v1.payment_intents.retrieve(intent.id)
    assert code(revoked.value) == "key_revoked"


def test_authorise_capture_cancel_count_by_what_moves(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="20.00")
    sdk = client(stack, key["token"])
    held = sdk.v1.payment_intents.create({"amount": 1000, "capture_method": "manual", **CARD})
    assert_spent(stack, key, "10.00")
    sdk.v1.payment_intents.capture(held.id, {"amount_to_capture": 600})
    assert_spent(stack, key, "6.00")
    dropped = sdk.v1.payment_intents.create({"amount": 1400, "capture_method": "manual", **CARD})
    assert_spent(stack, key, "20.00")
    sdk.v1.payment_intents.cancel(dropped.id)
    assert_spent(stack, key, "6.00")


def code(error: stripe.StripeError) -> Any:
    """The error object's code; the SDK repeats it as an attribute only for some classes."""
    assert error.error is not None
    return error.error.code


def assert_spent(stack: Stack, key: dict[str, Any], settled: str) -> None:
    """Wait until the ledger has seen the newest settlement: then this much is settled and nothing held."""
    deadline = time.monotonic() + AUDIT_S
    while True:
        total = stack.control("GET", f"/v1/keys/{key['id']}")["spend"]["total"]
        if (total["settled"], total["held"]) == (settled, "0.00") or time.monotonic() > deadline:
            assert (total["settled"], total["held"]) == (settled, "0.00")
            return
        time.sleep(0.02)


def test_an_idempotent_retry_counts_once(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="20.00")
    sdk = client(stack, key["token"])
    first = sdk.v1.payment_intents.create({"amount": 700, **CARD}, {"idempotency_key": "order-1"})
    again = sdk.v1.payment_intents.create({"amount": 700, **CARD}, {"idempotency_key": "order-1"})
    assert first.id == again.id
    assert_spent(stack, key, "7.00")


def test_one_keys_idempotency_key_never_meets_anothers(stack: Stack) -> None:
    one, other = (client(stack, stack.issue(vendor="stripe", total_usd_cap="20")["token"]) for _ in range(2))
    first = one.v1.payment_intents.create({"amount": 700, **CARD}, {"idempotency_key": "same"})
    second = other.v1.payment_intents.create({"amount": 700, **CARD}, {"idempotency_key": "same"})
    assert first.id != second.id


def test_a_declined_card_costs_nothing_and_stays_the_vendors_error(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00")
    sdk = client(stack, key["token"])
    with pytest.raises(stripe.CardError) as declined:
        sdk.v1.payment_intents.create({"amount": 700, **CARD, "payment_method": "pm_card_chargeDeclined"})
    assert code(declined.value) == "card_declined"
    assert declined.value.headers is not None
    assert "X-Ringfence-Refusal" not in declined.value.headers


def test_refunds_have_a_budget_of_their_own_and_give_no_room_back(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00", refund_daily_usd_cap="5.00")
    sdk = client(stack, key["token"])
    intent = sdk.v1.payment_intents.create({"amount": 1000, **CARD})
    sdk.v1.refunds.create({"payment_intent": intent.id, "amount": 500})
    with pytest.raises(stripe.CardError) as more:
        sdk.v1.refunds.create({"payment_intent": intent.id, "amount": 100})
    assert code(more.value) == "cap_exhausted"
    with pytest.raises(stripe.CardError):
        sdk.v1.payment_intents.create({"amount": 500, **CARD})


def test_what_cannot_be_bounded_is_refused_under_a_cap(stack: Stack) -> None:
    sdk = client(stack, stack.issue(vendor="stripe", total_usd_cap="10.00")["token"])
    with pytest.raises(stripe.StripeError) as unbounded:
        sdk.v1.payment_intents.confirm("pi_never_seen_here")
    assert unbounded.value.http_status == 422
    assert code(unbounded.value) == "cost_unbounded"


def test_customers_are_free_and_lists_are_not_spend(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00")
    sdk = client(stack, key["token"])
    customer = sdk.v1.customers.create({"name": "Ann"})
    assert sdk.v1.customers.retrieve(customer.id).name == "Ann"
    sdk.v1.payment_intents.create({"amount": 700, **CARD})
    sdk.v1.payment_intents.list({"limit": 3})
    assert_spent(stack, key, "7.00")


def test_endpoints_upstreams_and_unknown_keys(stack: Stack) -> None:
    sdk = client(
        stack, stack.issue(vendor="stripe", total_usd_cap="1", allowed_endpoints=["GET /v1/customers/*"])["token"]
    )
    with pytest.raises(stripe.PermissionError) as endpoint:
        sdk.v1.customers.create({"name": "Ann"})
    assert code(endpoint.value) == "endpoint_not_allowed"
    with pytest.raises(stripe.PermissionError) as upstream:
        client(stack, stack.issue(vendor="openai", total_usd_cap="1")["token"]).v1.balance.retrieve()
    assert code(upstream.value) == "upstream_not_allowed"
    with pytest.raises(stripe.AuthenticationError) as unknown:
        client(stack, "rfk_" + "0" * 43).v1.balance.retrieve()
    assert code(unknown.value) == "unknown_key"


def test_the_sdks_own_retries_never_repeat_a_policy_decision(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="1.00")
    sdk = client(stack, key["token"], max_network_retries=3)
    with pytest.raises(stripe.CardError):
        sdk.v1.payment_intents.create({"amount": 700, **CARD})
    rows = stack.settled_requests(1, key=key["id"])
    assert [row["refusal"] for row in rows] == ["cap_exhausted"]


def test_identity_is_checked_against_the_keys_agent(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00", agent="identified-bot")

    def balance(identity: str) -> int:
        request = urllib.request.Request(
            f"{stack.stripe}/v1/balance",
            headers={"Authorization": f"Bearer {key['token']}", "X-Agent-Identity": identity},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert balance("name=identified-bot") == 200
    assert balance("name=somebody-else") == 403
    assert balance("name=identified-bot; name=x") == 400


def test_a_shared_key_charges_the_agent_that_each_caller_declares(stack: Stack) -> None:
    body = {"identity": "declared", "allow_unknown_agents": True, "vendor": "stripe", "total_usd_cap": "50.00"}
    key = stack.control("POST", "/v1/keys", {"label": "shared", **body})
    stack.control("PUT", "/v1/agents/declared-capped", {"owner": "declared-team"})
    stack.control("PUT", "/v1/budgets/agent/declared-capped", {"daily_usd_cap": "5.00"})

    def charge(identity: str, cents: int) -> Any:
        options: Any = {"headers": {"X-Agent-Identity": identity}} if identity else {}
        return client(stack, key["token"]).v1.payment_intents.create({"amount": cents, **CARD}, options)

    assert charge("name=declared-new; purpose=trying", 300).status == "succeeded"
    assert charge("name=declared-capped", 400).status == "succeeded"
    with pytest.raises(stripe.CardError) as capped:
        charge("name=declared-capped", 200)
    assert code(capped.value) == "cap_exhausted"
    with pytest.raises(stripe.StripeError) as nameless:
        charge("", 100)
    assert code(nameless.value) == "identity_required"
    stack.settled_requests(4, key=key["id"])
    rows = stack.control("GET", "/v1/reports/spend?group_by=agent&from=1h")["data"]
    spent = {row["agent"]: row["settled_usd"] for row in rows}
    assert (spent["declared-new"], spent["declared-capped"]) == ("3.00", "4.00")
    assert stack.control("GET", "/v1/agents/declared-new")["purpose"] == "trying"
