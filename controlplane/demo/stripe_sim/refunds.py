"""Refunds of captured charges, whole or in part, and the release of an uncaptured direct charge."""

from controlplane.demo.stripe_sim import cards
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.records import Account, Charge, Done, Refund
from controlplane.demo.stripe_sim.refuse import Refused, invalid, missing, no_such
from controlplane.demo.wire import Move

REASONS = frozenset({"duplicate", "fraudulent", "requested_by_customer"})
CREATE = frozenset({"charge", "payment_intent", "amount", "reason", "metadata", "expand"})


def create(account: Account, _: str, fields: Fields, now_s: int) -> Done | Refused:
    charge = _charge(account, fields)
    amount = fields.amount("amount", charge.currency if charge else None)
    reason = fields.choice("reason", REASONS)
    metadata = fields.metadata({})
    if fields.problem or charge is None:
        return fields.problem or missing("charge")
    refundable = (charge.amount_captured if charge.captured else charge.amount) - charge.amount_refunded
    problem = _not_refundable(charge, amount, refundable)
    if problem:
        return problem
    # All is checked: give the money back.
    given = refundable if amount is None else amount
    card = cards.find(charge.source)
    refund = Refund(
        id=account.ids.make("re_"),
        created_s=now_s,
        amount=given,
        currency=charge.currency,
        charge=charge.id,
        intent=charge.intent,
        status=card.refund if card else "succeeded",
        reason=reason,
        metadata=metadata,
    )
    account.refunds.add(refund)
    charge.amount_refunded += given
    owner = charge.intent or charge.id
    if not charge.captured:
        charge.released = True
        return Done(refund, (Move(owner, charge.currency, held=-given),))
    return Done(refund, (Move(owner, charge.currency, refunded=given),))


def _charge(account: Account, fields: Fields) -> Charge | None:
    """The charge to refund: named itself, or by its PaymentIntent."""
    charge_id, intent_id = fields.text("charge"), fields.text("payment_intent")
    if charge_id is not None and intent_id is not None:
        fields.fail(invalid("charge", "You may only specify one of these parameters: charge, payment_intent."))
        return None
    if charge_id is not None:
        charge = account.charges.get(charge_id)
        if charge is None:
            fields.fail(no_such("charge", charge_id, "charge"))
        return charge
    if intent_id is None:
        fields.fail(missing("charge"))
        return None
    intent = account.intents.get(intent_id)
    if intent is None:
        fields.fail(no_such("payment_intent", intent_id, "payment_intent"))
        return None
    charge = account.charges.get(intent.latest_charge or "")
    if charge is None or not charge.captured:
        message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
        fields.fail(invalid("payment_intent", message, "payment_intent_unexpected_state"))
    return charge


def _not_refundable(charge: Charge, amount: int | None, refundable: int) -> Refused | None:
    if charge.status != "succeeded":
        return Refused(400, f"Charge {charge.id} did not succeed.", code="charge_not_refundable", attempted=True)
    if refundable <= 0:
        message = f"Charge {charge.id} has already been refunded."
        return Refused(400, message, code="charge_already_refunded", attempted=True)
    if amount is not None and amount > refundable:
        message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({refundable})"
        return Refused(400, message, code="amount_too_large", param="amount", attempted=True)
    if not charge.captured and charge.intent:
        message = "An uncaptured PaymentIntent is canceled, not refunded."
        return Refused(400, message, code="charge_not_refundable", attempted=True)
    if not charge.captured and amount not in {None, charge.amount}:
        message = "An uncaptured charge can only be refunded in full."
        return Refused(400, message, param="amount", attempted=True)
    return None
