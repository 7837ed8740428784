"""Money: integers of nano-dollars, read exactly and written exactly.

One US dollar is 1,000,000,000 `usd_nanos`. Floats never enter: a JSON number is read from its own digits.
Prices round up, so that a bound is never below what it bounds.
"""

import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation, localcontext

NANOS_PER_USD = 1_000_000_000

MAX_USD_NANOS = 10**18
"""A billion dollars: above any cap that makes sense, and far inside Int64 and Decimal(18, 9)'s digits."""

MAX_EXPONENT = 40
"""Powers of ten that are worth writing out, only to be judged."""

_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,18})?\Z")


class MoneyError(ValueError):
    """The text is not an amount; the message says what was wrong and what to write instead."""


def parse_usd(value: str | int | Decimal) -> int:
    """Dollars as `usd_nanos`, exactly.

    Takes a decimal string (`"12.50"`), an integer, or a Decimal from a JSON number's own digits.
    Raises MoneyError for signs, exponents, white space, more than nine decimals, or above MAX_USD_NANOS.
    """
    if isinstance(value, bool):
        raise MoneyError('an amount is a number or a decimal string such as "12.50", not a boolean')
    text = _plain(value) if isinstance(value, Decimal) else str(value)
    if _DECIMAL.match(text) is None:
        raise MoneyError(f'{text[:40]!r} is not an amount: write digits with an optional fraction, such as "12.50"')
    whole, _, fraction = text.partition(".")
    if len(fraction.rstrip("0")) > 9:
        raise MoneyError(f"{text[:40]!r} has more than nine decimals: money counts in nano-dollars")
    nanos = int(whole) * NANOS_PER_USD + int(fraction[:9].ljust(9, "0"))
    if nanos > MAX_USD_NANOS:
        raise MoneyError(f"{text[:40]!r} is above the largest amount, one billion dollars")
    return nanos


def _plain(value: Decimal) -> str:
    if not value.is_finite():
        raise MoneyError("an amount is finite")
    if abs(value.adjusted()) > MAX_EXPONENT:  # checked first: 1e-999999999 would print as a gigabyte
        raise MoneyError("an amount has at most nine decimals and is at most one billion dollars")
    return format(value, "f")


def format_usd(usd_nanos: int) -> str:
    """`usd_nanos` as a decimal string with at least two and at most nine decimals: 12500000000 -> "12.50"."""
    sign = "-" if usd_nanos < 0 else ""
    whole, rest = divmod(abs(usd_nanos), NANOS_PER_USD)
    fraction = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{fraction}"


def parse_rate(value: str | int | Decimal) -> Decimal:
    """A positive rate or price as an exact Decimal (`"1.09"`, `"0.00000125"`, `1.25e-06` from a price list)."""
    try:
        rate = Decimal(str(value)) if not isinstance(value, Decimal) else value
    except InvalidOperation:
        raise MoneyError(f"{str(value)[:40]!r} is not a number") from None
    if not rate.is_finite() or rate < 0:
        raise MoneyError(f"{str(value)[:40]!r} is not a finite, non-negative number")
    return rate


def usd_to_nanos_up(usd: Decimal) -> int:
    """Dollars as `usd_nanos`, rounded up."""
    with localcontext() as ctx:
        ctx.prec = 60
        return int((usd * NANOS_PER_USD).to_integral_value(rounding=ROUND_CEILING))
