"""What the HTTP API needs from the rest of the control plane: the leader, the audit, the nodes' liveness."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec

from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from events.state.control import ControlState
from events.types import By

T = TypeVar("T")

Cell = str | int | float | None
Row = Mapping[str, Cell]
"""One row of the audit by column name: money as decimal strings, times as RFC 3339, counts as integers, durations in
milliseconds."""

GROUPS = ("agent", "team", "purpose", "cost_center", "key", "run", "user", "feature", "upstream", "model", "day")
"""What `spend` and `requests` group by; the rows hold the group in a column of that name."""

FIGURE_COLUMNS = (
    "admitted", "settled", "released", "refused", "unknown",
    "settled_usd", "held_usd", "input_tokens", "output_tokens",
)  # fmt: skip

REQUEST_COLUMNS = (
    "request_id", "at", "agent", "owner", "purpose", "key", "label", "run", "user", "upstream", "method", "path",
    "model", "status", "outcome", "refusal", "bound_usd", "actual_usd", "overrun_usd", "input_tokens",
    "output_tokens", "latency_ms", "overhead_ms",
)  # fmt: skip

CHANGE_COLUMNS = ("at", "seq", "event", "subject", "operator", "operator_name", "address", "reason", "details")
"""`subject`: what changed (`key:vk_...`, `agent:billing-bot`, ...); `details`: the event as JSON, without digests."""


class Filters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which requests. Empty strings and None mean: any. `from_ns` is inclusive, `to_ns` exclusive (Unix ns)."""

    agent: str = ""
    team: str = ""
    purpose: str = ""
    key: str = ""
    run: str = ""
    user: str = ""
    upstream: str = ""
    model: str = ""
    status: int | None = None
    outcome: str = ""
    refusal: str = ""
    from_ns: int | None = None
    to_ns: int | None = None


class Page(msgspec.Struct, frozen=True):
    """`next_cursor` None: nothing follows."""

    rows: Sequence[Row]
    next_cursor: str | None = None


ReportName = Literal["spend", "requests", "changes"]


class AuditUnavailable(Exception):
    """The audit store does not answer; the message carries no secret."""


class BadCursor(ValueError):
    """The cursor was not made by this list."""


class AuditReader(Protocol):
    """The audit, as the API reads it. All methods raise AuditUnavailable; the paged ones BadCursor."""

    async def requests(self, filters: Filters, limit: int, cursor: str | None) -> Page:
        """Rows of REQUEST_COLUMNS, newest first, at most `limit` (1 to 1,000)."""

    async def request(self, request_id: str) -> Row | None:
        """One row: REQUEST_COLUMNS first, more may follow. None if the audit knows no such request."""

    async def report(self, name: ReportName, group_by: str, filters: Filters, limit: int, cursor: str | None) -> Page:
        """`spend` and `requests`: one row per group, the group's column and FIGURE_COLUMNS, most spent (most
        requests) first, days newest first. `changes`: CHANGE_COLUMNS, newest first; `group_by` is empty.
        """


class Leader(Protocol):
    """The leading control plane (controlplane.leader). `state` and `budget` are read between awaits only."""

    @property
    def state(self) -> ControlState: ...
    @property
    def budget(self) -> Figures: ...

    async def execute(
        self, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal], by: By
    ) -> T:
        """Carry a command out. Raises CommandRefused, LogUnavailable, BarrierOpen, NotLeading."""


class NodeStatus(msgspec.Struct, frozen=True):
    """What the fold of the node logs says of one incarnation.

    `applied`: the control log sequence that it acts on. `silent_ms`: how long its log has been silent, by the
    control plane's elapsed clock. `fenced`: its log is closed.
    """

    applied: int
    silent_ms: int
    fenced: bool = False
    stopped: bool = False


NodeStatuses = Callable[[], Mapping[str, NodeStatus]]
"""By incarnation; one that is missing has not written yet."""
