"""Form bodies with brackets (`a[b][0]=c`), read strictly.

Whatever could be understood in two ways is an error here: a doubled key, a name that is both a value and a table,
an index out of order. A gateway that guesses differently from its vendor bounds the wrong amount, so the
simulated vendor must not be the lenient side.
"""

import re
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from controlplane.demo.stripe_sim.refuse import Refused, invalid

Value: TypeAlias = str | list["Value"] | dict[str, "Value"]
Table: TypeAlias = dict[str, Value]

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[[^\[\]]*\])*)")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_MAX_FIELDS = 1_000  # Stripe's own requests have dozens
_MAX_DEPTH = 5  # `payment_method_options[card][...][...]` needs four

# While a list is being read it is a table of its indices in this class; `_finish` makes the list.


class _Indices(dict[str, Value]):
    """A list under construction: "0", "1", ... in order."""


def parse(text: str) -> Table | Refused:
    """Read a form (a body or a query string). The result has text, lists and tables; no text is interpreted."""
    if not text:
        return {}
    pairs = text.split("&")
    if len(pairs) > _MAX_FIELDS:
        return invalid("", f"More than {_MAX_FIELDS} parameters.")
    root: Table = {}
    for pair in pairs:
        raw_key, equals, raw_value = pair.partition("=")
        key, value = _decode(raw_key), _decode(raw_value)
        if not equals or key is None or value is None:
            return invalid("", "Invalid form encoding.")
        match = _KEY.fullmatch(key)
        if match is None:
            return invalid(key[:100], f"Invalid parameter name: {key[:100]}")
        steps = [match[1], *_BRACKET.findall(match[2])]
        if not _store(root, steps, value):
            return invalid(key[:100], f"Ambiguous parameter: {key[:100]} was given twice, or as value and table.")
    return {name: _finish(item) for name, item in root.items()}


def _decode(text: str) -> str | None:
    """Percent-decoding; None if it is not UTF-8 or an escape is broken."""
    if "%" not in text and "+" not in text:
        return text if text.isascii() else None
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        return None
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return None


def _store(root: Table, steps: list[str], value: str) -> bool:
    """Put `value` at its place; False if the place is taken or of another kind."""
    if len(steps) > _MAX_DEPTH:
        return False
    here = root
    for index, step in enumerate(steps[:-1]):
        wanted = _Indices if steps[index + 1] == "" or steps[index + 1].isdigit() else dict
        name = _index(here, step)
        if name is None:
            return False
        child = here.get(name)
        if child is None:
            child = here[name] = wanted()
        elif type(child) is not wanted:
            return False
        here = child
    last = _index(here, steps[-1])
    if last is None or last in here:
        return False
    here[last] = value
    return True


def _index(here: Table, step: str) -> str | None:
    """The name to use in `here`: `[]` appends to a list, an index may be the next one or one already there."""
    if not isinstance(here, _Indices):
        return step or None
    if step == "":
        return str(len(here))
    return step if step in here or step == str(len(here)) else None


def _finish(value: Value) -> Value:
    if isinstance(value, _Indices):
        return [_finish(item) for item in value.values()]
    if isinstance(value, dict):
        return {name: _finish(item) for name, item in value.items()}
    return value
