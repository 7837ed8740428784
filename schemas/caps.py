"""The names under which the HTTP API shows caps, and what each means as (meter, window).

One table for keys and budgets, for what comes in and what goes out. `max_uses` is a key's alone.
"""

from collections.abc import Mapping

from schemas.accounts import Cap, Meter, Window
from schemas.money import format_usd

MONEY_METERS = frozenset({"usd", "refund"})
"""Meters that count nano-dollars; the others count themselves."""

CAP_FIELDS: dict[str, tuple[Meter, Window]] = {
    "per_request_usd_cap": ("usd", "request"),
    "hourly_usd_cap": ("usd", "hour"),
    "daily_usd_cap": ("usd", "day"),
    "monthly_usd_cap": ("usd", "month"),
    "total_usd_cap": ("usd", "total"),
    "refund_daily_usd_cap": ("refund", "day"),
    "hourly_request_cap": ("requests", "hour"),
    "daily_request_cap": ("requests", "day"),
    "daily_token_cap": ("tokens", "day"),
    "max_uses": ("requests", "total"),
}

_FIELD_OF: dict[tuple[str, str], str] = {where: name for name, where in CAP_FIELDS.items()}


def make_caps(amounts: Mapping[str, int | None]) -> tuple[Cap, ...]:
    """Caps from amounts by field name (nano-dollars or counts), in the table's order; None means no cap."""
    return tuple(
        Cap(meter, window, amount)
        for name, (meter, window) in CAP_FIELDS.items()
        if (amount := amounts.get(name)) is not None
    )


def cap_amounts(caps: tuple[Cap, ...]) -> dict[str, int]:
    """The reverse: amounts by field name. Caps that no field names are left out (none are ever made)."""
    return {name: cap.amount for cap in caps if (name := _FIELD_OF.get((cap.meter, cap.window)))}


def caps_dollars(caps: tuple[Cap, ...]) -> bool:
    """Whether one of the caps bounds what may be spent in dollars (refunds are no spending)."""
    return any(cap.meter == "usd" for cap in caps)


def format_amount(meter: str, amount: int) -> str | int:
    """An amount as the API writes it: dollars as a decimal string, counts as they are."""
    return format_usd(amount) if meter in MONEY_METERS else amount
