"""Stripe's amounts in forms and answers, and references to its objects."""

import re
from typing import Final

from dataplane.adapters.forms import Fields
from dataplane.adapters.port import Fx
from schemas.money import MAX_USD_NANOS

_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,11})\Z")
"""Digits alone: no sign, space, exponent or leading zero (a parser that knows octal reads `010` as eight). Stripe
takes at most twelve."""

_CURRENCY: Final = re.compile(r"[a-z]{3}\Z")


class Weird(ValueError):
    """A parameter is there and not what it must be; the message names it, not its value."""


def amount_of(fields: Fields, name: str) -> int | None:
    """An amount in minor units, None if absent. Raises Weird."""
    text = fields.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or _AMOUNT.match(text) is None:
        raise Weird(f"{name} is not a whole number of the smallest currency unit, written in plain digits")
    return int(text)


def currency_of(fields: Fields) -> str | None:
    """The currency in lower case, None if absent. Raises Weird."""
    text = fields.get("currency")
    if text is None:
        return None
    lower = text.lower() if isinstance(text, str) else ""
    if _CURRENCY.match(lower) is None:
        raise Weird("currency is not a three-letter code")
    return lower


def text_of(fields: Fields, name: str) -> str:
    """A plain parameter, "" if absent or given as a list."""
    value = fields.get(name, "")
    return value if isinstance(value, str) else ""


def to_nanos(fx: Fx, amount_minor: int, currency: str) -> int | None:
    """Nano-dollars, rounded up; None without a rate, or above what any ledger here can hold."""
    nanos = fx.usd_nanos(amount_minor, currency)
    return nanos if nanos is not None and nanos <= MAX_USD_NANOS else None


def reference(upstream: str, account: str, object_id: str) -> str:
    """An object's name in the ledger (events.types.ObjectExposure)."""
    return f"{upstream}/{account or '-'}/{object_id}"
