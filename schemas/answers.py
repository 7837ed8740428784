"""What the control plane's HTTP API gives back. Money as decimal strings, times as RFC 3339, absent as null."""

from typing import Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")

NodeState = Literal["live", "silent", "fenced", "stopped"]


class ListAnswer(msgspec.Struct, Generic[T], frozen=True):
    """Newest first. `next_cursor` null: nothing follows."""

    data: list[T]
    next_cursor: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """`param`: the field or parameter at fault, or null. `remedy`: what to do instead."""

    code: str
    message: str
    param: str | None = None
    remedy: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


class FigureView(msgspec.Struct, frozen=True):
    """One account's window: dollars as decimal strings, counts as integers.

    `held`: bounds of requests in flight or of unknown outcome. `cap` and `remaining` null: no cap.
    `resets_at` null: the window never turns.
    """

    cap: str | int | None
    settled: str | int
    held: str | int
    remaining: str | int | None
    resets_at: str | None


class CapsView(msgspec.Struct, frozen=True, kw_only=True):
    """null: no cap."""

    per_request_usd_cap: str | None = None
    hourly_usd_cap: str | None = None
    daily_usd_cap: str | None = None
    monthly_usd_cap: str | None = None
    total_usd_cap: str | None = None
    refund_daily_usd_cap: str | None = None
    hourly_request_cap: int | None = None
    daily_request_cap: int | None = None
    daily_token_cap: int | None = None


class PolicyView(CapsView, frozen=True, kw_only=True):
    """What a key may do. `upstreams`, `allowed_endpoints`, `models` null: any."""

    identity: Literal["bound", "declared"]
    allow_unknown_agents: bool
    upstreams: list[str] | None
    allowed_endpoints: list[str] | None
    models: list[str] | None
    uncapped: bool
    max_uses: int | None = None
    on_exhausted: Literal["refuse", "suspend"]
    rate_limit_rpm: int | None
    rate_limit_tpm: int | None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A vault key. `spend` has its dollars by window, `counts` what else is capped, by the cap's name."""

    id: str
    label: str | None
    agent: str | None
    state: Literal["active", "suspended", "revoked", "expired", "spent"]
    issued_at: str
    expires_at: str
    issued_by: str
    changed_by: str
    upstreams: list[str] | None
    metadata: dict[str, str]
    policy: PolicyView
    spend: dict[str, FigureView]
    counts: dict[str, FigureView]


class KeyIssuedAnswer(KeyView, frozen=True, kw_only=True):
    """The only answer that holds the token; `vault_key` is the same."""

    token: str
    vault_key: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"KeyIssuedAnswer({self.id!r})"


class RevokedAnswer(msgspec.Struct, frozen=True):
    """How many keys were revoked now (`dry_run`: would be)."""

    revoked: int
    dry_run: bool = False


class AgentLimitsView(msgspec.Struct, frozen=True):
    rate_limit_rpm: int | None
    rate_limit_tpm: int | None


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent; its caps and figures are those of its budget."""

    name: str
    state: Literal["active", "suspended"]
    owner: str | None
    purpose: str | None
    cost_center: str | None
    limits: AgentLimitsView
    roles: list[str]
    on_exhausted: Literal["refuse", "suspend"]
    metadata: dict[str, str]
    registered_at: str | None
    changed_by: str
    spend: dict[str, FigureView]
    counts: dict[str, FigureView]


class TeamView(msgspec.Struct, frozen=True, kw_only=True):
    """A team: the owner of agents, or of a budget."""

    name: str
    agents: int
    spend: dict[str, FigureView]
    counts: dict[str, FigureView]


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["agent", "team", "org"]
    id: str
    time_zone: str
    caps: CapsView
    spend: dict[str, FigureView]
    counts: dict[str, FigureView]


class OperatorView(msgspec.Struct, frozen=True, kw_only=True):
    """`old_token_ends_at`: the last one of its earlier tokens works until then; null: none does."""

    id: str
    name: str
    role: Literal["admin", "issuer", "auditor", "viewer"]
    state: Literal["active", "revoked", "expired"]
    issued_at: str
    expires_at: str | None
    issued_by: str
    rotated_at: str | None = None
    old_token_ends_at: str | None = None


class OperatorIssuedAnswer(OperatorView, frozen=True, kw_only=True):
    """The only answer that holds the token."""

    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"OperatorIssuedAnswer({self.id!r})"


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation. `applied`: the control log sequence that it acts on, of `head`."""

    slot: str
    incarnation: str
    state: NodeState
    joined_at: str
    applied: int | None
    head: int
    silent_ms: int | None
    pid: int
    version: str
    fence_reason: str | None


class ReconciledAnswer(msgspec.Struct, frozen=True):
    request_id: str
    actual_usd: str


class HealthAnswer(msgspec.Struct, frozen=True):
    """The process answers; nothing else is claimed."""

    status: Literal["ok"]


class ReasonView(msgspec.Struct, frozen=True):
    """What is wrong and what to do. `warning`: it does not make the process unready by itself."""

    code: str
    message: str
    remedy: str
    warning: bool = False


class ReadyAnswer(msgspec.Struct, frozen=True):
    """`role`: a control plane's (`leader`, `standby`)."""

    ready: bool
    reasons: list[ReasonView]
    role: str | None = None


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """`subject`: what it is about (a slot, a stream, `kind:id:meter:window` of a cap, ...); empty: the gateway."""

    id: str
    kind: str
    subject: str
    severity: Literal["warning", "critical"]
    state: Literal["open", "cleared"]
    message: str
    remedy: str
    details: dict[str, str]
    raised_at: str
    cleared_at: str | None
    cleared_message: str | None
