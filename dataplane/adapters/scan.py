"""One pass over a request's headers: what goes on, what is dropped, and what somebody must look at.

Names come in few spellings, so what a spelling means is looked up, not worked out anew for every request. The special
headers (credentials, the body's type, whatever changes the meaning of a message) are kept by lower-case name for the
steps that judge them; everything else either passes as it came or is dropped.
"""

from collections.abc import Sequence
from typing import Final

from schemas.ids import TOKEN_PREFIX

Header = tuple[bytes, bytes]

CREDENTIALS: Final = (
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"x-goog-api-key",
    b"x-shopify-access-token",
    b"x-postmark-server-token",
    b"x-postmark-account-token",
    b"x-auth-token",
    b"x-access-token",
)
"""Headers in which some vendor's SDK sends its credential, the usual one first."""

METHOD_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})

SWITCHES: Final = frozenset({b"stripe-account", b"stripe-context", b"openai-organization", b"openai-project"})
"""Headers with which vendors' clients act for another account than the credential's own."""

IDENTITY: Final = b"x-agent-identity"

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_DROPPED: Final = (
    HOP_BY_HOP
    | frozenset(CREDENTIALS)
    | METHOD_OVERRIDES
    | {
        IDENTITY,  # for some upstreams it is put back
        b"host",
        b"content-length",
        b"expect",
        b"accept-encoding",  # the gateway reads the answer, so it asks for no compression
        b"cookie",
        b"cookie2",
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
    }
)
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-ringfence-")

_SPECIAL: Final = (
    frozenset(CREDENTIALS)
    | METHOD_OVERRIDES
    | SWITCHES
    | {
        IDENTITY,
        b"connection",
        b"content-encoding",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        b"transfer-encoding",
        b"upgrade",
    }
)

_TOKEN: Final = TOKEN_PREFIX.encode("ascii")

MAX_SPELLINGS: Final = 4_096
"""Spellings kept, of names up to MAX_KEPT_BYTES: half a megabyte. A caller chooses them, so there is a bound."""
MAX_KEPT_BYTES: Final = 64


class _Kind:
    """What one spelling of a name means. `special`: its lower-case name if somebody must look at it, else b""."""

    __slots__ = ("passes", "special")

    def __init__(self, special: bytes, *, passes: bool) -> None:
        self.special = special
        self.passes = passes


_PLAIN: Final = _Kind(b"", passes=True)
_GONE: Final = _Kind(b"", passes=False)


class Seen:
    """A request's headers, looked through. `passing`: what may go on to a vendor, in order. `special`: the values of
    each special header by lower-case name, in order.
    """

    __slots__ = ("passing", "special")

    def __init__(self, passing: list[Header], special: dict[bytes, list[bytes]]) -> None:
        self.passing = passing
        self.special = special

    def first(self, name: bytes) -> bytes:
        """The first value of a special header, b"" without one."""
        values = self.special.get(name)
        return values[0] if values is not None else b""


def scan(headers: Sequence[Header]) -> Seen:
    """Look through a request's headers once. What holds a vault key never passes."""
    passing: list[Header] = []
    special: dict[bytes, list[bytes]] = {}
    for pair in headers:
        spelling = pair[0]
        kind = _known.get(spelling)
        if kind is None:
            kind = _learn(spelling)
        if kind.passes and pair[1].find(_TOKEN) < 0:
            passing.append(pair)
        name = kind.special
        if name:
            if name in special:
                special[name].append(pair[1])
            else:
                special[name] = [pair[1]]
    return Seen(passing, special)


def _kind(spelling: bytes) -> _Kind:
    lower = spelling.lower()
    passes = lower not in _DROPPED and not lower.startswith(_DROPPED_PREFIXES)
    special = lower if lower in _SPECIAL else b""
    if not special:
        return _PLAIN if passes else _GONE
    return _Kind(special, passes=passes)


_known: Final[dict[bytes, _Kind]] = {}


def _learn(spelling: bytes) -> _Kind:
    kind = _kind(spelling)
    if len(spelling) <= MAX_KEPT_BYTES:
        if len(_known) >= MAX_SPELLINGS:
            _known.clear()
        _known[spelling] = kind
    return kind
