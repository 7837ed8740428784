"""The control plane's process: wiring. Logs, leadership, HTTP API; until SIGTERM, or until the leadership ends.

A leadership that ends, ends the process: whoever started it starts it anew, and it stands by or takes over. On one
machine there is no other control plane, so it takes over at once.
"""

import asyncio
import gc
import logging
import os
import secrets
import socket
from functools import partial
from pathlib import Path

from aiohttp import web

from controlplane.api.app import build_api
from controlplane.audit.reader import ClickHouseReader
from controlplane.audit.store import Store, StoreUnavailable
from controlplane.bootstrap import admit_operator
from controlplane.checkpoint_file import FileCheckpoints
from controlplane.leader import Leader, lead
from controlplane.log_watch import LogWatch
from controlplane.metrics import ControlMetrics
from controlplane.process import run_until_stopped, write_ready_mark
from controlplane.process_settings import ControlProcess
from controlplane.standby import wait_for_silence
from controlplane.takeover import Logs
from controlplane.version import VERSION
from events.clock import Clock
from events.log.port import LogUnavailable
from events.log.streams import log_streams
from events.messaging.clock import SystemClock
from events.messaging.connection import NatsConnection, connect
from events.subjects import CONTROL_STREAM, NODES_STREAM

BACKLOG = 256
"""Connections waiting to be accepted: operators and their scripts, not agents."""

DRAIN_S = 5.0
"""Commands under way get this long to be answered after SIGTERM."""

RETRY_S = 0.5

_log = logging.getLogger(__name__)


class LeadershipEnded(Exception):
    """Another control plane leads, or a log cannot be folded. The message says which."""


async def run_control(settings: ControlProcess) -> None:
    """Run until SIGTERM, or until something ends that must not. Raises what ended it."""
    clock = SystemClock()
    nats = await connect(settings.nats, name="ringfence control")
    store = Store(settings.clickhouse)
    try:
        leader, logs = await _lead(settings, nats, clock)
        watch = LogWatch(logs, leader.recorder, partial(_audited, store), leader.close_budget)
        try:
            await admit_operator(leader, settings.bootstrap_token_sha256)
            runner, port = await _serve(settings, leader, store, clock)
            try:
                write_ready_mark(Path(settings.ready_mark), port=port)
                jobs = {"leadership": _until_ended(leader), "log watch": watch.run()}
                await run_until_stopped(jobs, parent_pid=settings.parent_pid)
            finally:
                await runner.cleanup()
        finally:
            await leader.close()
    finally:
        await store.close()
        await nats.close()


async def _lead(settings: ControlProcess, nats: NatsConnection, clock: Clock) -> tuple[Leader, Logs]:
    """Take over, once nobody else leads. Waits for streams that do not answer yet."""
    timing = settings.settings.timing
    control, nodes = log_streams(settings.control_stream_bytes, settings.nodes_stream_bytes, settings.replicas)
    checkpoints = FileCheckpoints(Path(settings.data_dir))
    while True:
        try:
            logs = Logs(await nats.ensure_stream(control), await nats.ensure_stream(nodes))
            await wait_for_silence(nats.bus, timing)
            leader = await lead(logs, nats.bus, clock, secrets.token_bytes, timing, checkpoints, VERSION)
        except LogUnavailable as error:
            _log.warning("the logs do not answer: %s", error)
            await asyncio.sleep(RETRY_S)
        else:
            # What was loaded stays; walking through it again and again would stall the ledger.
            gc.collect()
            gc.freeze()
            return leader, logs


async def _serve(settings: ControlProcess, leader: Leader, store: Store, clock: Clock) -> tuple[web.AppRunner, int]:
    metrics = ControlMetrics(leader)
    app = build_api(
        leader,
        ClickHouseReader(store),
        settings.settings,
        now_ns=clock.wall_ns,
        elapsed_ns=clock.elapsed_ns,
        node_statuses=leader.node_statuses,
        readiness=leader.readiness,
        metrics=metrics.render,
        observe=metrics.observe,
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    listener = _listen(settings.host, settings.port)
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    port: int = listener.getsockname()[1]
    _log.info("control plane %s serves on port %d, pid %d", leader.name, port, os.getpid())
    return runner, port


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.setblocking(False)
    return listener


async def _audited(store: Store) -> dict[str, int] | None:
    """The audit records a block's boundaries before it writes the block: all before the newest one is written."""
    try:
        rows = await store.query("SELECT log, max(from_seq) FROM ringfence.blocks GROUP BY log")
    except StoreUnavailable:
        return None
    streams = {"control": CONTROL_STREAM, "nodes": NODES_STREAM}
    return {streams[log]: int(from_seq) for log, from_seq in rows if log in streams}


async def _until_ended(leader: Leader) -> None:
    raise LeadershipEnded(await asyncio.shield(leader.ended))
