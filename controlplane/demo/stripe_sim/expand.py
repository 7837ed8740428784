"""`expand[]`: ids replaced by their objects, along dotted paths (`data.latest_charge.customer`).

Paths are checked against the table before a call is executed, so a bad one never leaves money moved behind a 400.
"""

from typing import Any

from controlplane.demo.stripe_sim import render
from controlplane.demo.stripe_sim.records import Account
from controlplane.demo.stripe_sim.refuse import Refused, invalid

# Which fields of which object hold an id that can be expanded, and what that id is of.
EXPANDABLE: dict[str, dict[str, str]] = {
    "payment_intent": {"latest_charge": "charge", "customer": "customer"},
    "charge": {"payment_intent": "payment_intent", "customer": "customer"},
    "refund": {"charge": "charge", "payment_intent": "payment_intent"},
    "customer": {},
    "balance": {},
}
_MAX_DEPTH = 4  # Stripe's own limit
_MAX_PATHS = 20

Shown = dict[str, Any]


def check(kind: str, paths: list[str], *, in_list: bool = False) -> Refused | None:
    """Whether all paths lead somewhere from an object of this kind (or from a list of them)."""
    if len(paths) > _MAX_PATHS:
        return invalid("expand", f"You cannot expand more than {_MAX_PATHS} properties.")
    for path in paths:
        steps = path.split(".")
        if len(steps) > _MAX_DEPTH:
            return invalid("expand", f"You cannot expand more than {_MAX_DEPTH} levels of a property.")
        here: str | None = kind
        if in_list and steps.pop(0) != "data":
            here = None
        for step in steps:
            here = EXPANDABLE[here].get(step) if here else None
        if here is None or not steps:
            return invalid("expand", f"This property cannot be expanded ({path}).")
    return None


def apply(account: Account, shown: Shown, paths: list[str]) -> None:
    """Expand `shown` in place along paths that `check` has passed."""
    for path in paths:
        _along(account, shown, path.split("."))


def _along(account: Account, shown: Shown, steps: list[str]) -> None:
    name, rest = steps[0], steps[1:]
    if shown["object"] == "list":
        for row in shown["data"]:
            _along(account, row, rest)
        return
    value = shown.get(name)
    if isinstance(value, str):
        value = _find(account, EXPANDABLE[shown["object"]][name], value) or value
        shown[name] = value
    if rest and isinstance(value, dict):
        _along(account, value, rest)


def _find(account: Account, kind: str, object_id: str) -> Shown | None:
    """The object shown anew; None if it was forgotten, in which case its id stays."""
    if kind == "charge":
        charge = account.charges.get(object_id)
        return render.charge(charge) if charge else None
    if kind == "payment_intent":
        intent = account.intents.get(object_id)
        return render.intent(intent) if intent else None
    customer = account.customers.get(object_id)
    return render.customer(customer) if customer else None
