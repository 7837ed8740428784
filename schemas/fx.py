"""Vendors' amounts in US nano-dollars: currencies' exponents, exchange rates, and rounding up.

A vendor writes an amount as an integer of the currency's smallest unit. How many of those make one unit is a
property of the currency *at that vendor* (Stripe's lists, https://docs.stripe.com/currencies). A currency without
a configured rate has no bound: the caller refuses, nothing is ever taken as 1:1.

Amounts are converted with exact integers and rounded up, so that a bound is never below what it bounds. The
margin raises every rate but the dollar's own: a configured rate is a pessimistic, dated estimate.
"""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

from schemas.money import NANOS_PER_USD, MoneyError, parse_rate
from schemas.settings import FxRates

ZERO_DECIMAL = frozenset(
    "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf".split()  # noqa: SIM905 - reads as the list it is
)
"""Currencies whose amounts have no minor unit. UGX is on Stripe's list although it is charged with two decimals;
taken as zero-decimal it is over-counted a hundredfold, which is the safe side for a cap. ISK is charged with two
decimals without being on the list."""

THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})

MAX_MARGIN = Decimal(10)
"""A margin above tenfold is a typing error, not caution."""


class FxError(ValueError):
    """The configured rates do not hold together; the message names the currency and the remedy."""


def exponent(currency: str) -> int:
    """Decimals of a currency (lower case) in the vendors' integer amounts."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


class Fx(msgspec.Struct, frozen=True):
    """Rates into US dollars. `per_unit`: with margin. `ratios`: nano-dollars per minor unit, as (numerator,
    denominator).
    """

    per_unit: Mapping[str, Decimal]
    ratios: Mapping[str, tuple[int, int]]

    def usd_per_unit(self, currency: str) -> Decimal | None:
        """US dollars for one unit of a currency (lower case), margin included; None without a rate."""
        return self.per_unit.get(currency)

    def usd_nanos(self, amount_minor: int, currency: str) -> int | None:
        """A vendor's amount in nano-dollars, rounded up; None for a currency without a rate."""
        ratio = self.ratios.get(currency)
        if ratio is None:
            return None
        numerator, denominator = ratio
        return -(-amount_minor * numerator // denominator)


def build_fx(settings: FxRates) -> Fx:
    """The rates of a configuration; dollars are always 1. Raises FxError."""
    margin = _positive("margin", settings.margin, zero=True)
    if margin > MAX_MARGIN:
        raise FxError(f'fx.margin is a share, such as "0.02" for two percent, and at most {MAX_MARGIN}')
    per_unit = {"usd": Decimal(1)}
    for currency, text in settings.rates.items():
        if len(currency) != 3 or not (currency.isascii() and currency.isalpha() and currency.islower()):
            raise FxError(f"fx.rates: {currency[:16]!r} is not a currency: write three small letters, such as eur")
        rate = _positive(f"rates.{currency}", text)
        if currency == "usd" and rate != 1:
            raise FxError("fx.rates.usd: the dollar is the base, its rate is 1; leave it out")
        per_unit[currency] = rate if currency == "usd" else rate * (1 + margin)
    return Fx(per_unit, {currency: _ratio(rate, currency) for currency, rate in per_unit.items()})


def _positive(name: str, text: str, *, zero: bool = False) -> Decimal:
    try:
        rate = parse_rate(text)
    except MoneyError as error:
        raise FxError(f"fx.{name}: {error}") from None
    if rate == 0 and not zero:
        raise FxError(f"fx.{name} is zero: leave a currency out to refuse it")
    return rate


def _ratio(rate: Decimal, currency: str) -> tuple[int, int]:
    nanos = Fraction(rate) * NANOS_PER_USD / 10 ** exponent(currency)
    return nanos.numerator, nanos.denominator
