"""Objects as Stripe shows them: the fields of API version 2026-10-28, built from the records.

The field lists follow Stripe's OpenAPI description (https://github.com/stripe/openapi, MIT). Fields that the
simulation has no opinion on are null or empty, as on a plain test account.
"""

from typing import Any

from controlplane.demo.stripe_sim import cards
from controlplane.demo.stripe_sim.records import Charge, Customer, Intent, Refund

Shown = dict[str, Any]


def intent(item: Intent) -> Shown:
    shown: Shown = {
        "id": item.id,
        "object": "payment_intent",
        "amount": item.amount,
        "amount_capturable": item.amount_capturable,
        "amount_details": {"tip": {}},
        "amount_received": item.amount_received,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": item.canceled_at_s,
        "cancellation_reason": item.cancellation_reason,
        "capture_method": item.capture_method,
        "client_secret": item.client_secret,
        "confirmation_method": "automatic",
        "created": item.created_s,
        "currency": item.currency,
        "customer": item.customer,
        "description": item.description,
        "last_payment_error": item.last_error,
        "latest_charge": item.latest_charge,
        "livemode": False,
        "metadata": item.metadata,
        "next_action": _next_action(item),
        "on_behalf_of": None,
        "payment_method": item.payment_method,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "processing": {"type": "card"} if item.status == "processing" else None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": item.status,
        "transfer_data": None,
        "transfer_group": None,
    }
    shown.update(item.echoed)
    return shown


def _next_action(item: Intent) -> Shown | None:
    if item.status != "requires_action":
        return None
    return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}


def charge(item: Charge) -> Shown:
    paid = item.status == "succeeded"
    shown: Shown = {
        "id": item.id,
        "object": "charge",
        "amount": item.amount,
        "amount_captured": item.amount_captured,
        "amount_refunded": item.amount_refunded,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": item.id.replace("ch_", "txn_", 1) if item.captured else None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "calculated_statement_descriptor": "DEMO" if paid else None,
        "captured": item.captured,
        "created": item.created_s,
        "currency": item.currency,
        "customer": item.customer,
        "description": item.description,
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": item.failure_code,
        "failure_message": item.failure_message,
        "fraud_details": {},
        "livemode": False,
        "metadata": item.metadata,
        "on_behalf_of": None,
        "outcome": _outcome(item),
        "paid": paid,
        "payment_intent": item.intent,
        "payment_method": item.source,
        "payment_method_details": _method_details(item),
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": item.released or 0 < item.amount_captured == item.amount_refunded,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": item.status,
        "transfer_data": None,
        "transfer_group": None,
    }
    shown.update(item.echoed)
    return shown


def _outcome(item: Charge) -> Shown:
    if item.status == "failed":
        return {
            "network_status": "declined_by_network",
            "reason": item.failure_code,
            "risk_level": "normal",
            "seller_message": "The bank did not return any further details with this decline.",
            "type": "issuer_declined",
        }
    return {
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "seller_message": "Payment complete.",
        "type": "authorized",
    }


def _method_details(item: Charge) -> Shown:
    card = cards.find(item.source)
    if card is None or card.kind != "card":
        return {"type": "us_bank_account", "us_bank_account": {"last4": card.last4 if card else "6789"}}
    return {
        "type": "card",
        "card": {
            "amount_authorized": item.amount if item.status == "succeeded" else None,
            "brand": card.brand,
            "country": "US",
            "exp_month": 12,
            "exp_year": 2034,
            "funding": "credit",
            "last4": card.last4,
            "network": card.brand,
            "overcapture": {
                "maximum_amount_capturable": item.amount,
                "status": "available" if item.overcapture else "unavailable",
            },
        },
    }


def refund(item: Refund) -> Shown:
    return {
        "id": item.id,
        "object": "refund",
        "amount": item.amount,
        "balance_transaction": item.id.replace("re_", "txn_", 1) if item.status == "succeeded" else None,
        "charge": item.charge,
        "created": item.created_s,
        "currency": item.currency,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": item.metadata,
        "payment_intent": item.intent,
        "reason": item.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": item.status,
        "transfer_reversal": None,
    }


def customer(item: Customer) -> Shown:
    if item.deleted:
        return {"id": item.id, "object": "customer", "deleted": True}
    shown: Shown = {
        "id": item.id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": item.created_s,
        "currency": None,
        "default_source": item.source,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": item.email,
        "invoice_prefix": item.id[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": item.metadata,
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    shown.update(item.echoed)
    return shown


def balance(amounts: dict[str, int]) -> Shown:
    """The account's balance: captured less refunded, all of it available (the simulation knows no payout)."""
    rows = [
        {"amount": amount, "currency": currency, "source_types": {"card": amount}}
        for currency, amount in sorted(amounts.items() or {"usd": 0}.items())
    ]
    pending = [{**row, "amount": 0, "source_types": {"card": 0}} for row in rows]
    return {"object": "balance", "available": rows, "livemode": False, "pending": pending}


def any_of(item: Intent | Charge | Refund | Customer) -> Shown:
    match item:
        case Intent():
            return intent(item)
        case Charge():
            return charge(item)
        case Refund():
            return refund(item)
        case Customer():
            return customer(item)
