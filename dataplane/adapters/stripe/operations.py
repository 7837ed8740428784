"""Which call is which: Stripe's endpoints sorted by what they can cost.

| kind | what | bound |
|---|---|---|
| `read` | any GET or HEAD | nothing |
| `free` | creates or changes records that move no money | nothing |
| `money` | PaymentIntents, charges, refunds | stripe.bounds, settled by stripe.objects |
| `denied` | answers with a secret that outlives the vault key | never forwarded |
| unknown | everything else: payouts, transfers, invoices, subscriptions, Checkout, ... | none |

Money that moves later or outside the gateway (invoices, subscriptions, payment links, Checkout) has no bound that
the request shows, so those calls are unknown on purpose.
"""

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_plus

Kind = Literal["read", "free", "money", "denied", "unknown"]


class Operation(NamedTuple):
    """One endpoint, in the vendor's words. `object`: what its answer is, for those that are settled."""

    name: str
    kind: Kind
    object: str = ""


UNKNOWN: Final = Operation("", "unknown")
_DENIED: Final = Operation("", "denied")
_READ: Final = Operation("read", "read")

_IDS: Final = {
    "payment_intents": re.compile(r"pi_[A-Za-z0-9_]{1,250}\Z"),
    "charges": re.compile(r"(ch|py)_[A-Za-z0-9_]{1,250}\Z"),
    "refunds": re.compile(r"(re|pyr)_[A-Za-z0-9_]{1,250}\Z"),
}
"""Ids of the objects that are settled; another one's path is unknown."""

PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")


def _money(name: str) -> Operation:
    return Operation(name, "money", name.partition(".")[0][:-1])


def _free(name: str) -> Operation:
    return Operation(name, "free")


_POST: dict[str, Operation] = {
    "payment_intents": _money("payment_intents.create"),
    "payment_intents/*": _money("payment_intents.update"),
    "payment_intents/*/confirm": _money("payment_intents.confirm"),
    "payment_intents/*/capture": _money("payment_intents.capture"),
    "payment_intents/*/cancel": _money("payment_intents.cancel"),
    "payment_intents/*/increment_authorization": _money("payment_intents.increment_authorization"),
    "charges": _money("charges.create"),
    "charges/*": _free("charges.update"),
    "charges/*/capture": _money("charges.capture"),
    "refunds": _money("refunds.create"),
    "refunds/*": _free("refunds.update"),
    "refunds/*/cancel": _money("refunds.cancel"),
    "customers": _free("customers.create"),
    "customers/*": _free("customers.update"),
    "payment_methods": _free("payment_methods.create"),
    "payment_methods/*": _free("payment_methods.update"),
    "payment_methods/*/attach": _free("payment_methods.attach"),
    "payment_methods/*/detach": _free("payment_methods.detach"),
    "setup_intents": _free("setup_intents.create"),
    "setup_intents/*": _free("setup_intents.update"),
    "setup_intents/*/confirm": _free("setup_intents.confirm"),
    "setup_intents/*/cancel": _free("setup_intents.cancel"),
    "products": _free("products.create"),
    "products/*": _free("products.update"),
    "prices": _free("prices.create"),
    "prices/*": _free("prices.update"),
}
_DELETE: dict[str, Operation] = {
    "customers/*": _free("customers.delete"),
    "products/*": _free("products.delete"),
}

BY_NAME: Final = {operation.name: operation for operation in (*_POST.values(), *_DELETE.values())}
"""Every operation that changes something, by its name."""

_NAMED_READS: Final = frozenset({"payment_intents", "charges", "refunds", "customers"})

CREDIT_PARAMS: Final = frozenset(
    {
        "account_balance",
        "balance",
        "cash_balance",
        "coupon",
        "items",
        "plan",
        "promotion_code",
        "quantity",
        "subscription",
        "tax_percent",
        "trial_end",
    }
)
"""Parameters with which a customer call gives credit, or (in old API versions) starts a subscription."""

_SECRETS: Final = (
    ("v1", "ephemeral_keys"),
    ("v1", "apps", "secrets"),
    ("v1", "terminal", "connection_tokens"),
    ("v1", "account_sessions"),
    ("v1", "customer_sessions"),
)
"""Resources whose answers hold keys or secrets that stay good after the vault key has ended."""

_SECRETS_AT_BIRTH: Final = (("v1", "webhook_endpoints"), ("v2", "core", "event_destinations"))
"""Resources that show their signing secret to whoever creates them (v2: or asks for it with `include`)."""


def classify(method: str, segments: tuple[str, ...], query: bytes) -> Operation:
    """The operation of a canonical path's segments (`("v1", "payment_intents", "pi_1", "confirm")`)."""
    reading = method in {"GET", "HEAD"}
    if _reveals(segments, query, reading=reading):
        return _DENIED
    if reading:
        return _read(segments)
    if segments[0] != "v1" or not 2 <= len(segments) <= 4:
        return UNKNOWN
    resource = segments[1]
    if len(segments) == 2:
        pattern = resource
    else:
        ids = _IDS.get(resource, PLAIN_ID)
        if ids.match(segments[2]) is None:
            return UNKNOWN
        pattern = f"{resource}/*" if len(segments) == 3 else f"{resource}/*/{segments[3]}"
    if method == "POST":
        return _POST.get(pattern, UNKNOWN)
    return _DELETE.get(pattern, UNKNOWN) if method == "DELETE" else UNKNOWN


def _reveals(segments: tuple[str, ...], query: bytes, *, reading: bool) -> bool:
    if len(segments) < 2 or segments[1] in _NAMED_READS:  # the hot path: none of the secrets is there
        return False
    if any(segments[: len(secret)] == secret for secret in _SECRETS):
        return True
    if any(segments[: len(secret)] == secret for secret in _SECRETS_AT_BIRTH):
        return not reading or b"include" in query or b"%" in query
    if segments[:2] == ("v1", "issuing"):  # `expand[]=number` shows a card's whole number
        asked = unquote_plus(query.decode("latin-1"))
        return "number" in asked or "cvc" in asked
    return False


def _read(segments: tuple[str, ...]) -> Operation:
    if len(segments) == 2 and segments[1] in _NAMED_READS:
        return Operation(f"{segments[1]}.list", "read")
    if len(segments) == 3 and segments[1] in _NAMED_READS:
        action = "search" if segments[2] == "search" else "retrieve"
        return Operation(f"{segments[1]}.{action}", "read")
    return Operation("balance.retrieve", "read") if segments == ("v1", "balance") else _READ
