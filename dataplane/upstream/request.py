"""The head of a request as bytes, or a refusal before anything is sent. Pure.

The headers come from an agent by way of the proxy, so they are checked as hostile input: one line break too many and
the agent would write a second request, under the vendor's real credential, that no policy has seen. The check is
one pass over the joined block: once every byte that a value may hold is taken away, exactly the line ends that
were put in must be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from dataplane.upstream.errors import RequestInvalid

Header = tuple[bytes, bytes]

RESERVED_HEADERS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Names (lower case) that the client writes itself or that only concern one connection; `send` refuses them."""

# RFC 9110, 5.6.2: the characters of a token, so of a field name and of a method.
_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# RFC 9110, 5.5: visible ASCII, blank, tab and the opaque upper half. No CR, LF, NUL or other control.
_VALUE_BYTES: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
# Any visible ASCII except the fragment mark, which never goes on the wire.
_TARGET_BYTES: Final = bytes(sorted(set(range(0x21, 0x7F)) - {ord("#")}))
MAX_SPELLINGS: Final = 1_024
MAX_KEPT_BYTES: Final = 64
"""Spellings of header names, and targets, kept, and how long they may be."""

_METHODS_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})
_USUAL_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@final
class Request:
    """One request, ready for the wire: the encoded head, the body, and what reading the answer needs to know."""

    __slots__ = ("body", "head", "head_only")

    def __init__(self, head: bytes, body: bytes, *, head_only: bool) -> None:
        self.head: Final = head
        self.body: Final = body
        self.head_only: Final = head_only


def encode_request(method: str, authority: bytes, target: bytes, headers: Sequence[Header], body: bytes) -> Request:
    """Encode a request, or raise RequestInvalid (nothing is echoed: a value may be a credential)."""
    if method not in _USUAL_METHODS:
        _check_method(method)
    if target not in _known_targets:
        _check_target(target)
    if not _known_names.issuperset([header[0] for header in headers]):
        _check_names(headers)
    lines = b"\r\n".join([b": ".join(header) for header in headers])
    if lines.translate(None, _VALUE_BYTES) != b"\r\n" * (len(headers) - 1):
        raise RequestInvalid("a header value holds a line break or another control character", sent=False)
    length = b"Content-Length: %d\r\n" % len(body) if body or method in _METHODS_WITH_LENGTH else b""
    start = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode("ascii"), target, authority)
    head = b"%b%b\r\n%b\r\n" % (start, lines, length) if headers else b"%b%b\r\n" % (start, length)
    return Request(head, body, head_only=method == "HEAD")


_known_names: Final[set[bytes]] = set()
"""Spellings that were checked and may be sent. Clients use few; a caller who invents many empties it now and then."""


_known_targets: Final[set[bytes]] = set()
"""Targets that were checked: most calls go to the same few. Kept as the names are."""


def _check_target(target: bytes) -> None:
    if target[:1] != b"/" or target.translate(None, _TARGET_BYTES):
        raise RequestInvalid("the target is a path of visible ASCII that begins with /", sent=False)
    if len(target) <= MAX_KEPT_BYTES:
        if len(_known_targets) >= MAX_SPELLINGS:
            _known_targets.clear()
        _known_targets.add(target)


def _check_names(headers: Sequence[Header]) -> None:
    for name, _ in headers:
        wrong = _wrong_name(name)
        if wrong:
            raise RequestInvalid(wrong, sent=False)
        if len(name) <= MAX_KEPT_BYTES:
            if len(_known_names) >= MAX_SPELLINGS:
                _known_names.clear()
            _known_names.add(name)


def _wrong_name(name: bytes) -> str:
    """Why a header must not be sent, "" if it may."""
    if not name or name.translate(None, _TOKEN_BYTES):
        return "a header name is empty or holds a character that names must not hold"
    if name.lower() in RESERVED_HEADERS:
        return "a header of the connection or of the framing is the client's to write"
    return ""


def _check_method(method: str) -> None:
    if not method or not method.isascii() or method.encode("ascii").translate(None, _TOKEN_BYTES):
        raise RequestInvalid("the method is not a token", sent=False)
    if method.upper() == "CONNECT":
        raise RequestInvalid("CONNECT would open a tunnel that nothing could meter", sent=False)
