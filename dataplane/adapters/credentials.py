"""Every credential that a call carries, in whatever form some vendor's SDK sends it.

The same vault key works in all forms, so a client needs no change but its base URL and its key. Nothing found
here is ever forwarded (dataplane.adapters.scan, and `without_credentials` for the query).
"""

import binascii
from base64 import b64decode
from typing import Final
from urllib.parse import unquote_plus

from dataplane.adapters.port import Call
from dataplane.adapters.scan import CREDENTIALS

QUERY_NAMES: Final = frozenset({"key", "api_key", "apikey", "api-key", "access_token", "auth_token"})
"""Query parameters in which REST clients of some vendors send a key (Gemini: `?key=`)."""

_HEADERS: Final = frozenset(CREDENTIALS)

MAX_TOKENS: Final = 8
"""More credentials than any client has reason to send; each costs a digest."""

MAX_TOKEN_CHARS: Final = 1_024
"""Above every vendor's keys and our own 47 characters; longer ones are no keys."""


def find_tokens(call: Call) -> list[str]:
    """Distinct credentials, `Authorization` first, then vendors' own headers, then the query."""
    special = call.seen.special
    found: list[str] = []
    # Few headers are special, so they are looked through; more than one credential is rare.
    sent = [name for name in special if name in _HEADERS]
    if len(sent) > 1:
        sent.sort(key=CREDENTIALS.index)
    for name in sent:
        for value in special[name]:
            text = value.decode("latin-1").strip()
            if name == b"authorization":
                found += _authorization(text)
            else:
                found.append(text)
    if call.query:
        found += _query_tokens(call.query)
    tokens = [token for token in found if 0 < len(token) <= MAX_TOKEN_CHARS]
    return tokens if len(tokens) < 2 else list(dict.fromkeys(tokens))[:MAX_TOKENS]


def without_credentials(query: bytes) -> bytes:
    """The query string without parameters that carry a key; every other byte as it came."""
    if not query or (b"key" not in query and b"token" not in query and b"%" not in query):
        return query
    return b"&".join(piece for piece in query.split(b"&") if _name(piece) not in QUERY_NAMES)


def _authorization(text: str) -> tuple[str, ...]:
    scheme, space, rest = text.partition(" ")
    rest = rest.strip()
    if not space:
        return (text,)
    if scheme.lower() == "basic":
        return _basic(rest)
    return (rest,)


def _basic(encoded: str) -> tuple[str, ...]:
    """User and password of Basic credentials; Stripe's key stands in the first, Twilio's in the second."""
    try:
        user, _, password = b64decode(encoded, validate=True).decode("latin-1").partition(":")
    except (binascii.Error, ValueError):
        return ()
    return (user, password)


def _query_tokens(query: bytes) -> list[str]:
    return [
        unquote_plus(piece.partition(b"=")[2].decode("latin-1"))
        for piece in query.split(b"&")
        if _name(piece) in QUERY_NAMES
    ]


def _name(piece: bytes) -> str:
    return unquote_plus(piece.partition(b"=")[0].decode("latin-1")).lower()
