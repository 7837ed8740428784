"""Checks that every dialect makes before it reads a body: what could make vendor and gateway see two requests."""

import re
from collections.abc import Collection
from typing import NamedTuple

from dataplane.adapters.forms import query_names
from dataplane.adapters.headers import METHOD_OVERRIDES
from dataplane.adapters.port import Call
from schemas.refusals import Refusal, refuse

_CONTENT_TYPE = b"content-type"
_IDEMPOTENCY = b"idempotency-key"
_ACCOUNT = re.compile(r"[A-Za-z0-9_+-]{1,200}\Z")
_COMMON = METHOD_OVERRIDES | {_CONTENT_TYPE, _IDEMPOTENCY}


class Peek(NamedTuple):
    """The headers that matter to an adapter. `content_type`: without parameters, lower case. `account`: what an
    allowed account-switching headers said, joined by '+', "" without one.
    """

    content_type: bytes
    idempotency: bytes
    account: str


def peek(call: Call, switches: frozenset[bytes], allowed: Collection[str]) -> Peek | Refusal:
    """Look at a call's headers, query and framing. `switches`: the vendor's account-switching headers."""
    found: dict[bytes, bytes] = {}
    for raw, value in call.headers:
        name = raw.lower()
        if name not in _COMMON and name not in switches:
            continue
        if name in METHOD_OVERRIDES:
            return refuse("method_override", f"the request has a {name.decode()} header")
        if name in found:
            return refuse("request_malformed", f"the {name.decode()} header stands twice")
        found[name] = value
    if call.body and call.method in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        return refuse("request_malformed", f"a {call.method} request has a body, which the vendor might read")
    if call.query and "_method" in query_names(call.query):
        return refuse("method_override", "the query has a _method parameter")
    account = _account(found, switches, allowed)
    if isinstance(account, Refusal):
        return account
    content_type = found.get(_CONTENT_TYPE, b"").partition(b";")[0].strip().lower()
    return Peek(content_type, found.get(_IDEMPOTENCY, b"").strip(), account)


def _account(found: dict[bytes, bytes], switches: frozenset[bytes], allowed: Collection[str]) -> str | Refusal:
    named = [name for name in found if name in switches]
    for name in named:
        if name.decode() not in allowed:
            return refuse("account_switch", f"the request has a {name.decode()} header", header=name.decode())
    account = "+".join(found[name].decode("latin-1").strip() for name in named)
    if account and _ACCOUNT.match(account) is None:
        return refuse("account_switch", "the account's name is not plain letters, digits, '_' and '-'")
    return account


def require_content_type(got: bytes, wanted: bytes) -> Refusal | None:
    """A body in another form than the adapter reads would hide what it says."""
    if got == wanted:
        return None
    shown = got.decode("latin-1")[:64] or "absent"
    return refuse("body_unparseable", f"the Content-Type is {shown!r}, and only {wanted.decode()!r} can be read here")
