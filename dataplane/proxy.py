"""The way of a request through a node, steps 1 to 12 (docs/ARCHITECTURE.md), one small function each.

    route -> authenticate -> identify -> allow -> body -> read -> bound -> lane -> admit -> dispatch -> relay -> settle

Up to `admit` nothing has happened that would have to be undone: every step returns a refusal or goes on. From `admit`
on there is an admission, and whatever happens it ends once: settled, or released if not a byte was sent. What should
not happen ends at the edge, here: counted, logged without anything that was sent, and answered with 500.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from dataplane.adapters import neutral
from dataplane.adapters.port import Call, Outcome, Outgoing, Reading, Rendered
from dataplane.adapters.scan import IDENTITY, Seen, scan
from dataplane.answer import Answer, whole
from dataplane.core.access import Caller, Unregistered, allow, allow_model, token_bytes
from dataplane.core.lines import must_be_bounded
from dataplane.core.path import parse_target
from dataplane.core.repeats import repeat_digest
from dataplane.core.route import OwnRoute, Route
from dataplane.core.scrub import misplaced_token, without_tokens
from dataplane.dispatch import Dispatcher, Ended
from dataplane.door import OVERLOADED, Door
from dataplane.exchange import Carriage, Exchange
from dataplane.governor import Admission, Governor, Wanted
from dataplane.heads import keeps_alive
from dataplane.incoming import Incoming
from dataplane.inflight import State
from dataplane.intake import Bodies, check_message
from dataplane.metrics import Metrics
from dataplane.metrics_node import edge_metrics
from dataplane.own import OwnEndpoints
from dataplane.relay import Relay
from dataplane.upstreams import Destination, Destinations
from events.clock import Clock
from events.types import RequestRefused
from schemas import ids
from schemas.amounts import Amounts
from schemas.policy import KeyPolicy
from schemas.refusals import Refusal, refuse
from schemas.rpc import ObjectAnswer

MAX_RECORDED_CHARS: Final = 256
"""Of a model's name in events: vendors' are shorter, and a caller chooses it."""

MAX_ROUTES: Final = 2_048
"""Routes kept, of targets up to MAX_KEPT_CHARS: less than a megabyte."""
MAX_KEPT_CHARS: Final = 128

_INTERNAL: Final = refuse("internal", "the gateway failed; nothing more is known to the client")

_log = logging.getLogger(__name__)


class Proxy:
    """Serves one node's HTTP."""

    def __init__(
        self,
        governor: Governor,
        destinations: Destinations,
        clock: Clock,
        metrics: Metrics,
        draw: Callable[[int], bytes],
        slot: str,
    ) -> None:
        self._governor = governor
        self._destinations = destinations
        self._clock = clock
        self._metrics = metrics
        self._draw = draw
        self._bodies = Bodies()
        self._routes: dict[tuple[str, bytes], Route] = {}
        self.own = OwnEndpoints(governor, metrics, slot)
        self._dispatcher = Dispatcher(governor, clock)
        self._relay = Relay(governor, clock)
        self.door = Door(governor, destinations, clock, metrics, draw)
        metrics.sources.append(partial(edge_metrics, self._bodies, destinations))

    async def handle(self, request: Incoming) -> Answer:
        """The server's handler. Raises CancelledError alone."""
        exchange = Exchange(request, ids.request_id(self._draw(ids.ID_BYTES)), self._clock.elapsed_ns())
        try:
            connection: Any = request.connection  # the server's own, which the door has seen before
            return await self._serve(exchange, admitted=self.door.enter(connection, exchange.began_ns))
        except ConnectionError:
            return _nobody_there()
        except Exception as error:  # noqa: BLE001 - the edge of the process: counted, and answered with 500
            self.defect(exchange.request_id, error)
            return self._answer_refusal(exchange, _INTERNAL)
        finally:
            if exchange.body:
                self._bodies.done(exchange.body)

    def defect(self, request_id: str, error: BaseException) -> None:
        """Record what should not happen: where, but not with which values, for they may be a client's."""
        self._metrics.defects += 1
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "?"
        _log.error("request %s failed: %s at %s", request_id, type(error).__name__, where)

    # ------------------------------------------------------------------ steps 1 to 5

    async def _serve(self, exchange: Exchange, *, admitted: bool) -> Answer:
        request = exchange.request
        seen = scan(request.raw_headers)
        if (malformed := check_message(exchange.method, seen)) is not None:
            return self._refuse(exchange, malformed)
        route = self._route(request.raw_path, seen.first(b"host"))
        if isinstance(route, Refusal):
            return self._refuse(exchange, route)
        if isinstance(route, OwnRoute):
            answer = await self.own.answer(exchange, route)
            return self._refuse(exchange, answer) if isinstance(answer, Refusal) else answer
        destination = self._destinations.by_name[route.upstream]
        exchange.destination = destination
        exchange.path = route.path
        if not admitted:
            self._metrics.shed += 1
            return self._refuse(exchange, OVERLOADED)
        decided = await self._decide(exchange, destination, route, seen)
        if isinstance(decided, Refusal):
            return self._refuse(exchange, decided)
        call, reading, outgoing, wanted = decided
        if (overloaded := destination.lane.enter()) is not None:
            return self._refuse(exchange, overloaded)
        try:
            return await self._carry(exchange, destination, call, reading, outgoing, wanted)
        finally:
            destination.lane.leave()

    def _route(self, raw_path: str, host: bytes) -> Route | OwnRoute | Refusal:
        """Step 1. Routes are kept by what they follow from: agents call the same few targets again and again."""
        place = (raw_path, host)
        route = self._routes.get(place)
        if route is not None:
            return route
        target = parse_target(raw_path)
        if isinstance(target, Refusal):
            return target
        found = self._destinations.routes.resolve(target, host.decode("latin-1"))
        if isinstance(found, Route) and len(raw_path) <= MAX_KEPT_CHARS:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[place] = found
        return found

    async def _decide(
        self, exchange: Exchange, destination: Destination, route: Route, seen: Seen
    ) -> tuple[Call, Reading, Outgoing, Wanted] | Refusal:
        """Everything that is decided before the ledger is involved."""
        request, adapter = exchange.request, destination.adapter
        call = Call(route.upstream, exchange.method, route.path, route.segments, route.query.encode("ascii"), seen)
        found = self._authenticate(exchange, destination, call)
        if isinstance(found, Refusal):
            return found
        key, digest = found
        identity: list[str] = []
        if IDENTITY in seen.special:
            identity = [said.decode("utf-8", "surrogateescape") for said in seen.special[IDENTITY]]
            if any(without_tokens(said) != said for said in identity):
                return _misplaced("X-Agent-Identity")
        caller = self._governor.known_caller(key, identity)
        if isinstance(caller, Unregistered):
            caller = await self._governor.register(key, caller)
        if isinstance(caller, Refusal):
            return caller
        exchange.who = caller.who
        refusal = allow(caller, route.upstream, call.method, call.segments)
        if refusal is not None:
            return refusal
        body = self._bodies.ready(request, destination.settings.max_body_bytes)
        if body is None:
            body = await self._bodies.read(request, destination.settings.max_body_bytes)
        if isinstance(body, Refusal):
            return body
        if body:
            exchange.body = call.body = body
        reading = adapter.read(call)
        if isinstance(reading, Refusal):
            return reading
        exchange.model = _recordable(reading.model)
        if (refusal := allow_model(caller, reading.model)) is not None:
            return refusal
        known = await self._governor.object(reading.wants) if reading.wants else None
        bound = known if isinstance(known, Refusal) else self._bound(destination, call, reading, caller, known)
        if isinstance(bound, Refusal):
            return bound
        exchange.bound = bound
        outgoing = adapter.rewrite(call, reading, key.id, destination.credential)
        if isinstance(outgoing, Refusal):
            return outgoing
        if where := misplaced_token(outgoing.target, outgoing.headers, outgoing.body, exchange.token):
            return _misplaced(where)
        return call, reading, outgoing, _wanted(exchange, caller, digest, route, reading)

    def _authenticate(
        self, exchange: Exchange, destination: Destination, call: Call
    ) -> tuple[KeyPolicy, bytes] | Refusal:
        """Step 2: the living key, and the digest of its token."""
        tokens = destination.adapter.find_tokens(call)
        for token in tokens:
            if token.startswith(ids.TOKEN_PREFIX):
                exchange.token = token_bytes(token)
        connection = exchange.request.connection
        found = self._governor.lookup(tokens, connection.token, connection.digest)
        if isinstance(found, Refusal):
            return found
        key, digest = found
        exchange.key = key
        return self._governor.check_key(key, digest) or found

    def _bound(
        self, destination: Destination, call: Call, reading: Reading, caller: Caller, known: ObjectAnswer | None
    ) -> Amounts | Refusal:
        """Step 5. A call without a bound passes only where no cap would need one."""
        bound = destination.adapter.bound(call, reading, known)
        if isinstance(bound, Refusal):
            if bound.code != "cost_unbounded":
                return bound
            if must_be_bounded(self._governor.plan(caller), bound.details.get("meter", "usd")):
                return bound
            return Amounts(requests=1)
        return bound if bound.requests == 1 else Amounts(bound.usd, bound.refund, 1, bound.tokens)

    # ------------------------------------------------------------------ steps 6 to 12

    async def _carry(
        self,
        exchange: Exchange,
        destination: Destination,
        call: Call,
        reading: Reading,
        outgoing: Outgoing,
        wanted: Wanted,
    ) -> Answer:
        """Admit, send, relay, settle."""
        admission = await self._governor.admit(wanted, exchange.request_id)
        if not isinstance(admission, Admission):
            return self._refuse(exchange, admission)
        exchange.request_id = admission.request_id
        if exchange.deserted:
            self._governor.release(admission, "client_gone")
            return _nobody_there()
        carriage = Carriage(exchange, destination, call, reading, outgoing, wanted, admission)
        try:
            response = await self._dispatcher.send(carriage)
            answer = await self._relay.answer(carriage, response)
        except Ended as end:
            self._count(exchange, "failed")
            return self._ended(carriage, end.refusal)
        finally:
            self._close(carriage)
        self._count(exchange, "relayed")
        return answer

    def _close(self, carriage: Carriage) -> None:
        """A safety net: no admission may outlive its request, whatever went wrong."""
        admission = carriage.admission
        if admission.state is State.SENT:
            self._governor.settle(admission, Outcome("unknown", error="internal"), status=carriage.status)
        elif admission.state is not State.ENDED:
            self._governor.release(admission, "internal")
        if carriage.waited_ns:
            self._metrics.overhead_us.observe(carriage.overhead_us)

    def _ended(self, carriage: Carriage, refusal: Refusal) -> Answer:
        """No answer of the vendor. What was sent is on record by its settlement, what was not as a refusal."""
        if carriage.sent_ns:
            self._metrics.refusals[refusal.code] += 1
            return self._answer_refusal(carriage.exchange, refusal)
        return self._refuse(carriage.exchange, refusal)

    # ------------------------------------------------------------------ refusals

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> Answer:
        """Record a refusal, and answer with it."""
        self._count(exchange, "refused")
        self._metrics.refusals[refusal.code] += 1
        now_ns = self._governor.now_ns()
        destination = exchange.destination
        self._governor.refused(
            RequestRefused(
                request_id=exchange.request_id,
                code=refusal.code,
                first_at_ns=now_ns,
                last_at_ns=now_ns,
                who=exchange.whoever(),
                status=_status(destination, refusal),
                upstream=destination.name if destination is not None else "",
                method=exchange.method[:16],
                path=without_tokens(exchange.path),
                model=exchange.model,
                client=exchange.client,
                bound=exchange.bound,
                line=refusal.details.get("line", ""),
                message=without_tokens(refusal.message),
            )
        )
        return self._answer_refusal(exchange, refusal)

    def _answer_refusal(self, exchange: Exchange, refusal: Refusal) -> Answer:
        """The refusal in the vendor's own error shape."""
        request, destination = exchange.request, exchange.destination
        status = _status(destination, refusal)
        rendered: Rendered = (
            destination.adapter.refuse(refusal, status, exchange.request_id)
            if destination is not None
            else neutral.refuse(refusal, status, exchange.request_id)
        )
        return whole(rendered.status, rendered.headers, rendered.body, request, keep_alive=keeps_alive(request))

    def _count(self, exchange: Exchange, outcome: str) -> None:
        destination = exchange.destination
        self._metrics.requests[destination.name if destination is not None else "", outcome] += 1


def _nobody_there() -> Answer:
    """The client has gone before there was an answer (499 is what nginx calls it)."""
    return Answer(b"", status=499, keep_alive=False)


def _status(destination: Destination | None, refusal: Refusal) -> int:
    """The refusal's status; a cap's may be another one for some upstreams' clients."""
    if refusal.code == "cap_exhausted" and destination is not None:
        return destination.settings.cap_status
    return refusal.kind.status


def _wanted(exchange: Exchange, caller: Caller, digest: bytes, route: Route, reading: Reading) -> Wanted:
    return Wanted(
        caller=caller,
        digest=digest,
        upstream=route.upstream,
        operation=reading.operation,
        method=exchange.method,
        path=route.path,
        segments=route.segments,
        bound=exchange.bound,
        model=exchange.model,
        client=exchange.client,
        stream=reading.stream,
        idempotency=repeat_digest(route.upstream, reading.account, caller.key.id, reading.idempotency),
    )


def _misplaced(where: str) -> Refusal:
    return refuse("request_malformed", f"a vault key stands in {where}; send it as the credential alone")


def _recordable(model: str) -> str:
    """A model's name for events: bounded, and valid text whatever the caller sent."""
    if len(model) <= MAX_RECORDED_CHARS and model.isascii():
        return without_tokens(model)
    return without_tokens(model[:MAX_RECORDED_CHARS].encode("utf-8", "replace").decode("utf-8"))
