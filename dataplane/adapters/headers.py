"""Which headers pass the gateway, in both directions.

Outwards everything passes but: what is between two neighbours only (hop-by-hop, framing, and whatever
`Connection` names), every form of credential of every vendor, what would tell the vendor of our network, and
what is meant for the gateway itself. So a credential in an unusual header never reaches a vendor beside the one
that the gateway puts in. Back to the client everything passes but framing, cookies and the vendor's account.
"""

from dataplane.adapters.port import Headers
from schemas.ids import TOKEN_PREFIX

HOP_BY_HOP = frozenset(
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

CREDENTIALS = (
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

METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})

IDENTITY = b"x-agent-identity"

_DROPPED_OUT = (
    HOP_BY_HOP
    | frozenset(CREDENTIALS)
    | METHOD_OVERRIDES
    | {
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
_DROPPED_OUT_PREFIXES = (b"x-forwarded-", b"x-ringfence-")

_DROPPED_BACK = HOP_BY_HOP | {
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
_TOKEN = TOKEN_PREFIX.encode()


def outgoing(headers: Headers, credential: tuple[bytes, bytes], *, identity: bool) -> list[tuple[bytes, bytes]]:
    """The request headers for the vendor, with exactly one credential; Host and framing are the sender's."""
    kept = []
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        lower = name.lower()
        if lower in _DROPPED_OUT or lower.startswith(_DROPPED_OUT_PREFIXES) or _TOKEN in value:
            if lower == b"connection":
                named |= _tokens(value)
        elif lower != IDENTITY or identity:
            kept.append((name, value))
    if named:
        kept = [(name, value) for name, value in kept if name.lower() not in named]
    kept.append((b"Accept-Encoding", b"identity"))
    if credential[1]:
        kept.append(credential)
    return kept


def relayed(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The answer headers for the client; framing is the relay's."""
    kept = []
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        lower = name.lower()
        if lower == b"connection":
            named |= _tokens(value)
        elif lower not in _DROPPED_BACK and not lower.startswith(b"x-ringfence-"):
            kept.append((name, value))
    if named:
        kept = [(name, value) for name, value in kept if name.lower() not in named]
    return kept


def _tokens(value: bytes) -> frozenset[bytes]:
    """Headers named by a Connection header; its usual values are options and name none."""
    return frozenset(token.strip().lower() for token in value.split(b",")) - {b"close", b"keep-alive", b""}
