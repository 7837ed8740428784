"""The control plane's process: wiring. Logs, its seat among others, HTTP API; until SIGTERM.

It serves HTTP as a standby too (controlplane.api.forward). At SIGTERM calls under way are answered first; then a leader
says goodbye, so that a standby goes on at once.
"""

import asyncio
import gc
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from controlplane.api.app import build_api
from controlplane.api.forward import forwarding_session
from controlplane.audit.reader import ClickHouseReader
from controlplane.audit.store import Store
from controlplane.bootstrap import admit_operator
from controlplane.checkpoint_file import FileCheckpoints
from controlplane.errors import NotLeading
from controlplane.following import Logs
from controlplane.leader import Leader
from controlplane.operations import Operations
from controlplane.process import run_until_stopped, write_ready_mark
from controlplane.process_settings import ControlProcess
from controlplane.reload import Reloader, renew_control
from controlplane.seat import Seat
from controlplane.up.ports import url_host
from controlplane.version import VERSION
from events.clock import Clock
from events.log.port import LogUnavailable
from events.log.streams import log_streams
from events.messaging.clock import SystemClock
from events.messaging.connection import NatsConnection, connect
from events.tls import TlsContext, client_tls, server_tls

BACKLOG = 256
"""Connections waiting to be accepted: operators and their scripts, not agents."""

DRAIN_S = 5.0
"""Commands under way get this long to be answered after SIGTERM."""

RETRY_S = 0.5

READY_LOOK_S = 0.05

_log = logging.getLogger(__name__)


async def run_control(settings: ControlProcess, path: Path) -> None:
    """Run until SIGTERM, or until something ends that must not. Raises what ended it. `path`: the file of `settings`,
    read again at SIGHUP.
    """
    clock = SystemClock()
    tls = server_tls(settings.tls) if settings.tls is not None else None
    nats = await connect(settings.nats, name="ringfence control")
    store = Store(settings.clickhouse)
    try:
        logs = await _open_logs(settings, nats)
        listener = _listen(settings.host, settings.port)
        port: int = listener.getsockname()[1]
        seat, operations = _wire(settings, nats, logs, store, clock, port)
        try:
            await operations.ear.start()
            Reloader(path, ControlProcess, partial(renew_control, store, nats, tls, partial(_admit, seat))).listen()
            async with _serving(settings, seat, operations, store, clock, listener, tls):
                jobs = {
                    "seat": seat.run(),
                    "log watch": operations.run(),
                    "ready mark": _tell_when_ready(seat, Path(settings.ready_mark), port),
                }
                try:
                    await run_until_stopped(jobs, parent_pid=settings.parent_pid)
                finally:
                    operations.draining = True
        finally:
            await seat.close()
            await operations.ear.stop()
    finally:
        await store.close()
        await nats.close()


async def _admit(seat: Seat, digest: str) -> None:
    if seat.leader is None:
        raise NotLeading("this control plane stands by")
    await admit_operator(seat.leader, digest)


def _wire(
    settings: ControlProcess, nats: NatsConnection, logs: Logs, store: Store, clock: Clock, port: int
) -> tuple[Seat, Operations]:
    timing = settings.settings.timing

    async def first(leader: Leader) -> None:
        await admit_operator(leader, settings.bootstrap_token_sha256)

    async def meanwhile(leader: Leader) -> None:
        await operations.meanwhile(leader)

    seat = Seat(
        logs,
        nats.bus,
        clock,
        secrets.token_bytes,
        timing,
        FileCheckpoints(Path(settings.data_dir)),
        version=VERSION,
        url=settings.advertise_url or f"{'https' if settings.tls else 'http'}://{url_host(settings.host)}:{port}",
        first=first,
        meanwhile=meanwhile,
        on_loaded=_settle_memory,
    )
    operations = Operations(logs, store, nats.bus, clock, timing, replica=lambda: seat.replica, place=seat.readiness)
    return seat, operations


async def _open_logs(settings: ControlProcess, nats: NatsConnection) -> Logs:
    """Waits for streams that do not answer yet."""
    control, nodes = log_streams(settings.control_stream_bytes, settings.nodes_stream_bytes, settings.replicas)
    while True:
        try:
            return Logs(await nats.ensure_stream(control), await nats.ensure_stream(nodes))
        except LogUnavailable as error:
            _log.warning("the logs do not answer: %s", error)
            await asyncio.sleep(RETRY_S)


def _settle_memory() -> None:
    """What was loaded stays; walking through it again and again would stall the ledger."""
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def _serving(
    settings: ControlProcess,
    seat: Seat,
    operations: Operations,
    store: Store,
    clock: Clock,
    listener: socket.socket,
    tls: TlsContext | None,
) -> AsyncIterator[None]:
    """Serve HTTP; at the end, answer what is under way."""
    peer_tls = client_tls(settings.peer_tls).ssl if settings.peer_tls is not None else None
    async with forwarding_session(peer_tls) as session:
        app = build_api(
            seat,
            ClickHouseReader(store),
            settings.settings,
            now_ns=seat.control_time_ns,
            elapsed_ns=clock.elapsed_ns,
            node_statuses=seat.node_statuses,
            readiness=operations.reasons,
            metrics=operations.metrics.render,
            observe=operations.metrics.observe,
            tries=operations.tries,
            role=lambda: seat.role,
            place=seat,
            session=session,
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
        await runner.setup()
        try:
            secure = tls.ssl if tls is not None else None
            await web.SockSite(runner, listener, backlog=BACKLOG, ssl_context=secure).start()
            _log.info("serving on port %d, pid %d", listener.getsockname()[1], os.getpid())
            yield
        finally:
            await runner.cleanup()


async def _tell_when_ready(seat: Seat, mark: Path, port: int) -> None:
    """Write the ready mark once this control plane leads, or follows one that does. Never returns."""
    while seat.readiness() is not None:  # noqa: ASYNC110 - it depends on how old what was heard is
        await asyncio.sleep(READY_LOOK_S)
    write_ready_mark(mark, port=port)
    await asyncio.get_running_loop().create_future()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.setblocking(False)
    return listener
