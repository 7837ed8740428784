"""Charges made directly (`source`), and their capture. A charge of a PaymentIntent is captured there."""

from controlplane.demo.stripe_sim import cards
from controlplane.demo.stripe_sim.cards import Card
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.intents import as_json
from controlplane.demo.stripe_sim.payments import decline_details, declined, mark_failed
from controlplane.demo.stripe_sim.records import Account, Charge, Customer, Done
from controlplane.demo.stripe_sim.refuse import Refused, invalid, missing, no_such
from controlplane.demo.wire import Move

ECHOED = frozenset(
    {"receipt_email", "shipping", "statement_descriptor", "statement_descriptor_suffix", "transfer_group"}
)
CREATE = (
    frozenset({"amount", "currency", "source", "customer", "capture", "description", "metadata", "expand"}) | ECHOED
)
CAPTURE = frozenset({"amount", "receipt_email", "statement_descriptor", "expand"})

_NO_CARD = Refused(
    402, "Cannot charge a customer that has no active card.", code="missing", param="card", type="card_error"
)


def create(account: Account, _: str, fields: Fields, now_s: int) -> Done | Refused:
    currency = fields.currency()
    amount = fields.amount("amount", currency, required=True)
    capture = fields.flag("capture", default=True)
    customer, card = _payer(account, fields)
    metadata, description = fields.metadata({}), fields.text("description")
    echoed = {name: as_json(value) for name in ECHOED if (value := fields.raw(name)) is not None}
    if fields.problem or amount is None or card is None:
        return fields.problem or missing("source")
    # All is checked: from here the charge exists, succeeded or failed.
    charge = Charge(
        id=account.ids.make("ch_"),
        created_s=now_s,
        amount=amount,
        currency=currency,
        source=f"tok_{card.name}",
        customer=customer.id if customer else None,
        description=description,
        metadata=metadata,
        echoed=echoed,
    )
    account.charges.add(charge)
    if card.outcome != "succeeds":
        mark_failed(charge, card)
        return declined(card, decline_details(charge, card))
    if not capture:
        return Done(charge, (Move(charge.id, currency, held=amount),))
    charge.captured, charge.amount_captured = True, amount
    return Done(charge, (Move(charge.id, currency, moved=amount),))


def _payer(account: Account, fields: Fields) -> tuple[Customer | None, Card | None]:
    """Who pays and with what: `source`, else the customer's stored source."""
    source, customer_id = fields.text("source"), fields.text("customer")
    customer = account.customers.get(customer_id) if customer_id else None
    if customer_id and (customer is None or customer.deleted):
        fields.fail(no_such("customer", customer_id, "customer"))
        return None, None
    if source is None and customer and customer.source:
        source = customer.source
    if source is None:
        fields.fail(
            _NO_CARD if customer else invalid("source", "Must provide source or customer.", "parameter_missing")
        )
        return customer, None
    card = cards.find(source)
    if card is None:
        fields.fail(no_such("token", source, "source"))
    return customer, card


def capture(account: Account, object_id: str, fields: Fields, _: int) -> Done | Refused:
    charge = account.charges.get(object_id)
    if charge is None:
        return no_such("charge", object_id, "charge")
    amount = fields.amount("amount", charge.currency)
    if fields.problem:
        return fields.problem
    problem = _not_capturable(charge, amount)
    if problem:
        return problem
    # All is checked: take the money, let go of the rest.
    charge.captured, charge.amount_captured = True, charge.amount if amount is None else amount
    return Done(charge, (Move(charge.id, charge.currency, moved=charge.amount_captured, held=-charge.amount),))


def _not_capturable(charge: Charge, amount: int | None) -> Refused | None:
    if charge.intent:
        message = "This charge belongs to a PaymentIntent; capture it there."
        return Refused(400, message, code="charge_invalid_parameter", attempted=True)
    if charge.captured:
        message = f"Charge {charge.id} has already been captured."
        return Refused(400, message, code="charge_already_captured", attempted=True)
    if charge.released:
        message = f"Charge {charge.id} has already been refunded."
        return Refused(400, message, code="charge_already_refunded", attempted=True)
    if charge.status != "succeeded":
        message = f"Charge {charge.id} did not succeed."
        return Refused(400, message, code="charge_not_capturable", attempted=True)
    if amount is not None and amount > charge.amount:
        message = "The requested capture amount is greater than the amount you can capture for this charge."
        return Refused(400, message, code="amount_too_large", param="amount", attempted=True)
    return None
