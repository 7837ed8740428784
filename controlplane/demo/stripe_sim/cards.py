"""Stripe's published test payment methods and tokens, and what each of them does.

`pm_card_visa` and `tok_visa` are the same card; so are `pm_card_chargeDeclined`, `pm_card_visa_chargeDeclined`
and `tok_chargeDeclined` (https://docs.stripe.com/testing).
"""

from typing import Literal

import msgspec

CardOutcome = Literal["succeeds", "declined", "needs_action", "processing"]


class Card(msgspec.Struct, frozen=True):
    """A payment method. `refund` is the status that a refund to it gets."""

    name: str
    brand: str = "visa"
    last4: str = "4242"
    outcome: CardOutcome = "succeeds"
    code: str = ""
    decline_code: str = ""
    message: str = ""
    refund: Literal["succeeded", "pending"] = "succeeded"

    @property
    def kind(self) -> str:
        return "us_bank_account" if self.outcome == "processing" else "card"


def _declined(name: str, last4: str, decline_code: str, message: str, code: str = "card_declined") -> Card:
    return Card(name=name, last4=last4, outcome="declined", code=code, decline_code=decline_code, message=message)


_CARDS = {
    card.name: card
    for card in (
        Card("visa"),
        Card("visa_debit", last4="5556"),
        Card("mastercard", brand="mastercard", last4="4444"),
        Card("amex", brand="amex", last4="8431"),
        Card("discover", brand="discover", last4="9424"),
        Card("bypassPending", last4="0077"),
        Card("pendingRefund", last4="5126", refund="pending"),
        Card("authenticationRequired", last4="3184", outcome="needs_action"),
        Card("threeDSecure2Required", last4="3220", outcome="needs_action"),
        Card("usBankAccount", brand="", last4="6789", outcome="processing"),
        _declined("chargeDeclined", "0002", "generic_decline", "Your card was declined."),
        _declined("chargeCustomerFail", "0341", "generic_decline", "Your card was declined."),
        _declined("chargeDeclinedInsufficientFunds", "9995", "insufficient_funds", "Your card has insufficient funds."),
        _declined("chargeDeclinedLostCard", "9987", "lost_card", "Your card was declined."),
        _declined("chargeDeclinedStolenCard", "9979", "stolen_card", "Your card was declined."),
        _declined("chargeDeclinedFraudulent", "0019", "fraudulent", "Your card was declined."),
        _declined("chargeDeclinedExpiredCard", "0069", "", "Your card has expired.", "expired_card"),
        _declined("chargeDeclinedIncorrectCvc", "0127", "", "Your card's security code is incorrect.", "incorrect_cvc"),
        _declined(
            "chargeDeclinedProcessingError",
            "0119",
            "",
            "An error occurred while processing your card. Try again in a little bit.",
            "processing_error",
        ),
    )
}


def find(reference: str) -> Card | None:
    """The card of a payment method or token; None if there is no such one."""
    for prefix in ("pm_card_visa_", "pm_card_", "tok_visa_", "tok_"):
        if reference.startswith(prefix):
            card = _CARDS.get(reference.removeprefix(prefix))
            if card is not None:
                return card
    return _CARDS["usBankAccount"] if reference.startswith("pm_usBankAccount") else None
