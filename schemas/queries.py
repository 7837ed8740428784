"""What the control plane's HTTP API takes in its query strings. Unknown parameters are refused.

Left out is UNSET, never None: a reader of query strings would take the text "null" for None.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.answers import NodeState
from schemas.api import Body, Label, Name, Reason, Text

MAX_LIMIT = 1000
"""Rows of one page: about a megabyte of JSON at most."""
DEFAULT_LIMIT = 100

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str, Meta(max_length=512)]
Format = Literal["json", "csv"]
Instant = Annotated[str, Meta(max_length=64, description='RFC 3339, or "24h" for that long ago')]
Outcome = Literal["open", "settled", "released", "unknown", "refused"]
Group = Literal["agent", "team", "purpose", "cost_center", "key", "run", "user", "feature", "upstream", "model", "day"]


class NoQuery(Body, frozen=True):
    """No parameters."""


class ReasonQuery(Body, frozen=True):
    reason: Reason = ""


class Paged(Body, frozen=True):
    """`cursor`: the `next_cursor` of the page before."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = ""


class KeysQuery(Paged, frozen=True):
    agent: Name | UnsetType = UNSET
    state: Literal["active", "suspended", "revoked", "expired", "spent"] | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    run: Text | UnsetType = UNSET


class AgentsQuery(Paged, frozen=True):
    team: Name | UnsetType = UNSET
    state: Literal["active", "suspended"] | UnsetType = UNSET


class BudgetsQuery(Paged, frozen=True):
    kind: Literal["agent", "team", "org"] | UnsetType = UNSET


class NodesQuery(Paged, frozen=True):
    state: NodeState | UnsetType = UNSET


class RequestsQuery(Paged, frozen=True):
    """`from` is inclusive, `to` exclusive."""

    agent: Text = ""
    team: Text = ""
    purpose: Text = ""
    key: Text = ""
    run: Text = ""
    user: Text = ""
    upstream: Text = ""
    model: Text = ""
    status: Annotated[int, Meta(ge=0, le=599)] | UnsetType = UNSET
    outcome: Outcome | UnsetType = UNSET
    refusal: Text = ""
    from_: Instant = msgspec.field(name="from", default="")
    to: Instant = ""
    format: Format = "json"


class ReportQuery(Paged, frozen=True):
    """`from` is inclusive, `to` exclusive."""

    group_by: Group = "agent"
    agent: Text = ""
    team: Text = ""
    purpose: Text = ""
    key: Text = ""
    run: Text = ""
    user: Text = ""
    upstream: Text = ""
    model: Text = ""
    from_: Instant = msgspec.field(name="from", default="")
    to: Instant = ""
    limit: Limit = MAX_LIMIT
    format: Format = "json"


class AlertsQuery(Paged, frozen=True):
    """Of alerts raised from `from` (inclusive) to `to` (exclusive)."""

    state: Literal["open", "cleared"] | UnsetType = UNSET
    kind: Text = ""
    from_: Instant = msgspec.field(name="from", default="")
    to: Instant = ""


class ReadyQuery(Body, frozen=True):
    view: Literal["json", "text"] = "json"


class ChangesQuery(Paged, frozen=True):
    agent: Text = ""
    key: Text = ""
    from_: Instant = msgspec.field(name="from", default="")
    to: Instant = ""
    format: Format = "json"
