"""A node's own endpoints on a port of its own.

Workers that share a port are asked in turn: a scrape of `/metrics` there shows one node's counters now and another's
the next time, and `/readyz` is one node's word for all. So each may have a second port that is its alone, with the
three endpoints that need no key. It is open for as long as the process lives: before the node has joined, and while it
drains, when the shared port takes no more connections.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dataplane.adapters import neutral
from dataplane.answer import Answer, whole
from dataplane.core.route import OwnRoute
from dataplane.exchange import Exchange
from dataplane.incoming import Incoming
from dataplane.node_settings import NodeSettings
from dataplane.own import OwnEndpoints
from dataplane.server import listen
from dataplane.serving import Handler
from events.clock import Clock
from events.tls import TlsContext
from schemas import ids
from schemas.refusals import Refusal, refuse

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

MAX_CONNECTIONS = 64
"""Probes and scrapers."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def own_port(own: OwnEndpoints, clock: Clock, node: NodeSettings, tls: TlsContext | None) -> AsyncIterator[int]:
    """Serve as long as the context lasts; gives the port, 0 if the settings want none.

    Raises OSError if the address cannot be had.
    """
    if node.own_port is None:
        yield 0
        return
    listening = await listen(
        _handler(own, clock),
        os.urandom,
        node.own_host,
        node.own_port,
        shared=node.parent_pid != 0,  # a supervisor holds the port, so that nobody else takes it meanwhile
        max_connections=MAX_CONNECTIONS,
        tls=tls.ssl if tls is not None else None,
    )
    _log.info("node %s shows its health on port %d", node.nats.slot, listening.port)
    try:
        yield listening.port
    finally:
        await listening.close(0)


def _handler(own: OwnEndpoints, clock: Clock) -> Handler:
    async def handle(request: Incoming) -> Answer:
        exchange = Exchange(request, ids.request_id(os.urandom(ids.ID_BYTES)), clock.elapsed_ns())
        path, _, query = request.raw_path.partition("?")
        if path in PATHS:
            answer = await own.answer(exchange, OwnRoute(path, query))
        else:
            answer = refuse("unknown_upstream", "this port has /healthz, /readyz and /metrics alone")
        if not isinstance(answer, Refusal):
            return answer
        rendered = neutral.refuse(answer, answer.kind.status, exchange.request_id)
        return whole(rendered.status, rendered.headers, rendered.body, request, keep_alive=False)

    return handle
