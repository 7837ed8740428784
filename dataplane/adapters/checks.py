"""Checks that every dialect makes before it reads a body: what could make vendor and gateway see two requests."""

import re
from collections.abc import Collection
from typing import Final, final

from dataplane.adapters.forms import query_names
from dataplane.adapters.port import Call
from dataplane.adapters.scan import METHOD_OVERRIDES
from schemas.refusals import Refusal, refuse

_CONTENT_TYPE: Final = b"content-type"
_IDEMPOTENCY: Final = b"idempotency-key"
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_+-]{1,200}\Z")
_ONCE: Final = frozenset({_CONTENT_TYPE, _IDEMPOTENCY})


@final
class Peek:
    """The headers that matter to an adapter. `content_type`: without parameters, lower case. `account`: what an
    allowed account-switching headers said, joined by '+', "" without one.
    """

    __slots__ = ("account", "content_type", "idempotency")

    def __init__(self, content_type: bytes, idempotency: bytes, account: str) -> None:
        self.content_type: Final = content_type
        self.idempotency: Final = idempotency
        self.account: Final = account


def peek(call: Call, switches: frozenset[bytes], allowed: Collection[str]) -> Peek | Refusal:
    """Look at a call's headers, query and framing. `switches`: the vendor's account-switching headers."""
    special = call.seen.special
    account = ""
    for name, values in special.items():
        if name in METHOD_OVERRIDES:
            return refuse("method_override", f"the request has a {name.decode()} header")
        if len(values) > 1 and (name in _ONCE or name in switches):
            return refuse("request_malformed", f"the {name.decode()} header stands twice")
    if call.body and call.method in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        return refuse("request_malformed", f"a {call.method} request has a body, which the vendor might read")
    if call.query and "_method" in query_names(call.query):
        return refuse("method_override", "the query has a _method parameter")
    if not switches.isdisjoint(special):
        said = _account({name: values[0] for name, values in special.items() if name in switches}, allowed)
        if isinstance(said, Refusal):
            return said
        account = said
    content_type = call.seen.first(_CONTENT_TYPE).partition(b";")[0].strip().lower()
    return Peek(content_type, call.seen.first(_IDEMPOTENCY).strip(), account)


def _account(named: dict[bytes, bytes], allowed: Collection[str]) -> str | Refusal:
    for name in named:
        if name.decode() not in allowed:
            return refuse("account_switch", f"the request has a {name.decode()} header", header=name.decode())
    account = "+".join(value.decode("latin-1").strip() for value in named.values())
    if account and _ACCOUNT.match(account) is None:
        return refuse("account_switch", "the account's name is not plain letters, digits, '_' and '-'")
    return account


def require_content_type(got: bytes, wanted: bytes) -> Refusal | None:
    """A body in another form than the adapter reads would hide what it says."""
    if got == wanted:
        return None
    shown = got.decode("latin-1")[:64] or "absent"
    return refuse("body_unparseable", f"the Content-Type is {shown!r}, and only {wanted.decode()!r} can be read here")
