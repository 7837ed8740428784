"""Which headers pass the gateway, in both directions.

Outwards everything passes but: what is between two neighbours only (hop-by-hop, framing, and whatever
`Connection` names), every form of credential of every vendor, what would tell the vendor of our network, and
what is meant for the gateway itself. So a credential in an unusual header never reaches a vendor beside the one
that the gateway puts in. Back to the client everything passes but framing, cookies and the vendor's account.
"""

from typing import Final

from dataplane.adapters.port import Headers
from dataplane.adapters.scan import HOP_BY_HOP, IDENTITY, Header, Seen

_DROPPED_BACK: Final = HOP_BY_HOP | {
    b"content-length",
    b"set-cookie",
    b"set-cookie2",
    b"www-authenticate",
    b"alt-svc",  # would lead a client past the gateway
    b"openai-organization",
    b"openai-project",
    b"stripe-account",
    b"stripe-context",
}
_KEPT: Final = 0
_GONE: Final = 1
_NAMES_OTHERS: Final = 2
_OPTIONS: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})
"""Connection headers as nearly all are: they name no other header."""
_NO_COMPRESSION: Final = (b"Accept-Encoding", b"identity")

MAX_SPELLINGS: Final = 1_024
"""Spellings of vendors' header names kept: every vendor uses some tens."""


def outgoing(seen: Seen, credential: Header, *, identity: bool) -> list[Header]:
    """The request headers for the vendor, with exactly one credential; Host and framing are the sender's."""
    kept = seen.passing.copy()
    special = seen.special
    if b"connection" in special:
        kept = _without_named(kept, special[b"connection"])
    if identity and IDENTITY in special:
        kept.extend((b"X-Agent-Identity", said) for said in special[IDENTITY])
    kept.append(_NO_COMPRESSION)
    if credential[1]:
        kept.append(credential)
    return kept


def relayed(headers: Headers) -> list[Header]:
    """The answer headers for the client; framing is the relay's."""
    kept: list[Header] = []
    named: list[bytes] = []
    for pair in headers:
        fate = _known.get(pair[0])
        if fate is None:
            fate = _learn(pair[0])
        if fate == _KEPT:
            kept.append(pair)
        elif fate == _NAMES_OTHERS:
            named.append(pair[1])
    return _without_named(kept, named) if named else kept


_known: Final[dict[bytes, int]] = {}
"""What becomes of a vendor's header, by its spelling."""


def _learn(name: bytes) -> int:
    if len(_known) >= MAX_SPELLINGS:
        _known.clear()
    fate = _known[name] = _fate_back(name)
    return fate


def _fate_back(name: bytes) -> int:
    """(The upstream client bounds the length of names.)"""
    lower = name.lower()
    if lower == b"connection":
        return _NAMES_OTHERS
    return _GONE if lower in _DROPPED_BACK or lower.startswith(b"x-ringfence-") else _KEPT


def _without_named(kept: list[Header], connection: list[bytes]) -> list[Header]:
    """Without the headers that a Connection header names; its usual values are options and name none."""
    if _OPTIONS.issuperset(connection):
        return kept
    named = {token.strip().lower() for value in connection for token in value.split(b",")} - {
        b"close",
        b"keep-alive",
        b"",
    }
    return [pair for pair in kept if pair[0].lower() not in named] if named else kept
