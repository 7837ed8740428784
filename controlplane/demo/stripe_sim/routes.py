"""From method, path and parameters to an operation on the account, and its result as bytes."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from controlplane.demo.stripe_sim import charges, customers, expand, form, intents, lists, refunds, render
from controlplane.demo.stripe_sim.fields import Fields
from controlplane.demo.stripe_sim.form import Table
from controlplane.demo.stripe_sim.records import Account, Done
from controlplane.demo.stripe_sim.refuse import Refused, invalid, no_such
from controlplane.demo.wire import Call, Move

_FORM = "application/x-www-form-urlencoded"
_SEGMENT = re.compile(r"[A-Za-z0-9_]{1,255}")
_EXPAND_ONLY = frozenset({"expand"})

Operation = Callable[[Account, str, Fields, int], Done | Refused]

# (method, collection, what follows; ":id" stands for an object's id) -> operation, parameters it takes.
_CHANGES: dict[tuple[str, str, str], tuple[Operation, frozenset[str]]] = {
    ("POST", "payment_intents", ""): (intents.create, intents.CREATE),
    ("POST", "payment_intents", ":id"): (intents.update, intents.UPDATE),
    ("POST", "payment_intents", ":id/confirm"): (intents.confirm, intents.CONFIRM),
    ("POST", "payment_intents", ":id/capture"): (intents.capture, intents.CAPTURE),
    ("POST", "payment_intents", ":id/cancel"): (intents.cancel, intents.CANCEL),
    ("POST", "payment_intents", ":id/increment_authorization"): (intents.increment, intents.INCREMENT),
    ("POST", "charges", ""): (charges.create, charges.CREATE),
    ("POST", "charges", ":id/capture"): (charges.capture, charges.CAPTURE),
    ("POST", "refunds", ""): (refunds.create, refunds.CREATE),
    ("POST", "customers", ""): (customers.create, customers.CREATE),
    ("POST", "customers", ":id"): (customers.update, customers.UPDATE),
    ("DELETE", "customers", ":id"): (customers.delete, frozenset()),
}
# Collection -> the object's name, and the parameter that an unknown id is blamed on.
_KINDS = {
    "payment_intents": ("payment_intent", "intent"),
    "charges": ("charge", "id"),
    "refunds": ("refund", "id"),
    "customers": ("customer", "id"),
}


class Result(msgspec.Struct, frozen=True):
    """A call that succeeded: the body to answer, and what it did to money."""

    body: bytes
    moves: tuple[Move, ...] = ()


def perform(account: Account, call: Call) -> Result | Refused:
    """Execute one authenticated call."""
    values = _parameters(call)
    if isinstance(values, Refused):
        return values
    collection, object_id, action = _split(call.path)
    change = _CHANGES.get((call.method, collection, action))
    if change is not None:
        operation, known = change
        return _change(account, call, collection, object_id, operation, Fields(values, known))
    if call.method == "GET" and collection == "balance" and not action:
        fields = Fields(values, frozenset())
        return fields.problem or Result(msgspec.json.encode(render.balance(account.balance)))
    if call.method == "GET" and collection in _KINDS and action == "":
        return _list(account, collection, Fields(values, lists.PAGING | lists.FILTERS[collection]))
    if call.method == "GET" and collection in _KINDS and action == ":id":
        return _retrieve(account, collection, object_id, Fields(values, _EXPAND_ONLY))
    return Refused(404, f"Unrecognized request URL ({call.method}: {call.path[:200]}).")


def _change(
    account: Account, call: Call, collection: str, object_id: str, operation: Operation, fields: Fields
) -> Result | Refused:
    paths = _paths(fields, collection)
    if fields.problem:
        return fields.problem
    done = operation(account, object_id, fields, call.now_s)
    if isinstance(done, Refused):
        return done
    shown = render.any_of(done.item)
    if paths:
        expand.apply(account, shown, paths)
    return Result(msgspec.json.encode(shown), done.moves)


def _list(account: Account, collection: str, fields: Fields) -> Result | Refused:
    paths = _paths(fields, collection, in_list=True)
    shown = lists.page(account, collection, fields)
    if isinstance(shown, Refused):
        return shown
    expand.apply(account, shown, paths)
    return Result(msgspec.json.encode(shown))


def _retrieve(account: Account, collection: str, object_id: str, fields: Fields) -> Result | Refused:
    paths = _paths(fields, collection)
    if fields.problem:
        return fields.problem
    shown = _find(account, collection, object_id)
    if shown is None:
        kind, param = _KINDS[collection]
        return no_such(kind, object_id, param)
    expand.apply(account, shown, paths)
    return Result(msgspec.json.encode(shown))


def _find(account: Account, collection: str, object_id: str) -> dict[str, Any] | None:
    item = account.store(collection).get(object_id)
    return render.any_of(item) if item else None


def _paths(fields: Fields, collection: str, *, in_list: bool = False) -> list[str]:
    paths = fields.texts("expand")
    problem = expand.check(_KINDS[collection][0], paths, in_list=in_list) if paths else None
    if problem:
        fields.fail(problem)
    return paths


def _split(path: str) -> tuple[str, str, str]:
    """`/v1/charges/ch_1/capture` -> ("charges", "ch_1", ":id/capture"); three empty texts if it is no such path."""
    segments = path.split("/")
    if len(segments) not in {3, 4, 5} or segments[:2] != ["", "v1"]:
        return "", "", ""
    if not all(_SEGMENT.fullmatch(segment) for segment in segments[2:]):
        return "", "", ""
    collection, *rest = segments[2:]
    if not rest:
        return collection, "", ""
    return collection, rest[0], "/".join([":id", *rest[1:]])


def _parameters(call: Call) -> Table | Refused:
    """The parameters: of a POST in its form body alone, of anything else in the query alone."""
    if call.method != "POST":
        return form.parse(call.query) if not call.body else invalid("", "This request cannot have a body.")
    if call.query:
        return invalid("", "Parameters of a POST request belong in its body, not in the URL.")
    if not call.body:
        return {}
    if call.header("Content-Type").partition(";")[0].strip().lower() != _FORM:
        return invalid("", f"Invalid request (check that your POST content type is {_FORM}).")
    try:
        return form.parse(call.body.decode("ascii"))
    except UnicodeDecodeError:
        return invalid("", "Invalid form encoding.")
