"""Strict readers of request bodies: whatever two parsers could read in two ways is malformed.

A gateway that reads an amount differently from its vendor bounds the wrong amount. So a doubled key, a doubtful
escape or a stray byte is an error here, although most parsers would shrug.
"""

import json
from json.scanner import make_scanner
from typing import Any, Final, NamedTuple, NoReturn

import msgspec


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
        quick = _DECODER.decode(body)
        if type(quick) is dict and _each_name_once(body, _names(quick)):
            return quick
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # what is wrong is said below, or that nothing is
    return _parse_closely(body)


def _each_name_once(body: bytes, names: int) -> bool:
    """Whether a body that holds `names` names once it is decoded, where of equal ones the last has won, holds no more
    than these: each has a colon of its own. False: perhaps; a text may hold colons, too.
    """
    if body.count(b":") == names:
        return True
    # A text's own quotes are escaped, so `":` is the end of a name, or the beginning of a text that begins so.
    return body.count(b'":') == names and not any(body.find(blank) >= 0 for blank in _BLANKS_BEFORE_COLON)


def _names(value: Any) -> int:
    """How many names there are in all objects of a decoded value."""
    count = 0
    if type(value) is dict:
        count = len(value)
        for member in value.values():
            kind = type(member)
            if kind is dict or kind is list:
                count += _names(member)
    elif type(value) is list:
        for member in value:
            kind = type(member)
            if kind is dict or kind is list:
                count += _names(member)
    return count


def _parse_closely(body: bytes) -> dict[str, Any] | Malformed:
    """The same at three times the cost: it sees every pair."""
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
_BLANKS_BEFORE_COLON: Final = (b" :", b"\t:", b"\n:", b"\r:")
_DECODER: Final = msgspec.json.Decoder()
_scan: Final = make_scanner(json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant))  # type: ignore[arg-type]  # the stubs name the wrong class
"""One value at a place of a text, and where it ends. `decode` would look for blanks around it, too."""
