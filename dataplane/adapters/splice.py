"""Changing one member of a JSON object in its own bytes.

Re-serialising a body changes bytes that nobody asked to change: number formats, escapes, the order of names, and
with them signatures and idempotency comparisons. So an injected member is spliced in, the rest stays as it came.
"""

import json
import re
from typing import Any, Final

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


def add_member(body: bytes, member: bytes) -> bytes:
    """`body`, a JSON object that parsed and has members but not this one (`b'"name":value'`), with it as the first."""
    first = body.index(b"{") + 1
    return body[:first] + member + b"," + body[first:]


def replace_member(body: bytes, name: str, value: Any) -> bytes:
    """`body`, a JSON object that parsed and has this member at its top level, with another value in its place.

    Raises ValueError if it has no such member (a defect of the caller).
    """
    start, end = _member_span(body, name)
    return body[:start] + json.dumps(value, separators=(",", ":")).encode() + body[end:]


def _member_span(body: bytes, name: str) -> tuple[int, int]:
    """Where the value of a top-level member begins and ends.

    A walk over tokens: at depth one a string before ':' is a name, and its value ends before the ',' or '}'
    that follows at depth one.
    """
    depth = 0
    key = b""
    inside = False
    start = end = 0
    for token in _TOKEN.finditer(body):
        text = token.group()
        if inside:
            if depth == 1 and text in {b",", b"}"}:
                return start, end
            start = start or token.start()
            end = token.end()
        if text in {b"{", b"["}:
            depth += 1
        elif text in {b"}", b"]"}:
            depth -= 1
        elif depth == 1 and text == b":" and not inside:
            inside = key.startswith(b'"') and json.loads(key) == name
        key = text
    raise ValueError(name)
