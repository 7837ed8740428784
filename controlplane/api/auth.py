"""Who asks: operator tokens, and a limit on failed tries.

A token is 256 random bits and is looked up by its SHA-256, so no comparison leaks by its time what a guess got
right, and guessing is hopeless at any rate. The limit on failures keeps a broken script from filling the log;
a live token passes whatever failed before it from the same address: on one machine all share one address, and behind
a proxy all have the proxy's. (Nothing here trusts X-Forwarded-For: anybody can write it.)
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.state.operators import Operator
from schemas.ids import OPERATOR_TOKEN_PREFIX, TOKEN_PREFIX, token_sha256

MAX_TOKEN_CHARS = 256
"""Longer is no token of ours; it is not worth hashing."""


def authenticate(header: str | None, state: ControlState, now_ns: int) -> Operator | CommandRefusal:
    """The operator of an `Authorization` header. A refusal never repeats what was sent."""
    if not header:
        return refuse("unauthorized", "an operator token is required")
    scheme, _, token = header.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        return refuse("unauthorized", "the Authorization header is not of the form Bearer <operator token>")
    if token.startswith(TOKEN_PREFIX):
        return refuse("unauthorized", "this is a vault key, which is for the data plane; use an operator token")
    if not token.startswith(OPERATOR_TOKEN_PREFIX) or len(token) > MAX_TOKEN_CHARS:
        return refuse("unauthorized", "this is no operator token")
    digest = token_sha256(token)
    operator = state.operators.get(state.operator_tokens.get(digest, ""))
    if operator is None:
        return refuse("unauthorized", "this operator token is not known")
    if not operator.admits(digest, now_ns):
        return refuse("unauthorized", f"this operator token {_why_dead(operator, digest)}")
    return operator


def _why_dead(operator: Operator, digest: str) -> str:
    if operator.revoked:
        return "is revoked"
    return "has expired" if digest == operator.token_sha256 else "was rotated, and its overlap is over"


@dataclass(slots=True)
class _Tries:
    failed: int
    since_ns: int


class FailedTries:
    """Failed tries per address in a window of time. Times are of an elapsed clock, in nanoseconds."""

    ALLOWED = 20
    """In a window: a person who mistypes stays below it."""
    WINDOW_NS = 60_000_000_000
    ADDRESSES = 10_000
    """Addresses remembered, about 2 MB; the one that failed longest ago is forgotten first."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, _Tries] = OrderedDict()
        self.total = 0
        self.limited = 0
        """Failures, and those answered with 429, for metrics."""

    def over(self, now_ns: int) -> Mapping[str, int]:
        """Addresses above their allowance now, and how often each has failed in its window."""
        return {
            address: tries.failed
            for address, tries in self._tries.items()
            if tries.failed > self.ALLOWED and now_ns - tries.since_ns < self.WINDOW_NS
        }

    def failed(self, address: str, now_ns: int) -> int:
        """Note a failure. Returns 0, or after how many seconds the next one is answered normally again."""
        address = network_of(address)
        self.total += 1
        tries = self._tries.get(address)
        if tries is None or now_ns - tries.since_ns >= self.WINDOW_NS:
            tries = self._tries[address] = _Tries(0, now_ns)
        self._tries.move_to_end(address)
        if len(self._tries) > self.ADDRESSES:
            self._tries.popitem(last=False)
        tries.failed += 1
        if tries.failed <= self.ALLOWED:
            return 0
        self.limited += 1
        return max(1, -(-(tries.since_ns + self.WINDOW_NS - now_ns) // 1_000_000_000))


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, of which one host may use any."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
