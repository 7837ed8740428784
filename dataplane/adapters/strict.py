"""Strict readers of request bodies: whatever two parsers could read in two ways is malformed.

A gateway that reads an amount differently from its vendor bounds the wrong amount. So a doubled key, a doubtful
escape or a stray byte is an error here, although most parsers would shrug.
"""

import json
from json.scanner import make_scanner
from typing import Any, Final, NamedTuple, NoReturn


class Malformed(NamedTuple):
    """What is wrong with a body, in words that quote no values of it."""

    reason: str


class _Doubtful(ValueError):
    """Raised inside the JSON decoder's hooks; the message is ours."""


def parse_json_object(body: bytes) -> dict[str, Any] | Malformed:
    """A JSON object whose names stand once at every level.

    UTF-8 only, no byte order mark, no NaN or Infinity, no text after the object. Integers stay exact.
    """
    try:
        text = body.decode().strip(_BLANKS)
        value, end = _scan(text, 0)
    except UnicodeDecodeError:
        return Malformed("the body is not UTF-8")
    except _Doubtful as error:
        return Malformed(str(error))
    except (ValueError, StopIteration):  # not JSON, integers beyond Python's limit of digits, and nothing at all
        return Malformed("the body is not JSON")
    except RecursionError:
        return Malformed("the body is nested too deeply")
    if end != len(text):
        return Malformed("the body is not JSON")
    if not isinstance(value, dict):
        return Malformed("the body is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _Doubtful("a name stands twice in one JSON object")
    return table


def _no_constant(_: str) -> NoReturn:
    raise _Doubtful("NaN and Infinity are not JSON")


_BLANKS: Final = " \t\n\r"
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_scan: Final = make_scanner(_DECODER)  # type: ignore[arg-type]  # the stubs name the wrong class
"""One value at a place of a text, and where it ends. `decode` is this with a look for blanks around it, which costs a
third of all it does for a short body."""
