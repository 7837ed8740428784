"""Where a response's body ends, decided from its head. Pure.

Two parties that disagree about the end of a message can be made to read one agent's answer as another's, so this
is stricter than RFC 9112 (section 6) asks of a client: whatever can be read in two ways is refused, and a
connection is only kept if its next byte is certain to begin the next answer.

| answer                                   | body                    | connection kept             |
|------------------------------------------|-------------------------|-----------------------------|
| to HEAD; 204; 304                        | none                    | yes, unless 204 announces one |
| 1xx                                      | none; any framing refused | -                         |
| Content-Length                           | that many bytes         | yes                         |
| Transfer-Encoding: chunked, HTTP/1.1     | until the last chunk    | yes                         |
| neither                                  | until the stream's end  | no                          |
| both; two lengths; any other encoding    | refused                 | -                           |

HTTP/1.0 and `Connection: close` are never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

_INTERESTING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})
_INTERESTING_LENGTHS: Final = frozenset({len(name) for name in _INTERESTING})
_MAX_LENGTH_DIGITS: Final = 18  # below 2**63, what the parser counts with; an exabyte is no honest length
_MAX_HINT_DIGITS: Final = 6


@final
class Framing:
    """`length` bytes of body (None: chunked or until the end), and what becomes of the connection afterwards.

    `bodiless`: the body is empty whatever the head announces. `keepalive_s`: the upstream's own idle limit.
    """

    __slots__ = ("bodiless", "keep_alive", "keepalive_s", "length", "until_close")

    def __init__(
        self, length: int | None, *, bodiless: bool, until_close: bool, keep_alive: bool, keepalive_s: float | None
    ) -> None:
        self.length: Final = length
        self.bodiless: Final = bodiless
        self.until_close: Final = until_close
        self.keep_alive: Final = keep_alive
        self.keepalive_s: Final = keepalive_s


def read_framing(
    status: int, version: str, headers: Sequence[tuple[bytes, bytes]], *, head_only: bool
) -> Framing | str:
    """The framing of an answer; or, as a string, why it must be refused."""
    length: int | None = None
    chunked = False
    close = version != "1.1"
    keepalive_s: float | None = None
    for name, value in headers:
        if len(name) not in _INTERESTING_LENGTHS:
            continue
        lowered = name.lower()
        if lowered == b"content-length":
            digits = value.strip(b" \t")
            if length is not None or not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
                return "Content-Length is repeated or not a number"
            length = int(digits)
        elif lowered == b"transfer-encoding":
            if chunked or value.strip(b" \t").lower() != b"chunked":
                return "a Transfer-Encoding other than chunked"
            chunked = True
        elif lowered == b"connection":
            close = close or b"close" in [token.strip(b" \t") for token in value.lower().split(b",")]
        elif lowered == b"keep-alive":
            keepalive_s = _keepalive_hint_s(value)
            close = close or keepalive_s == 0
    if chunked and (length is not None or version != "1.1"):
        return "Transfer-Encoding beside Content-Length or in HTTP/1.0"
    if status < 200:
        return "an interim answer with a body" if chunked or length else _NO_BODY
    bodiless = head_only or status in {204, 304}
    if bodiless:
        close = close or (status == 204 and (chunked or bool(length)))
        return Framing(0, bodiless=True, until_close=False, keep_alive=not close, keepalive_s=keepalive_s)
    until_close = length is None and not chunked
    keep_alive = not (close or until_close)
    return Framing(length, bodiless=False, until_close=until_close, keep_alive=keep_alive, keepalive_s=keepalive_s)


_NO_BODY: Final = Framing(0, bodiless=True, until_close=False, keep_alive=True, keepalive_s=None)


def _keepalive_hint_s(value: bytes) -> float | None:
    """`timeout=5, max=100` -> 4.0: a second less than announced, for the way there. None: no usable hint."""
    for part in value.split(b","):
        name, _, number = part.strip(b" \t").partition(b"=")
        digits = number.strip(b' \t"')
        if name.lower() == b"timeout" and digits.isdigit() and len(digits) <= _MAX_HINT_DIGITS:
            return max(0.0, int(digits) - 1.0)
    return None
