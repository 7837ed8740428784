"""The HTTP application: routes bound to aiohttp, with authentication, decoding, error answers and access log.

Nothing that a caller sends is ever logged: a path can hold a token (DELETE /v1/keys/{token}), so the log shows
the route's template. There are no cookies, so no request carries authority by itself, and a foreign site's
script cannot act for an operator.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from controlplane.api.answers import Answer, error_answer
from controlplane.api.auth import FailedTries, authenticate
from controlplane.api.call import Call, Route, Service
from controlplane.api.decode import BodyDecoder, decode_query
from controlplane.api.forward import Forwarder, Place
from controlplane.api.idempotency import Replays
from controlplane.api.openapi import describe_api
from controlplane.api.ports import AuditReader, AuditUnavailable, BadCursor, Leader, NodeStatuses
from controlplane.api.routes import ROUTES
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid, refuse
from controlplane.errors import BarrierOpen, CommandRefused, LogUnavailable, NotLeading
from controlplane.version import VERSION
from events.state.operators import Operator
from schemas.readiness import Reason
from schemas.settings import Settings

MAX_BODY_BYTES = 128 * 1024
"""Bodies are single records; the largest valid one, a key with full lists, is about 90 KiB."""

COMMON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "ringfence"}

Observe = Callable[[str, str, int, float], None]
"""(method, route template, status, seconds) of every answer, for metrics."""


def build_api(
    leader: Leader,
    audit: AuditReader,
    settings: Settings,
    *,
    now_ns: Callable[[], int],
    elapsed_ns: Callable[[], int],
    node_statuses: NodeStatuses = dict,
    readiness: Callable[[], Sequence[Reason]] = tuple,
    metrics: Callable[[], bytes] = bytes,
    observe: Observe = lambda _method, _route, _status, _seconds: None,
    tries: FailedTries | None = None,
    role: Callable[[], str] = lambda: "leader",
    place: Place | None = None,
    session: aiohttp.ClientSession | None = None,
    logger: logging.Logger | None = None,
) -> web.Application:
    """The control plane's API. `now_ns` is the wall clock, `elapsed_ns` a clock that only goes forward.
    `place` among several control planes, and `session`: what is not answered here is forwarded (api.forward).

    Serve it with `access_log=None`: aiohttp's own access log would write paths, and with them tokens.
    """
    service = Service(
        leader=leader,
        audit=audit,
        settings=settings,
        now_ns=now_ns,
        node_statuses=node_statuses,
        readiness=readiness,
        role=role,
        metrics=metrics,
        replays=Replays(elapsed_ns),
        description=describe_api(ROUTES, VERSION),
    )
    edge = _Edge(service, elapsed_ns, observe, tries or FailedTries(), logger or logging.getLogger("ringfence.api"))
    if place is not None and session is not None:
        public = [route.path for route in ROUTES if not route.roles]
        edge.forwarder = Forwarder(place, session, public)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[edge.unmatched, edge.placed])
    for route in ROUTES:
        app.router.add_route(route.method, route.path, edge.bind(route))
    return app


class _Edge:
    """Between aiohttp and the handlers."""

    def __init__(
        self,
        service: Service,
        elapsed_ns: Callable[[], int],
        observe: Observe,
        tries: FailedTries,
        logger: logging.Logger,
    ) -> None:
        self._service = service
        self._elapsed_ns = elapsed_ns
        self._observe = observe
        self._logger = logger
        self._tries = tries
        self.forwarder: Forwarder | None = None
        """Knows what is to be answered elsewhere; None: nothing is."""

    def bind(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        decoder = BodyDecoder(route.body) if route.body is not None else None

        async def serve(request: web.Request) -> web.StreamResponse:
            began_ns = self._elapsed_ns()
            operator = self._admit(route, request)
            if isinstance(operator, Answer):
                return self._respond(operator, request, route.path, "", began_ns)
            answer = await self._answer(route, request, operator, decoder)
            return self._respond(answer, request, route.path, operator.id if operator else "", began_ns)

        return serve

    @web.middleware
    async def unmatched(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Paths and methods that no route has, in the API's own error shape."""
        began_ns = self._elapsed_ns()
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            refusal = refuse("method_not_allowed", "this endpoint does not have this method")
            answer = error_answer(refusal, {"Allow": error.headers.get("Allow", "")})
        except web.HTTPNotFound:
            answer = error_answer(refuse("not_found", "there is no such endpoint", remedy="/openapi.json lists them."))
        return self._respond(answer, request, "-", "", began_ns)

    @web.middleware
    async def placed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer here, or have the leader answer."""
        if self.forwarder is None:
            return await handler(request)
        began_ns = self._elapsed_ns()
        resource = request.match_info.route.resource
        template = resource.canonical if resource is not None else ""
        outcome = await self.forwarder.handle(request, template, handler)
        return self._respond(outcome, request, template, "", began_ns) if isinstance(outcome, Answer) else outcome

    def _admit(self, route: Route, request: web.Request) -> Operator | Answer | None:
        """Who asks (None where nobody need say), or the answer for who may not."""
        if not route.roles:
            return None
        sent = request.headers.getall("Authorization", [])
        header = sent[0] if len(sent) == 1 else None
        operator = authenticate(header, self._service.leader.state, self._service.now_ns())
        if isinstance(operator, CommandRefusal):
            wait_s = self._tries.failed(request.remote or "", self._elapsed_ns()) if sent else 0
            if wait_s:
                limited = refuse("rate_limited", "too many failed tries from this address")
                return error_answer(limited, {"Retry-After": str(wait_s)})
            return error_answer(operator, {"WWW-Authenticate": 'Bearer realm="ringfence"'})
        if operator.role not in route.roles:
            return error_answer(refuse("forbidden", f"the role {operator.role} may not do this"))
        return operator

    async def _answer(
        self, route: Route, request: web.Request, operator: Operator | None, decoder: BodyDecoder[Any] | None
    ) -> Answer:
        try:
            call = await self._decode(route, request, operator, decoder)
            outcome = call if isinstance(call, CommandRefusal) else await route.handler(self._service, call)
        except CommandRefused as refused:
            outcome = refused.refusal
        except (LogUnavailable, BarrierOpen, NotLeading, AuditUnavailable) as error:
            return error_answer(_unavailable(error), {"Retry-After": "1"})
        except BadCursor:
            outcome = invalid("cursor", "the cursor is not one of this list", "Use next_cursor of the page before.")
        except web.HTTPRequestEntityTooLarge:
            outcome = refuse("body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
        except (web.RequestPayloadError, HttpProcessingError):
            outcome = refuse("invalid_json", "the body could not be read")
        except Exception as error:  # noqa: BLE001 - the process's edge: counted, logged, answered with 500
            self._log_defect(route, error)
            outcome = refuse("internal", "the request met a defect")
        return error_answer(outcome) if isinstance(outcome, CommandRefusal) else outcome

    async def _decode(
        self, route: Route, request: web.Request, operator: Operator | None, decoder: BodyDecoder[Any] | None
    ) -> Call | CommandRefusal:
        query = decode_query(request.query.items(), route.query)
        if isinstance(query, CommandRefusal):
            return query
        raw = await request.read()
        body = None
        if decoder is not None:
            body = decoder.decode(raw or b"{}" if route.body_optional else raw)
        elif raw:
            return refuse("invalid_json", "this endpoint takes no body", remedy="Send none.")
        if isinstance(body, CommandRefusal):
            return body
        return Call(
            params=request.match_info,
            query=query,
            body=body,
            raw_body=raw,
            operator=operator,
            address=request.remote or "",
            idempotency_key=request.headers.get("Idempotency-Key") if route.idempotent else None,
        )

    def _respond(
        self, answer: Answer, request: web.Request, template: str, operator: str, began_ns: int
    ) -> web.Response:
        took_s = (self._elapsed_ns() - began_ns) / 1e9
        self._observe(request.method, template, answer.status, took_s)
        self._logger.info(
            "%s %s %d %.1fms %s %s",
            request.method, template, answer.status, took_s * 1000, operator or "-", request.remote or "-",
        )  # fmt: skip
        headers = {**COMMON_HEADERS, **answer.headers}
        if answer.status != 204:
            headers["Content-Type"] = answer.content_type
        return web.Response(status=answer.status, body=answer.encoded() or None, headers=headers)

    def _log_defect(self, route: Route, error: Exception) -> None:
        """Where it happened, without the exception's text: that may repeat what a caller sent."""
        where = "".join(traceback.format_tb(error.__traceback__))
        self._logger.error("defect in %s %s: %s\n%s", route.method, route.path, type(error).__name__, where)


def _unavailable(error: Exception) -> CommandRefusal:
    """A state of the system that passes: 503 with what is known of the change."""
    if isinstance(error, LogUnavailable):
        return refuse("log_unavailable", "the change may not be recorded; what it was to stop may still work")
    if isinstance(error, BarrierOpen):
        return refuse("barrier_open", "the change is recorded, but a node may still act on the old policy")
    if isinstance(error, NotLeading):
        return refuse("not_leading", "this control plane does not lead now")
    return refuse("audit_unavailable", "the audit store does not answer")
