"""Bytes and query strings into typed structs, or a refusal that names the parameter.

Numbers keep their own digits: a JSON number for money never passes through a float. A field given twice is
refused, because two readers could take different ones.
"""

import json
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

import msgspec

from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid, refuse
from schemas.api import AgentLimits, AgentLimitsPatch, AgentPatch, AgentPut, Body, KeyIssue, KeyPatch, Span, Usd
from schemas.caps import CAP_FIELDS
from schemas.durations import parse_duration_s
from schemas.money import MoneyError, parse_usd

B = TypeVar("B", bound=Body)

MAX_NUMBER_CHARS = 64
"""No amount has more digits that matter."""

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `(?P<at>.*)`)?\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `(?P<at>.*)`)?\Z", re.DOTALL)
_INVALID = re.compile(r"(?P<what>.*?)(?: - at (?:`(?P<at>.*)`|.*))?\Z", re.DOTALL)

_FIXED = "Agent and identity of a key never change; issue another key."
_AGENT_CAPS = "An agent's caps are a budget: PUT /v1/budgets/agent/{name}."

ELSEWHERE: dict[type[Body], dict[str, tuple[str, str]]] = {
    KeyIssue: {
        "duplicates": (
            "not_available",
            "Leave it out and send the vendor's own idempotency key, which passes through unchanged.",
        ),
        "policies": (
            "not_available",
            "Leave it out and restrict the key with upstreams, allowed_endpoints, models, caps and rate limits.",
        ),
    },
    KeyPatch: dict.fromkeys(("agent", "identity", "allow_unknown_agents"), ("unknown_parameter", _FIXED)),
    **{
        kind: dict.fromkeys(CAP_FIELDS, ("unknown_parameter", _AGENT_CAPS))
        for kind in (AgentPut, AgentPatch, AgentLimits, AgentLimitsPatch)
    },
}
"""Fields that a caller may well expect and that are not there: the code, and what to do instead."""


class JsonNumber(str):
    """A JSON number with a fraction or an exponent, as it was written."""

    __slots__ = ()


class BodyDecoder(Generic[B]):
    """Reads bodies of one type."""

    def __init__(self, kind: type[B]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind, dec_hook=_convert, float_hook=JsonNumber)

    def decode(self, raw: bytes) -> B | CommandRefusal:
        try:
            body = self._decoder.decode(raw)
            repeated = _repeated_field(raw)
        except msgspec.ValidationError as error:
            return _refuse(str(error), self._kind)
        except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
            return refuse("invalid_json", "the body is not a JSON object")
        if repeated is not None:
            return refuse("invalid_json", "a field is given twice", _short(repeated))
        return body


def decode_query(pairs: Iterable[tuple[str, str]], kind: type[B]) -> B | CommandRefusal:
    """Read a query string's pairs."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            return invalid(_short(name), "the parameter is given twice")
        values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        return _refuse(str(error), kind)


def _convert(kind: type, value: Any) -> Any:
    """The hook of msgspec for Usd and Span. Its ValueErrors become ValidationErrors that name the field."""
    if kind is Usd:
        return Usd(_usd_nanos(value))
    if kind is Span:
        return Span(parse_duration_s(None if isinstance(value, JsonNumber) else value))
    raise TypeError(f"no conversion to {kind.__name__}")


def _usd_nanos(value: Any) -> int:
    if isinstance(value, JsonNumber):
        if len(value) > MAX_NUMBER_CHARS:
            raise MoneyError("the number has more digits than any amount")
        try:
            return parse_usd(Decimal(value))
        except InvalidOperation:
            raise MoneyError("the number is not an amount") from None
    if isinstance(value, (str, int)):
        return parse_usd(value)
    raise MoneyError('an amount is a number or a decimal string such as "12.50"')


class _RepeatedError(Exception):
    """A field came twice; the argument is its name."""


def _repeated_field(raw: bytes) -> str | None:
    """The first field that some object of the body holds twice. msgspec keeps the last one silently."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RepeatedError(name)
            seen.add(name)

    try:
        json.loads(raw, object_pairs_hook=check, parse_int=str, parse_float=str)
    except _RepeatedError as repeated:
        return str(repeated)
    return None


def _refuse(message: str, kind: type[Body]) -> CommandRefusal:
    """A message of msgspec as a refusal. Its forms: unknown field, missing field, and `what - at path`."""
    if (found := _UNKNOWN.match(message)) is not None:
        name = found["name"]
        code, remedy = ELSEWHERE.get(kind, {}).get(name, ("unknown_parameter", ""))
        return refuse(code, f"{_short(name)!r} is no parameter of this request", _path(found["at"], name), remedy)
    if (found := _MISSING.match(message)) is not None:
        return refuse("missing_parameter", f"{found['name']!r} is missing", _path(found["at"], found["name"]))
    found = _INVALID.match(message)
    what, at = (found["what"], found["at"]) if found is not None else (message, None)
    return invalid(_path(at), _short(what, 200))


def _path(at: str | None, name: str = "") -> str:
    """A path of msgspec, `$.limits`, and a field's name as `limits.rate_limit_rpm`."""
    base = (at or "").removeprefix("$").removeprefix(".")
    return _short(f"{base}.{name}".strip("."))


def _short(text: str, length: int = 100) -> str:
    """What a caller wrote, short enough to repeat."""
    return text if len(text) <= length else f"{text[:length]}..."
