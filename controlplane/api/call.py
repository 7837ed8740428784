"""One call of the API as handlers see it, what they work with, and the row of the route table they stand in.

Handlers know nothing of aiohttp: they get a decoded call and give back an Answer or a refusal.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controlplane.api.answers import Answer
from controlplane.api.idempotency import Replays
from controlplane.api.ports import AuditReader, Leader, NodeStatuses
from controlplane.api.views import Views
from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from controlplane.commands.keys import KeyRules
from events.state.control import ControlState
from events.state.operators import Operator
from events.types import By
from schemas.api import Body, Role
from schemas.queries import NoQuery
from schemas.readiness import Reason
from schemas.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """`query` and `body` are instances of the route's types (Any here: each handler knows its own).

    `params`: the path's variables, decoded; one may be a token, so nothing here has a repr.
    """

    params: Mapping[str, str] = field(repr=False)
    query: Any = field(repr=False)
    body: Any = field(repr=False)
    raw_body: bytes = field(repr=False)
    operator: Operator | None
    address: str
    idempotency_key: str | None = field(repr=False)

    def by(self) -> By:
        """Who is asking, and the reason given."""
        reason = getattr(self.body, "reason", None) or getattr(self.query, "reason", None) or ""
        operator = self.operator
        return By(operator.id if operator else "", operator.name if operator else "", self.address, reason)


@dataclass(frozen=True, slots=True)
class Service:
    """What all handlers work with."""

    leader: Leader
    audit: AuditReader
    settings: Settings
    now_ns: Callable[[], int]
    node_statuses: NodeStatuses
    readiness: Callable[[], Sequence[Reason]]
    role: Callable[[], str]
    metrics: Callable[[], bytes]
    replays: Replays
    description: bytes
    """OpenAPI, as JSON."""

    @property
    def key_rules(self) -> KeyRules:
        return KeyRules(frozenset(self.settings.upstreams), self.settings.defaults)

    def views(self) -> Views:
        """The state as it is now; use it before the next await."""
        return Views(self.leader.state, self.leader.budget, self.now_ns())

    async def execute(
        self, call: Call, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal]
    ) -> T:
        return await self.leader.execute(decide, call.by())


Handler = Callable[[Service, Call], Awaitable[Answer | CommandRefusal]]

PUBLIC: tuple[Role, ...] = ()
"""No token needed: probes, metrics, and the description of the API."""
ADMIN: tuple[Role, ...] = ("admin",)
ISSUERS: tuple[Role, ...] = ("admin", "issuer")
AUDITORS: tuple[Role, ...] = ("admin", "auditor")
READERS: tuple[Role, ...] = ("admin", "issuer", "auditor")
"""Who may see single requests, with their users and addresses."""
ALL: tuple[Role, ...] = ("admin", "issuer", "auditor", "viewer")


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: what OpenAPI, the roles' table and the server itself are made from.

    `body` None: a body is refused. `body_optional`: an empty one reads as `{}`. `answer` None: no JSON body.
    """

    method: str
    path: str
    handler: Handler
    roles: tuple[Role, ...]
    summary: str
    query: type[Body] = NoQuery
    body: type[Body] | None = None
    body_optional: bool = False
    answer: Any = None
    status: int = 200
    csv: bool = False
    idempotent: bool = False
