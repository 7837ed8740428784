r"""Request targets: the canonical ones pass, all others are refused, none is repaired.

An allowlist decides on one spelling of a path and the vendor's server acts on its own reading of it. If the two can
differ (`/v1/a/../b`, `/v1//b`, `/v1/a%2Fb`, `/v1/a;x`, `/v1/%61`), whoever chooses the spelling chooses the endpoint.
So what could be read differently is refused, and what passes goes on byte for byte as it came.

Canonical is: origin form; visible ASCII; no empty or dot segments; percent-encoding in capitals, never of a
character that needs none (letters, digits, `-._~`) or that could act as a separator once a server decodes it
(`/ \ ? # ; : %`) or as a control; what is encoded beyond ASCII is valid UTF-8, so no overlong form of a separator.
`!$&'()*+,=@` may stand as they are or encoded, because official SDKs send both (`%2B1415...`, `a%40b.example`):
none of them ends a segment at any vendor, and a pattern matches the spelling that was sent, or not at all.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from schemas.refusals import Refusal, refuse

MAX_TARGET_CHARS: Final = 8_000
"""Path and query. Vendors' longest queries (filters, cursors) stay below 2,000; servers refuse above 8,190."""

MAX_PATH_CHARS: Final = 2_048
MAX_SEGMENTS: Final = 48
"""The upstream's name and a vendor's path, which has about ten; patterns stop at 32."""

_SEGMENT: Final = (
    r"(?!\.{1,2}(?:[/?]|\Z))"  # not a dot segment
    r"(?:[A-Za-z0-9\-._~!$&'()*+,=:@]"
    r"|%(?:2[01246789ABC]|3[CDE]|40|5[BDE]|60|7[BCD]|[89A-F][0-9A-F]))+"
)
_TARGET: Final = re.compile(rf"(/|(?:/{_SEGMENT})+(/?))(?:\?((?:[!-\"$&-~]|%[0-9A-Fa-f]{{2}})*))?\Z")


_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[^!-~]"), "the request target holds a space, a control character or a character beyond ASCII"),
    (re.compile(r"#"), "the request target holds '#'"),
    (re.compile(r"^[^?]*\\"), "the path holds a backslash"),
    (re.compile(r"^[^?]*;"), "the path holds ';'"),
    (re.compile(r"^[^?]*//"), "the path holds an empty segment ('//')"),
    (re.compile(r"^[^?]*/\.{1,2}(?:[/?]|\Z)"), "the path holds a dot segment"),
    (re.compile(r"%(?![0-9A-Fa-f]{2})"), "a '%' is not followed by two hexadecimal digits"),
    (re.compile(r"^[^?]*%(?:2[fF]|5[cC]|2[eE]|25|3[aAbBfF]|23)"), "the path holds an encoded separator, dot or '%'"),
    (re.compile(r"^[^?]*%(?:[01][0-9A-Fa-f]|7[fF])"), "the path holds an encoded control character"),
    (re.compile(r"^[^?]*%(?:.[a-f]|[a-f])"), "percent-encoding is written in capitals (%3D, not %3d)"),
    (re.compile(r"^[^?]*%(?:2D|3[0-9]|[46][1-9A-F]|[57][0-9A]|5F|7E)"), "the path encodes a character that needs none"),
)
"""In the order in which a reader would look for the fault."""


class Target(NamedTuple):
    """A canonical request target.

    `path` as it came, without the query. `segments`: its parts, without the empty one that a trailing slash
    leaves. `query`: raw, without '?'. `slash`: it ends in '/', and is not just '/'; see `dataplane.core.route`.
    """

    path: str
    segments: tuple[str, ...]
    query: str
    slash: bool


def parse_target(raw: str) -> Target | Refusal:
    """Take a request target apart, as received (undecoded). 400 `path_not_canonical` if it is not canonical."""
    found = _TARGET.match(raw) if len(raw) <= MAX_TARGET_CHARS else None
    if found is None:
        return refuse("path_not_canonical", _why(raw))
    path, slash, query = found.groups()
    if len(path) > MAX_PATH_CHARS:
        return refuse("path_not_canonical", f"the path is longer than {MAX_PATH_CHARS} characters")
    segments = tuple((path[1:-1] if slash else path[1:]).split("/"))
    if len(segments) > MAX_SEGMENTS:
        return refuse("path_not_canonical", f"the path has more than {MAX_SEGMENTS} segments")
    if "%" in path and not _is_utf8(path):
        return refuse("path_not_canonical", "the path's percent-encoding is not valid UTF-8")
    return Target(path, segments, query or "", bool(slash))


def _is_utf8(path: str) -> bool:
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _why(raw: str) -> str:
    """Say which rule is broken: the first of the list, without repeating what was sent."""
    if len(raw) > MAX_TARGET_CHARS:
        return f"the request target is longer than {MAX_TARGET_CHARS} characters"
    if not raw.startswith("/"):
        return "the request target must begin with '/': absolute-form and other targets are not accepted"
    for found, why in _RULES:
        if found.search(raw):
            return why
    return "the path or the query holds a character that must be percent-encoded"
