"""The door of a node: what has arrived is counted here until it is looked at, and what is too much is refused here.

A request takes one of three ways:

| it arrived | and there is room | and there is none |
|---|---|---|
| alone, whole head, strictest form | it goes on | answered here from its bytes; the parser never sees it |
| in any other form | it goes on | parsed, then refused before anything else is done with it |
| for /healthz, /readyz, /metrics | it goes on | it goes on: they must answer most of all when it is full |

Both refusals are the same 503 `overloaded` in the vendor's own error shape, and both are on record.
"""

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from dataplane.core.access import flow_of
from dataplane.core.backlog import CEILING, Backlog
from dataplane.core.glance import glance, token_in
from dataplane.core.path import parse_target
from dataplane.core.route import Route
from dataplane.core.scrub import without_tokens
from dataplane.exchange import NOBODY, holder
from dataplane.governor import Governor
from dataplane.heads import message
from dataplane.metrics import Metrics
from dataplane.upstreams import Destinations
from events.clock import Clock
from events.types import RequestRefused
from schemas import ids
from schemas.policy import KeyPolicy
from schemas.refusals import Refusal, refuse

RETRY_AFTER_S: Final = 1.0
"""Within a second a node that is no longer overloaded takes everything again."""

MAX_PLACES = 1_024
MAX_KEPT_BYTES: Final = 128
"""Of refusals kept rendered, and of the targets that they are for: about a megabyte."""

OVERLOADED: Final = refuse(
    "overloaded", "this node has more to do than it can do in time; nothing was sent", retry_after_s=RETRY_AFTER_S
)

_ID: Final = ids.request_id(bytes(ids.ID_BYTES))
_STRANGERS: Final = ""
"""The flow of everyone whose key nobody knows."""


class Connection(Protocol):
    """What the door remembers on a connection. `arrived_ns`: of the request that is counted, 0 for none.

    `turned_away`: the next request is to be refused once it is parsed. `digest`: of the token.
    """

    arrived_ns: int
    turned_away: bool
    flow: str
    token: bytes
    digest: bytes


class Shed(NamedTuple):
    """An answer for a request that is refused here. `rest`: bytes of its body that are still to come."""

    answer: bytes
    rest: int


class _Place(NamedTuple):
    """What a target leads to, and the refusal for it, cut where the request's id goes."""

    upstream: str
    path: str
    refusal: list[bytes]


class Door:
    """One node's door."""

    def __init__(
        self,
        governor: Governor,
        destinations: Destinations,
        clock: Clock,
        metrics: Metrics,
        draw: Callable[[int], bytes],
    ) -> None:
        self._governor = governor
        self._destinations = destinations
        self._clock = clock
        self._metrics = metrics
        self._draw = draw
        self._places: dict[tuple[bytes, bytes], _Place | None] = {}
        self.shedder = metrics.shedder = governor.node.shedder
        self._backlog = metrics.backlog = Backlog()

    def arrive(self, connection: Connection, data: bytes, *, plain: bool = True) -> Shed | None:
        """Bytes have come on a connection that is between two messages. None: they go to the parser.

        `plain`: they begin a message for sure; else they are never answered here.
        """
        token = token_in(data)
        if token != connection.token:
            connection.token = token
            connection.digest = hashlib.sha256(token).digest() if token else b""
            connection.flow = self._flow(connection.digest)
        now_ns = self._clock.elapsed_ns()
        if (self._backlog.limit == CEILING or self._log_takes(connection.flow, now_ns)) and self.shedder.arrive(
            connection.flow, now_ns
        ):
            connection.arrived_ns = now_ns
            return None
        return self._turn_away(connection, data, plain=plain)

    def withdraw(self, connection: Connection) -> None:
        """The request that was counted will not be looked at now: its head is not complete, or its client has gone."""
        if connection.arrived_ns:
            connection.arrived_ns = 0
            self.shedder.withdraw(connection.flow)

    def enter(self, connection: Connection, now_ns: int) -> bool:
        """A request is being looked at. False: it is refused, unless it is for the node itself."""
        arrived_ns = connection.arrived_ns
        if not arrived_ns:
            if connection.turned_away:
                connection.turned_away = False
                return False
            # It came in pieces, or behind another one: it has not been counted before.
            if not self._log_takes(connection.flow, now_ns) or not self.shedder.arrive(connection.flow, now_ns):
                return False
            arrived_ns = now_ns
        connection.arrived_ns = 0
        self.shedder.start(connection.flow, arrived_ns, now_ns)
        if now_ns >= self._backlog.look_at_ns:
            self._look_at_log(now_ns)
        return True

    # ------------------------------------------------------------------ the log

    def _log_takes(self, flow: str, now_ns: int) -> bool:
        """Whether one more may wait for the log."""
        if now_ns >= self._backlog.look_at_ns:
            self._look_at_log(now_ns)
        incarnation = self._governor.node.incarnation
        if incarnation is None or self._backlog.limit == CEILING:
            return True
        return self._backlog.admits(flow, incarnation.log.queued_events, now_ns)

    def _look_at_log(self, now_ns: int) -> None:
        node = self._governor.node
        stats, incarnation = node.membership.stats, node.incarnation
        appends, events = sum(stats.append_us.counts), stats.batch_events.total
        stalled_ns = incarnation.log.stalled_ns() if incarnation is not None else 0
        self._backlog.look(now_ns, appends, events, stats.append_us.total, stalled_ns)

    # ------------------------------------------------------------------ who

    def _flow(self, digest: bytes) -> str:
        """Whose request it is."""
        key = self._key(digest)
        return _STRANGERS if key is None else flow_of(key)

    def _key(self, digest: bytes) -> KeyPolicy | None:
        return self._governor.snapshot.key_of(digest) if digest else None

    # ------------------------------------------------------------------ refusing

    def _turn_away(self, connection: Connection, data: bytes, *, plain: bool) -> Shed | None:
        seen = glance(data) if plain else None
        place = self._place(seen.target, seen.host) if seen is not None else None
        if seen is None or place is None:
            connection.turned_away = True
            return None
        request_id = ids.request_id(self._draw(ids.ID_BYTES))
        self._record(request_id, place, self._key(connection.digest), data)
        return Shed(request_id.encode("ascii").join(place.refusal), seen.rest)

    def _place(self, target: bytes, host: bytes) -> _Place | None:
        """None: not an upstream's, or not known to be."""
        key = (target, host)
        if key in self._places:
            return self._places[key]
        parsed = parse_target(target.decode("ascii"))
        route = (
            parsed if isinstance(parsed, Refusal) else self._destinations.routes.resolve(parsed, host.decode("ascii"))
        )
        place = self._rendered(route) if isinstance(route, Route) else None
        if len(target) <= MAX_KEPT_BYTES:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[key] = place
        return place

    def _rendered(self, route: Route) -> _Place:
        adapter = self._destinations.by_name[route.upstream].adapter
        rendered = adapter.refuse(OVERLOADED, OVERLOADED.kind.status, _ID)
        data = message(rendered.status, rendered.headers, rendered.body, b"")
        return _Place(route.upstream, without_tokens(route.path), data.split(_ID.encode("ascii")))

    def _record(self, request_id: str, place: _Place, key: KeyPolicy | None, data: bytes) -> None:
        self._metrics.shed += 1
        self._metrics.requests[place.upstream, "refused"] += 1
        self._metrics.refusals[OVERLOADED.code] += 1
        now_ns = self._governor.now_ns()
        self._governor.refused(
            RequestRefused(
                request_id=request_id,
                code=OVERLOADED.code,
                first_at_ns=now_ns,
                last_at_ns=now_ns,
                who=NOBODY if key is None else holder(key),
                status=OVERLOADED.kind.status,
                upstream=place.upstream,
                method=data[: data.index(b" ")].decode("ascii"),
                path=place.path,
                message=OVERLOADED.message,
            )
        )
