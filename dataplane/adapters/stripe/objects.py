"""What a Stripe object has moved, or may still move, read from its top level alone.

`expand[]` turns ids into whole objects anywhere below the top, each with amounts of its own, so nothing nested is
ever added. A charge that belongs to a PaymentIntent is counted under the intent, so that the two are one.

PaymentIntent (https://docs.stripe.com/payments/paymentintents/lifecycle):

    requires_payment_method, requires_confirmation, requires_action   amount (someone may still confirm it)
    processing                                                        amount
    requires_capture                                                  received so far, and what is capturable
    succeeded, canceled                                               amount_received
    any other                                                         the largest of the three

After a *declined* call (402) an intent that waits for a payment method counts what it has moved: a caller that
tries card after card would otherwise fill its cap with intents that never paid. A later confirm is bound anew.

Charge: failed 0; pending its amount; succeeded and uncaptured its amount (an authorisation) unless released;
captured `amount_captured`. Refund: failed or canceled 0, else its amount. Refunds never lower a charge.
"""

from typing import Annotated

import msgspec

from dataplane.adapters.port import Fx
from dataplane.adapters.stripe.money import reference, to_nanos
from events.types import ObjectExposure

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Ref(msgspec.Struct):
    """An expanded object of which only the id matters."""

    id: str = ""


class StripeObject(msgspec.Struct):
    """The top level of an answer; fields of the kinds that are settled. Null where Stripe writes null."""

    object: str = ""
    id: str = ""
    status: str | None = None
    currency: str | None = None
    amount: _Count | None = None
    amount_received: _Count | None = None
    amount_capturable: _Count | None = None
    amount_captured: _Count | None = None
    captured: bool | None = None
    refunded: bool | None = None
    payment_intent: str | Ref | None = None


class StripeError(msgspec.Struct):
    type: str | None = None
    code: str | None = None
    payment_intent: StripeObject | None = None


class Answer(StripeObject):
    """Any answer: an object, or `{"error": {...}}`."""

    error: StripeError | None = None


class Place(msgspec.Struct, frozen=True):
    """Where an answer came from: the upstream's name, and the connected account if one was named."""

    upstream: str
    account: str


_FINAL = frozenset({"succeeded", "canceled"})
"""Of a PaymentIntent: from here on it neither moves nor may move anything more (refunds are objects of their own)."""


def exposure(found: StripeObject, place: Place, fx: Fx, *, declined: bool = False) -> ObjectExposure | None:
    """The object's exposure after this answer; None if it cannot be told (unknown kind, no amount, no rate)."""
    if not found.id or found.amount is None or not found.currency:
        return None
    if found.object == "payment_intent":
        minor, amount = _intent_minor(found, found.amount, declined=declined)
    elif found.object == "charge":
        minor, amount = _charge_minor(found, found.amount), found.amount
    elif found.object == "refund":
        minor, amount = 0 if found.status in {"failed", "canceled"} else found.amount, found.amount
    else:
        return None
    nanos = to_nanos(fx, minor, found.currency)
    if nanos is None:
        return None
    return ObjectExposure(
        ref=reference(place.upstream, place.account, _counted_id(found)),
        exposure_nanos=nanos,
        meter="refund" if found.object == "refund" else "usd",
        amount_minor=amount,
        currency=found.currency,
        final=found.object == "payment_intent" and found.status in _FINAL,
    )


def _intent_minor(found: StripeObject, amount: int, *, declined: bool) -> tuple[int, int]:
    """(what counts, what a later call without an amount would be about). A figure that is not there counts as the
    whole amount.
    """
    received = amount if found.amount_received is None else found.amount_received
    capturable = amount if found.amount_capturable is None else found.amount_capturable
    match found.status:
        case "succeeded" | "canceled":
            return received, max(amount, received)
        case "requires_capture":
            return received + capturable, capturable
        case "requires_payment_method" | "requires_confirmation" | "requires_action" if declined:
            return received + capturable, amount
        case "requires_payment_method" | "requires_confirmation" | "requires_action" | "processing":
            return max(amount, received), amount
        case _:
            return max(amount, received + capturable), amount


def _charge_minor(found: StripeObject, amount: int) -> int:
    if found.status == "failed":
        return 0
    if found.captured:
        return amount if found.amount_captured is None else found.amount_captured
    return 0 if found.refunded else amount


def _counted_id(found: StripeObject) -> str:
    """The PaymentIntent's id for a charge that has one."""
    if found.object != "charge" or not found.payment_intent:
        return found.id
    return found.payment_intent if isinstance(found.payment_intent, str) else found.payment_intent.id or found.id
