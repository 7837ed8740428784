"""What the control plane's HTTP API takes in bodies. Its queries are in schemas.queries.

Unknown fields are refused everywhere. In a PATCH a field left out stays as it is (UNSET) and `null` removes;
elsewhere `null` is the same as leaving out. Lengths are bounded so that one record always fits in an event.
What a field must mean beyond its type is decided by the command that takes it (controlplane.commands).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.ids import NAME_RULE

MAX_LIST = 100
"""Entries of a key's lists: its record is sent to every node and matched on every request."""
MAX_METADATA = 32


class Usd:
    """Dollars as nano-dollars, read exactly from a JSON number's own digits or a decimal string."""

    __slots__ = ("nanos",)

    def __init__(self, nanos: int) -> None:
        self.nanos = nanos

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usd) and other.nanos == self.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def __repr__(self) -> str:
        return f"Usd({self.nanos})"


class Span:
    """A duration in seconds, from a number of seconds or text such as "10m"."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span) and other.seconds == self.seconds

    def __hash__(self) -> int:
        return hash(self.seconds)

    def __repr__(self) -> str:
        return f"Span({self.seconds})"


Name = Annotated[str, Meta(min_length=1, max_length=128, description=NAME_RULE)]
Label = Annotated[str, Meta(min_length=1, max_length=128, description="printable text")]
Text = Annotated[str, Meta(max_length=128)]
Reason = Annotated[str, Meta(max_length=256, description="kept with the change in the audit")]
Count = Annotated[int, Meta(ge=1, le=10**15)]
PerMinute = Annotated[int, Meta(ge=1, le=10**9)]
Patterns = Annotated[list[str], Meta(min_length=1, max_length=MAX_LIST)]
Names = Annotated[list[Name], Meta(min_length=1, max_length=MAX_LIST)]
Metadata = Annotated[dict[str, str], Meta(max_length=MAX_METADATA)]
OnExhausted = Literal["refuse", "suspend"]
Role = Literal["admin", "issuer", "auditor", "viewer"]


class Body(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of all bodies and queries."""


class CapFields(Body, frozen=True):
    """The caps of an account; schemas.caps says what each means."""

    per_request_usd_cap: Usd | None = None
    hourly_usd_cap: Usd | None = None
    daily_usd_cap: Usd | None = None
    monthly_usd_cap: Usd | None = None
    total_usd_cap: Usd | None = None
    refund_daily_usd_cap: Usd | None = None
    hourly_request_cap: Count | None = None
    daily_request_cap: Count | None = None
    daily_token_cap: Count | None = None


class KeyIssue(CapFields, frozen=True):
    """A new vault key. A cap in dollars or `uncapped: true` is required."""

    label: Label | None = None
    agent: Name | None = None
    identity: Literal["bound", "declared"] | None = None
    allow_unknown_agents: bool | None = None
    vendor: Name | None = None
    upstreams: Names | None = None
    allowed_endpoints: Patterns | None = None
    uncapped: bool | None = None
    max_uses: Count | None = None
    on_exhausted: OnExhausted | None = None
    rate_limit_rpm: PerMinute | None = None
    rate_limit_tpm: PerMinute | None = None
    models: Names | None = None
    expires_in: Span | None = None
    metadata: Metadata | None = None
    reason: Reason | None = None


class KeyPatch(Body, frozen=True):
    """Changes of a key. `expires_in` counts from now. Agent and identity never change: issue another key."""

    label: Label | UnsetType | None = UNSET
    vendor: Name | UnsetType | None = UNSET
    upstreams: Names | UnsetType | None = UNSET
    allowed_endpoints: Patterns | UnsetType | None = UNSET
    per_request_usd_cap: Usd | UnsetType | None = UNSET
    hourly_usd_cap: Usd | UnsetType | None = UNSET
    daily_usd_cap: Usd | UnsetType | None = UNSET
    monthly_usd_cap: Usd | UnsetType | None = UNSET
    total_usd_cap: Usd | UnsetType | None = UNSET
    refund_daily_usd_cap: Usd | UnsetType | None = UNSET
    hourly_request_cap: Count | UnsetType | None = UNSET
    daily_request_cap: Count | UnsetType | None = UNSET
    daily_token_cap: Count | UnsetType | None = UNSET
    max_uses: Count | UnsetType | None = UNSET
    uncapped: bool | UnsetType = UNSET
    on_exhausted: OnExhausted | UnsetType = UNSET
    rate_limit_rpm: PerMinute | UnsetType | None = UNSET
    rate_limit_tpm: PerMinute | UnsetType | None = UNSET
    models: Names | UnsetType | None = UNSET
    expires_in: Span | UnsetType = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    reason: Reason | None = None


class RevokeMany(Body, frozen=True):
    """Exactly one selector. `upstream` selects every key that may reach it, also those that may reach any."""

    agent: Name | None = None
    team: Name | None = None
    run: Text | None = None
    label: Label | None = None
    upstream: Name | None = None
    dry_run: bool = False
    reason: Reason | None = None


class Reasoned(Body, frozen=True):
    """A body that may only say why."""

    reason: Reason | None = None


class AgentLimits(Body, frozen=True):
    rate_limit_rpm: PerMinute | None = None
    rate_limit_tpm: PerMinute | None = None


class AgentPut(Body, frozen=True):
    """An agent, whole. Its caps are a budget of their own: PUT /v1/budgets/agent/{name}."""

    owner: Name | None = None
    purpose: Text | None = None
    cost_center: Text | None = None
    limits: AgentLimits | None = None
    roles: Annotated[list[Name], Meta(max_length=MAX_LIST)] | None = None
    on_exhausted: OnExhausted | None = None
    metadata: Metadata | None = None
    reason: Reason | None = None


class AgentLimitsPatch(Body, frozen=True):
    rate_limit_rpm: PerMinute | UnsetType | None = UNSET
    rate_limit_tpm: PerMinute | UnsetType | None = UNSET


class AgentPatch(Body, frozen=True):
    owner: Name | UnsetType | None = UNSET
    purpose: Text | UnsetType | None = UNSET
    cost_center: Text | UnsetType | None = UNSET
    limits: AgentLimitsPatch | UnsetType | None = UNSET
    roles: Annotated[list[Name], Meta(max_length=MAX_LIST)] | UnsetType | None = UNSET
    on_exhausted: OnExhausted | UnsetType = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    reason: Reason | None = None


class BudgetPut(CapFields, frozen=True):
    """All caps of an account: those left out are removed. Its windows turn in `time_zone` (an IANA name)."""

    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    reason: Reason | None = None


class OperatorIssue(Body, frozen=True):
    """A new operator token. Without `expires_in` it lasts until it is revoked."""

    name: Name
    role: Role
    expires_in: Span | None = None
    reason: Reason | None = None


class OperatorRotate(Body, frozen=True):
    """Another token for the same operator. The one before goes on for `overlap` (24h), but not beyond its own expiry.
    Without `expires_in` the new one lasts as long as the old one was to last.
    """

    overlap: Span | None = None
    expires_in: Span | None = None
    reason: Reason | None = None


class Reconcile(Body, frozen=True):
    """What a request of unknown outcome did cost, by the vendor's own books."""

    actual_usd: Usd
    reason: Annotated[str, Meta(min_length=1, max_length=256)]
