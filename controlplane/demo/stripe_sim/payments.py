"""What a card does when it is charged, shared by intents and direct charges."""

from typing import Any

from controlplane.demo.stripe_sim import cards, render
from controlplane.demo.stripe_sim.cards import Card
from controlplane.demo.stripe_sim.records import Account, Charge, Done, Intent
from controlplane.demo.stripe_sim.refuse import Refused
from controlplane.demo.wire import Move

_NEEDS_PAYER = Card(
    name="authenticationRequired",
    outcome="declined",
    code="authentication_required",
    decline_code="authentication_required",
    message="Your card was declined. This transaction requires authentication.",
)


def authorise(account: Account, intent: Intent, now_s: int, *, payer_absent: bool) -> Done | Refused:
    """Confirm an intent that has a payment method. `payer_absent`: a card that wants its payer declines."""
    card = cards.find(intent.payment_method or "") or _NEEDS_PAYER
    if card.outcome == "needs_action":
        if not payer_absent:
            intent.status = "requires_action"
            return Done(intent)
        card = _NEEDS_PAYER
    charge = _charge_of(account, intent, card, now_s)
    if card.outcome == "declined":
        return _decline_intent(intent, charge, card)
    intent.last_error = None
    if card.outcome == "processing":
        intent.status = "processing"
        return Done(intent, (Move(intent.id, intent.currency, held=intent.amount),))
    return _succeed(intent, charge)


def settle(account: Account, intent: Intent, now_s: int, *, succeeds: bool) -> tuple[Move, ...] | None:
    """Money that arrives (or fails) by itself: the end of `processing`, or the payer's answer to
    `requires_action`. The moves it makes; None if the intent waits for nothing.
    """
    if intent.status == "requires_action":
        charge = _charge_of(account, intent, cards.find("pm_card_visa") or _NEEDS_PAYER, now_s)
        if succeeds:
            return _succeed(intent, charge).moves
        _decline_intent(intent, charge, _NEEDS_PAYER)
        return ()
    if intent.status != "processing":
        return None
    pending = account.charges.get(intent.latest_charge or "")
    if not succeeds:
        intent.status = "requires_payment_method"
        if pending:
            pending.status = "failed"
        return (Move(intent.id, intent.currency, held=-intent.amount),)
    intent.status, intent.amount_received = "succeeded", intent.amount
    if pending:
        pending.status, pending.captured, pending.amount_captured = "succeeded", True, intent.amount
    return (Move(intent.id, intent.currency, moved=intent.amount, held=-intent.amount),)


def _charge_of(account: Account, intent: Intent, card: Card, now_s: int) -> Charge:
    charge = Charge(
        id=account.ids.make("ch_"),
        created_s=now_s,
        amount=intent.amount,
        currency=intent.currency,
        source=intent.payment_method or "",
        overcapture=intent.overcapture,
        intent=intent.id,
        customer=intent.customer,
        description=intent.description,
        metadata=dict(intent.metadata),
    )
    if card.outcome == "processing":
        charge.status = "pending"
    account.charges.add(charge)
    intent.latest_charge = charge.id
    return charge


def _succeed(intent: Intent, charge: Charge) -> Done:
    if intent.capture_method == "manual":
        intent.status, intent.amount_capturable = "requires_capture", intent.amount
        return Done(intent, (Move(intent.id, intent.currency, held=intent.amount),))
    intent.status, intent.amount_received = "succeeded", intent.amount
    charge.captured, charge.amount_captured = True, intent.amount
    return Done(intent, (Move(intent.id, intent.currency, moved=intent.amount),))


def _decline_intent(intent: Intent, charge: Charge, card: Card) -> Refused:
    mark_failed(charge, card)
    method = {"id": charge.source, "object": "payment_method", "type": "card"}
    error = {"payment_method": method, **decline_details(charge, card)}
    intent.status, intent.payment_method = "requires_payment_method", None
    intent.last_error = {"type": "card_error", "code": card.code, "message": card.message, **error}
    return declined(card, {**error, "payment_intent": render.intent(intent)})


def mark_failed(charge: Charge, card: Card) -> None:
    charge.status, charge.failure_code, charge.failure_message = "failed", card.code, card.message


def decline_details(charge: Charge, card: Card) -> dict[str, Any]:
    details: dict[str, Any] = {"charge": charge.id}
    if card.decline_code:
        details["decline_code"] = card.decline_code
    return details


def declined(card: Card, extra: dict[str, Any]) -> Refused:
    """402 `card_error`: the card was tried, no money moved."""
    return Refused(402, card.message, code=card.code, type="card_error", attempted=True, extra=extra)


def capture_limit(authorised: int, *, overcapture: bool) -> int:
    """The most that can be captured of an authorisation."""
    return authorised * 12 // 10 if overcapture else authorised
