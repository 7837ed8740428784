"""Lists: newest first, by cursor, with the filters that the SDKs offer for these objects."""

from collections.abc import Iterator
from typing import Any

from controlplane.demo.stripe_sim import render
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.records import Account, Charge, Customer, Intent, Refund
from controlplane.demo.stripe_sim.refuse import Refused, invalid, no_such

PAGING = frozenset({"limit", "starting_after", "ending_before", "created", "expand"})
FILTERS: dict[str, frozenset[str]] = {
    "payment_intents": frozenset({"customer"}),
    "charges": frozenset({"customer", "payment_intent", "transfer_group"}),
    "refunds": frozenset({"charge", "payment_intent"}),
    "customers": frozenset({"email"}),
}
_BOUNDS = ("gt", "gte", "lt", "lte")

Item = Intent | Charge | Refund | Customer


def page(account: Account, kind: str, fields: Fields) -> dict[str, Any] | Refused:
    """One page of `kind` (`payment_intents`, ...), as Stripe's list object."""
    store = account.store(kind)
    limit = fields.limit()
    after, before = fields.text("starting_after"), fields.text("ending_before")
    filters = {name: value for name in FILTERS[kind] if (value := fields.text(name)) is not None}
    bounds = _created(fields)
    if after is not None and before is not None:
        fields.fail(invalid("ending_before", "You cannot parameterize both starting_after and ending_before."))
    for name, cursor in (("starting_after", after), ("ending_before", before)):
        if cursor is not None and store.get(cursor) is None:
            fields.fail(no_such(kind.removesuffix("s"), cursor, name))
    if fields.problem:
        return fields.problem
    found = store.newer_than(before) if before is not None else store.older_than(after)
    rows = _first(found, limit + 1, filters, bounds)
    has_more, rows = len(rows) > limit, rows[:limit]
    if before is not None:
        rows.reverse()
    return {
        "object": "list",
        "data": [render.any_of(row) for row in rows],
        "has_more": has_more,
        "url": f"/v1/{kind}",
    }


def _first(found: Iterator[Item], count: int, filters: dict[str, str], bounds: dict[str, int]) -> list[Item]:
    rows: list[Item] = []
    for item in found:
        if _fits(item, filters, bounds):
            rows.append(item)
            if len(rows) == count:
                break
    return rows


def _fits(item: Item, filters: dict[str, str], bounds: dict[str, int]) -> bool:
    if isinstance(item, Customer) and item.deleted:
        return False
    for name, value in filters.items():
        attribute = "intent" if name == "payment_intent" else name
        if attribute == "transfer_group":
            if not isinstance(item, Charge) or item.echoed.get(name) != value:
                return False
        elif getattr(item, attribute) != value:
            return False
    created_s = item.created_s
    return not (
        ("gt" in bounds and created_s <= bounds["gt"])
        or ("gte" in bounds and created_s < bounds["gte"])
        or ("lt" in bounds and created_s >= bounds["lt"])
        or ("lte" in bounds and created_s > bounds["lte"])
    )


def _created(fields: Fields) -> dict[str, int]:
    """`created=N` or `created[gte]=N` and so on."""
    value = fields.raw("created")
    if value is None:
        return {}
    bounds = {"gte": value, "lte": value} if isinstance(value, str) else value
    if not isinstance(bounds, dict) or not bounds.keys() <= set(_BOUNDS):
        fields.fail(invalid("created", "Invalid created filter."))
        return {}
    numbers: dict[str, int] = {}
    for name, bound in bounds.items():
        if not isinstance(bound, str) or not bound.isdecimal() or len(bound) > 12:
            fields.fail(invalid("created", f"Invalid timestamp: {bound}", "parameter_invalid_integer"))
        else:
            numbers[name] = int(bound)
    return numbers
