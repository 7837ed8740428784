"""The most that a Stripe call can cost, from its own parameters and what the ledger knows of its object.

Money is held from the moment a PaymentIntent exists: its `client_secret` lets a customer's browser confirm it
without the gateway. Later calls on the object cost the difference to what is counted for it already (rule S2),
mostly nothing. With `counted` the object's exposure, and `about` the amount that a call without one is about (all
of it; of an authorised one what is still capturable):

    create, charge     amount and currency of the request
    update             new amount in new currency, `about` for what is not given; less `counted`
    confirm, capture   `about` less `counted`; and what the request names beyond `about` (overcapture)
    increment          `amount` is the new *total*; less `counted`
    cancel             nothing
    refund             on the `refund` meter alone: it never gives anything back to `usd`, or a charge and its
                       refund could go round for ever. The amount, else all that the object may have moved
"""

from typing import Final

from dataplane.adapters.forms import Fields
from dataplane.adapters.port import Fx
from dataplane.adapters.stripe.money import Weird, amount_of, currency_of, to_nanos
from schemas.amounts import Amounts
from schemas.refusals import Refusal, refuse
from schemas.rpc import ObjectAnswer

ONE_REQUEST: Final = Amounts(requests=1)

_FROM_REQUEST: Final = frozenset({"payment_intents.create", "charges.create"})
_NOTHING: Final = frozenset({"payment_intents.cancel", "refunds.cancel"})
_BEYOND: Final = {
    "payment_intents.confirm": "amount_to_confirm",
    "payment_intents.capture": "amount_to_capture",
    "charges.capture": "amount",
}
"""Parameters that may name more than the object's own amount."""


def bound_of(operation: str, fields: Fields, known: ObjectAnswer | None, fx: Fx) -> Amounts | Refusal:
    """The bound of a `money` operation (stripe.operations)."""
    if operation in _NOTHING:
        return ONE_REQUEST
    refunding = operation == "refunds.create"
    try:
        if refunding:
            return Amounts(requests=1, refund=_refund(fields, known, fx))
        return Amounts(requests=1, usd=_spend(operation, fields, known, fx))
    except Weird as error:
        return refuse("cost_unbounded", f"The cost has no bound: {error}.", meter="refund" if refunding else "usd")


def _spend(operation: str, fields: Fields, known: ObjectAnswer | None, fx: Fx) -> int:
    if operation in _FROM_REQUEST:
        return _nanos(fx, _required(fields, "amount"), currency_of(fields))
    if operation == "payment_intents.update":
        return _update(fields, known, fx)
    if operation == "payment_intents.increment_authorization":
        total = _required(fields, "amount")
        seen, counted = _seen(known)
        return max(0, _nanos(fx, total, seen.currency) - min(counted, _nanos(fx, seen.amount_minor, seen.currency)))
    given = amount_of(fields, _BEYOND[operation]) or 0
    seen, counted = _seen(known)
    missing = max(0, _nanos(fx, seen.amount_minor, seen.currency) - counted)
    return missing + _nanos(fx, max(0, given - seen.amount_minor), seen.currency)


def _update(fields: Fields, known: ObjectAnswer | None, fx: Fx) -> int:
    """The request alone may say it all; then the object need not be known."""
    amount, currency = amount_of(fields, "amount"), currency_of(fields)
    if amount is not None and currency is not None:
        counted = known.counted_usd_nanos if known is not None else None
        return max(0, _nanos(fx, amount, currency) - (counted or 0))
    seen, so_far = _seen(known)
    amount = seen.amount_minor if amount is None else amount
    return max(0, _nanos(fx, amount, currency or seen.currency) - so_far)


def _refund(fields: Fields, known: ObjectAnswer | None, fx: Fx) -> int:
    """An object never moved more than what is counted for it."""
    amount = amount_of(fields, "amount")
    seen, counted = _seen(known)
    if amount is not None:
        return _nanos(fx, amount, seen.currency)
    return max(counted, _nanos(fx, seen.amount_minor, seen.currency))


def _seen(known: ObjectAnswer | None) -> tuple[ObjectAnswer, int]:
    """The object as the ledger last saw it, and what is counted. Raises Weird for one it never saw."""
    if known is None or known.counted_usd_nanos is None or not known.currency:
        raise Weird("the request does not name it all, and this gateway has never seen its object")
    return known, known.counted_usd_nanos


def _required(fields: Fields, name: str) -> int:
    amount = amount_of(fields, name)
    if amount is None:
        raise Weird(f"{name} is missing")
    return amount


def _nanos(fx: Fx, amount_minor: int, currency: str | None) -> int:
    if currency is None:
        raise Weird("currency is missing")
    nanos = to_nanos(fx, amount_minor, currency)
    if nanos is None:
        raise Weird(f"{currency} has no configured exchange rate, or the amount is beyond any")
    return nanos
