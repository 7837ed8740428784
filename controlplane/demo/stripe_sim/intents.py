"""PaymentIntents: from a wish to pay to money moved, as a table of states.

    requires_payment_method --(method)--> requires_confirmation --(confirm)--> succeeded            automatic
                ^                                     |                         requires_capture     manual
                |                                     |                         requires_action      needs the payer
                +------------- declined --------------+                         processing           bank debit
    requires_capture --(capture)--> succeeded;   anything unfinished --(cancel)--> canceled

Money: `held` while capturable or processing, `moved` when received. Every card here allows incremental
authorisation and several captures; overcapture (up to 120%) only where the intent asked for it.
"""

from typing import Any

from controlplane.demo.stripe_sim import cards, render
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.form import Table, Value
from controlplane.demo.stripe_sim.payments import authorise, capture_limit
from controlplane.demo.stripe_sim.records import Account, Done, Intent, IntentStatus
from controlplane.demo.stripe_sim.refuse import Refused, invalid, missing, no_such, unexpected_state
from controlplane.demo.wire import Move

_UNCONFIRMED: frozenset[IntentStatus] = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action"}
)

# Which states allow which action; https://docs.stripe.com/payments/paymentintents/lifecycle
ALLOWED: dict[str, frozenset[IntentStatus]] = {
    "updated": _UNCONFIRMED,
    "confirmed": _UNCONFIRMED,
    "captured": frozenset({"requires_capture"}),
    "incremented": frozenset({"requires_capture"}),
    "canceled": _UNCONFIRMED | {"requires_capture", "processing"},
}

CAPTURE_METHODS = frozenset({"automatic", "automatic_async", "manual"})
CANCEL_REASONS = frozenset({"abandoned", "duplicate", "fraudulent", "requested_by_customer"})

# Parameters that change nothing here but are shown again in the object.
ECHOED = frozenset(
    {
        "automatic_payment_methods",
        "on_behalf_of",
        "payment_method_options",
        "payment_method_types",
        "receipt_email",
        "setup_future_usage",
        "shipping",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_group",
    }
)
_WHAT = frozenset({"amount", "currency", "customer", "description", "metadata", "capture_method", "expand"})
_METHOD = frozenset({"payment_method", "payment_method_data"})
_CONFIRMING = frozenset({"return_url", "off_session", "error_on_requires_action", "use_stripe_sdk", "mandate_data"})
CREATE = _WHAT | ECHOED | _METHOD | _CONFIRMING | {"confirm", "confirmation_method"}
UPDATE = _WHAT | ECHOED | _METHOD
CONFIRM = _METHOD | _CONFIRMING | {"amount_to_confirm", "capture_method", "receipt_email", "expand"}
CAPTURE = frozenset({"amount_to_capture", "final_capture", "metadata", "statement_descriptor", "expand"})
CANCEL = frozenset({"cancellation_reason", "expand"})
INCREMENT = frozenset({"amount", "description", "metadata", "expand"})


def create(account: Account, _: str, fields: Fields, now_s: int) -> Done | Refused:
    currency = fields.currency()
    amount = fields.amount("amount", currency, required=True)
    capture_method = fields.choice("capture_method", CAPTURE_METHODS, "automatic")
    method = _method(fields)
    confirm, payer_absent = fields.flag("confirm"), _payer_absent(fields)
    metadata = fields.metadata({})
    customer, description = _customer(account, fields), fields.text("description")
    echoed = _echoed(fields)
    if confirm and method is None:
        fields.fail(missing("payment_method"))
    if fields.problem or amount is None:
        return fields.problem or missing("amount")
    # All is checked: from here the intent exists, even if its confirmation is declined.
    intent_id = account.ids.make("pi_")
    intent = Intent(
        id=intent_id,
        client_secret=f"{intent_id}{account.ids.make('_secret_')}",
        created_s=now_s,
        amount=amount,
        currency=currency,
        capture_method=capture_method or "automatic",
        overcapture=_wants_overcapture(fields.table("payment_method_options")),
        customer=customer,
        description=description,
        metadata=metadata,
        echoed=echoed,
    )
    account.intents.add(intent)
    if method is not None:
        intent.payment_method, intent.status = method, "requires_confirmation"
    return authorise(account, intent, now_s, payer_absent=payer_absent) if confirm else Done(intent)


def update(account: Account, object_id: str, fields: Fields, _: int) -> Done | Refused:
    intent = account.intents.get(object_id)
    if intent is None:
        return no_such("payment_intent", object_id, "intent")
    currency = fields.currency(default=intent.currency)
    amount = fields.amount("amount", currency)
    capture_method = fields.choice("capture_method", CAPTURE_METHODS, intent.capture_method)
    method = _method(fields)
    metadata = fields.metadata(intent.metadata)
    customer, description = _customer(account, fields), fields.text("description")
    echoed = _echoed(fields)
    if fields.problem:
        return fields.problem
    if intent.status not in ALLOWED["updated"] and ("amount" in fields or "currency" in fields or method):
        return _wrong_state(intent, "updated")
    # All is checked: change it.
    intent.amount, intent.currency = intent.amount if amount is None else amount, currency
    intent.capture_method = capture_method or intent.capture_method
    intent.metadata = metadata
    intent.customer, intent.description = customer or intent.customer, description or intent.description
    intent.echoed.update(echoed)
    if method is not None:
        intent.payment_method, intent.status = method, "requires_confirmation"
    return Done(intent)


def confirm(account: Account, object_id: str, fields: Fields, now_s: int) -> Done | Refused:
    intent = account.intents.get(object_id)
    if intent is None:
        return no_such("payment_intent", object_id, "intent")
    expected = fields.amount("amount_to_confirm", intent.currency)
    capture_method = fields.choice("capture_method", CAPTURE_METHODS, intent.capture_method)
    method = _method(fields) or intent.payment_method
    payer_absent = _payer_absent(fields)
    if fields.problem:
        return fields.problem
    if intent.status not in ALLOWED["confirmed"]:
        return _wrong_state(intent, "confirmed")
    if expected is not None and expected != intent.amount:
        return invalid("amount_to_confirm", "The amount to confirm differs from the PaymentIntent's amount.")
    if method is None:
        message = "You cannot confirm this PaymentIntent because it's missing a payment method."
        return unexpected_state(message, render.intent(intent))
    intent.payment_method = method
    intent.capture_method = capture_method or intent.capture_method
    return authorise(account, intent, now_s, payer_absent=payer_absent)


def capture(account: Account, object_id: str, fields: Fields, _: int) -> Done | Refused:
    intent = account.intents.get(object_id)
    if intent is None:
        return no_such("payment_intent", object_id, "intent")
    amount = fields.amount("amount_to_capture", intent.currency)
    final = fields.flag("final_capture", default=True)
    metadata = fields.metadata(intent.metadata)
    if fields.problem:
        return fields.problem
    if intent.status not in ALLOWED["captured"]:
        return _wrong_state(intent, "captured")
    taken = intent.amount_capturable if amount is None else amount
    if taken > capture_limit(intent.amount_capturable, overcapture=intent.overcapture):
        return Refused(
            400,
            "The payment_intent could not be captured because the requested capture amount is greater than the "
            "amount you can capture for this charge.",
            code="amount_too_large",
            param="amount_to_capture",
            attempted=True,
            extra={"payment_intent": render.intent(intent)},
        )
    # All is checked: take the money.
    rest = 0 if final else max(0, intent.amount_capturable - taken)
    released = intent.amount_capturable - rest
    intent.amount_received += taken
    intent.amount_capturable = rest
    intent.status = "requires_capture" if rest else "succeeded"
    intent.metadata = metadata
    charge = account.charges.get(intent.latest_charge or "")
    if charge:
        charge.captured, charge.amount_captured = True, intent.amount_received
    return Done(intent, (Move(intent.id, intent.currency, moved=taken, held=-released),))


def cancel(account: Account, object_id: str, fields: Fields, now_s: int) -> Done | Refused:
    intent = account.intents.get(object_id)
    if intent is None:
        return no_such("payment_intent", object_id, "intent")
    reason = fields.choice("cancellation_reason", CANCEL_REASONS)
    if fields.problem:
        return fields.problem
    if intent.status not in ALLOWED["canceled"]:
        return _wrong_state(intent, "canceled")
    held = intent.amount if intent.status == "processing" else intent.amount_capturable
    intent.status, intent.amount_capturable = "canceled", 0
    intent.canceled_at_s, intent.cancellation_reason = now_s, reason
    charge = account.charges.get(intent.latest_charge or "")
    if charge and not charge.captured and charge.status != "failed":
        charge.released, charge.amount_refunded = True, charge.amount
    return Done(intent, (Move(intent.id, intent.currency, held=-held),) if held else ())


def increment(account: Account, object_id: str, fields: Fields, _: int) -> Done | Refused:
    """`amount` is the new total, not the difference."""
    intent = account.intents.get(object_id)
    if intent is None:
        return no_such("payment_intent", object_id, "intent")
    amount = fields.amount("amount", intent.currency, required=True)
    metadata, description = fields.metadata(intent.metadata), fields.text("description")
    if fields.problem or amount is None:
        return fields.problem or missing("amount")
    if intent.status not in ALLOWED["incremented"] or intent.amount_received:
        return _wrong_state(intent, "incremented")
    if amount <= intent.amount:
        return invalid("amount", "The new amount must be greater than the amount authorized so far.")
    # All is checked: hold more.
    more = amount - intent.amount
    intent.amount, intent.amount_capturable = amount, amount
    intent.metadata, intent.description = metadata, description or intent.description
    charge = account.charges.get(intent.latest_charge or "")
    if charge:
        charge.amount = amount
    return Done(intent, (Move(intent.id, intent.currency, held=more),))


def _wrong_state(intent: Intent, action: str) -> Refused:
    allowed = ", ".join(sorted(ALLOWED[action]))
    return unexpected_state(
        f"This PaymentIntent could not be {action} because it has a status of {intent.status}. Only a "
        f"PaymentIntent with one of the following statuses may be {action}: {allowed}.",
        render.intent(intent),
    )


def _method(fields: Fields) -> str | None:
    """The payment method named by the call: an id, or a token in `payment_method_data[card][token]`."""
    method = fields.text("payment_method")
    if method is None and "payment_method_data" in fields:
        card = fields.table("payment_method_data").get("card")
        token = card.get("token") if isinstance(card, dict) else None
        method = token if isinstance(token, str) else ""
    if method is not None and cards.find(method) is None:
        fields.fail(no_such("PaymentMethod", method, "payment_method"))
    return method


def _payer_absent(fields: Fields) -> bool:
    off_session = fields.raw("off_session") in {"true", "one_off", "recurring"}
    return fields.flag("error_on_requires_action") or off_session


def _customer(account: Account, fields: Fields) -> str | None:
    customer_id = fields.text("customer")
    if customer_id is not None:
        customer = account.customers.get(customer_id)
        if customer is None or customer.deleted:
            fields.fail(no_such("customer", customer_id, "customer"))
    return customer_id


def _wants_overcapture(options: Table) -> bool:
    card = options.get("card")
    return isinstance(card, dict) and card.get("request_overcapture") == "if_available"


def _echoed(fields: Fields) -> dict[str, Any]:
    return {name: as_json(value) for name in ECHOED if (value := fields.raw(name)) is not None}


def as_json(value: Value) -> Any:
    """A form value as the object shows it: `true` and `false` are booleans, empty text is null."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return {"true": True, "false": False, "": None}.get(value, value)
