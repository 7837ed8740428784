"""Form bodies (`amount=500&metadata[order]=7&expand[]=customer`), read strictly.

The vendor's parser turns brackets into tables and lists; parsers differ in what they make of doubled names, of a
name that is both a value and a table, of ';' as a separator and of brackets out of place. All of that is
malformed here. What is left has one meaning, so a flat table suffices: `{"amount": "500", "metadata[order]": "7",
"expand[]": ["customer"]}`.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

from dataplane.adapters.strict import Malformed

Fields = dict[str, str | list[str]]
"""Fields by their whole name; a list only under names that end in '[]'."""

MAX_FIELDS: Final = 1_000
"""A vendor's largest forms have dozens of fields; the bound keeps hostile ones cheap."""

MAX_DEPTH: Final = 8
"""Brackets after a name; vendors' deepest have five."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*((?:\[[^\[\]\x00-\x1f\x7f]*\])*)\Z")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_form(body: bytes) -> Fields | Malformed:
    """The fields of an application/x-www-form-urlencoded body."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return Malformed("the form is not UTF-8")
    if not text:
        return {}
    if ";" in text or "\x00" in text:
        return Malformed("the form holds a raw ';' or NUL: percent-encode it")
    if "%" in text and _BAD_ESCAPE.search(text) is not None:
        return Malformed("the form holds a '%' without two hexadecimal digits")
    pieces = text.split("&")
    if len(pieces) > MAX_FIELDS:
        return Malformed(f"the form has more than {MAX_FIELDS} fields")
    return _collect(pieces)


def _collect(pieces: list[str]) -> Fields | Malformed:
    fields: Fields = {}
    nested: list[str] = []
    for piece in pieces:
        name, equals, value = piece.partition("=")
        if not equals:
            return Malformed("a field of the form has no '='")
        if "%" in piece or "+" in piece:
            try:
                name = unquote_plus(name, errors="strict")
                value = unquote_plus(value, errors="strict")
            except UnicodeDecodeError:
                return Malformed("an escape of the form is not UTF-8")
            if "\x00" in value:
                return Malformed("the form holds a NUL")
        if not (name.isidentifier() and name.isascii()):
            match = _NAME.match(name)
            if match is None or match.group(1).count("[") > MAX_DEPTH:
                return Malformed("a name of the form is not a plain name with brackets")
            nested.append(name)
        if name.endswith("[]"):
            held = fields.setdefault(name, [])
            if isinstance(held, list):
                held.append(value)
        elif name in fields:
            return Malformed(f"{name[:64]!r} stands twice in the form")
        else:
            fields[name] = value
    clash = _clash(fields, nested) if nested else ""
    return Malformed(f"{clash[:64]!r} is used in two ways in the form") if clash else fields


def _clash(fields: Fields, nested: list[str]) -> str:
    """A name that is a value here and a table there, or a list here and a table there; "" if none."""
    kinds: dict[str, str] = {}
    for name in nested:
        at = name.index("[")
        while at >= 0:
            parent = name[:at]
            close = name.index("]", at)
            kind = "list" if close == at + 1 else "table"
            if parent in fields or kinds.setdefault(parent, kind) != kind:
                return parent
            if kind == "list" and close != len(name) - 1:
                return parent  # x[][y]: which element it belongs to is a guess
            at = name.find("[", close)
    return ""


def query_names(query: bytes) -> list[str]:
    """The names of a query string, decoded as a lenient parser would; for checks that must not miss one."""
    names = []
    for piece in re.split(rb"[&;]", query):
        name = piece.partition(b"=")[0]
        names.append(unquote_plus(name.decode("latin-1")))
    return names
