"""Endpoint patterns: `[upstream:][METHOD ]/path/*/with/**`.

`*` is exactly one segment, `**` (last only) any number of segments, none included. A pattern without a method
allows any. Matching is per segment on the canonical path, never by prefix and never with the query string, so
`/v1/payment_intents/*` matches neither `/v1/payment_intentsX` nor `/v1/payment_intents/pi_1/capture`.
"""

import re

import msgspec

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()+,=:@%-]+\Z")

MAX_PATTERN_CHARS = 512
MAX_SEGMENTS = 32
"""Vendors' paths have at most about ten segments; the bound keeps matching cheap."""


class Pattern(msgspec.Struct, frozen=True, array_like=True):
    """A parsed pattern. `upstream` and `method` are empty where any will do."""

    upstream: str
    method: str
    segments: tuple[str, ...]


class PatternError(ValueError):
    """The text is not a pattern; the message says which part and why."""


def parse_pattern(text: str) -> Pattern:
    """Parse one entry of `allowed_endpoints`. Raises PatternError."""
    if len(text) > MAX_PATTERN_CHARS:
        raise PatternError(f"a pattern has at most {MAX_PATTERN_CHARS} characters")
    head, slash, tail = text.partition("/")
    if not slash:
        raise PatternError(f'{text!r} has no path: write for example "POST /v1/payment_intents"')
    upstream, method = _head(text, head)
    segments = tuple(tail.split("/"))
    if len(segments) > MAX_SEGMENTS:
        raise PatternError(f"{text!r} has more than {MAX_SEGMENTS} segments")
    for position, segment in enumerate(segments):
        _check_segment(text, segment, last=position == len(segments) - 1, only=len(segments) == 1)
    return Pattern(upstream, method, segments)


def _head(text: str, head: str) -> tuple[str, str]:
    head = head.strip()
    upstream, colon, method = head.partition(":")
    if not colon:
        upstream, method = "", head
    elif not upstream:
        raise PatternError(f"{text!r} has nothing before ':'")
    method = method.strip()
    if method and method not in _METHODS:
        raise PatternError(f"{text!r} begins with {method!r}, which is not a method in capitals")
    return upstream, method


def _check_segment(text: str, segment: str, *, last: bool, only: bool) -> None:
    if segment == "**" and not last:
        raise PatternError(f"{text!r}: '**' stands only at the end")
    if segment in {"*", "**"} or (segment == "" and only):
        return
    if segment in {"", ".", ".."} or _SEGMENT.match(segment) is None or "*" in segment:
        raise PatternError(f"{text!r}: segment {segment!r} can never match a canonical path")


def matches(pattern: Pattern, upstream: str, method: str, segments: tuple[str, ...]) -> bool:
    """Whether a request (its canonical path split at '/', the leading one left out) fits the pattern."""
    if pattern.upstream and pattern.upstream != upstream:
        return False
    if pattern.method and pattern.method != method:
        return False
    wanted = pattern.segments
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(segments) < len(wanted):
            return False
    elif len(segments) != len(wanted):
        return False
    return all(want in {"*", got} for want, got in zip(wanted, segments, strict=False))
