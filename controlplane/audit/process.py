"""The audit process: wiring. Embedded ClickHouse (if any), schema, one writer per log."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from controlplane.audit.auditors import Auditors, authenticator
from controlplane.audit.embedded import EmbeddedClickHouse
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.mend import mend, watch_damage
from controlplane.audit.observe import AuditObserver
from controlplane.audit.store import Store, StoreUnavailable
from controlplane.audit.writer import LogName, LogWriter
from controlplane.process import run_until_stopped, write_ready_mark
from controlplane.process_settings import AuditProcess
from controlplane.reload import Reloader
from events.log.port import LogUnavailable, StreamPort
from events.log.streams import log_streams
from events.messaging.connection import NatsConnection, connect
from events.tls import TlsContext, server_tls

_log = logging.getLogger(__name__)

MIGRATE_RETRY_S = 0.5
STREAMS_RETRY_S = 0.5
NICE = 5
"""A third of the weight of a node, of NATS and of the control plane: on a full machine the audit comes later, and still
keeps up with what the rest of it lets through."""

LAST_BLOCK_S = 1.5
"""At the end the writers get this long to gather and write what the logs hold."""


async def run_audit(settings: AuditProcess, path: Path) -> None:
    """Run until SIGTERM, or until something ends that must not. Raises what ended it. `path`: the file of `settings`,
    read again at SIGHUP.
    """
    tls = server_tls(settings.tls) if settings.tls is not None else None
    nats = await connect(settings.nats, name="ringfence audit")
    try:
        control, nodes = await _streams(nats, settings)
        auditors = Auditors(control)
        endpoint, access = None, settings.clickhouse
        if settings.embedded_path:
            login = authenticator(auditors, access.user, access.password)
            endpoint = EmbeddedClickHouse(Path(settings.embedded_path), login, limits=EndpointLimits())
            port = await endpoint.start(access.host, access.port, tls.ssl if tls is not None else None)
            access = msgspec.structs.replace(access, port=port)
        store = Store(access)
        Reloader(path, AuditProcess, partial(_renew, nats, store, access.port, tls)).listen()
        try:
            await _migrate(store)
            if endpoint is not None:
                await mend(store, _logs(control, nodes))
            writers = {name: LogWriter(name, port, store) for name, port in _logs(control, nodes)}
            observer = AuditObserver(writers, nats.bus)
            runner, http_port = await observer.serve(settings.http_host, settings.http_port)
            try:
                write_ready_mark(Path(settings.ready_mark), clickhouse_port=access.port, http_port=http_port)
                _stand_back()  # not before: others wait for the start
                jobs: dict[str, Coroutine[Any, Any, None]] = {f"audit {n}": w.run() for n, w in writers.items()}
                jobs["audit status"] = observer.tell()
                if endpoint is not None:
                    jobs["auditors"] = auditors.run()
                    jobs["audit damage"] = watch_damage(writer.progress for writer in writers.values())
                await run_until_stopped(jobs, parent_pid=settings.parent_pid, linger_s=LAST_BLOCK_S)
            finally:
                await runner.cleanup()
        finally:
            await store.close()
            if endpoint is not None:
                await endpoint.close()
    finally:
        await nats.close()


def _stand_back() -> None:
    """Nobody waits for the audit: what enforces has the processor first, where both want it. (A block costs some 40 ms
    at once, four times what a revocation takes.)
    """
    os.nice(NICE)
    if os.getsid(0) == os.getpid():
        # Where Linux divides the processor by sessions first, niceness counts within this process's own alone.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


async def _streams(nats: NatsConnection, settings: AuditProcess) -> tuple[StreamPort, StreamPort]:
    """Both logs. Waits for streams that do not answer yet: a cluster elects leaders when it starts."""
    specs = log_streams(settings.control_stream_bytes, settings.nodes_stream_bytes, settings.replicas)
    while True:
        try:
            return await nats.ensure_stream(specs[0]), await nats.ensure_stream(specs[1])
        except LogUnavailable as error:
            _log.warning("the logs do not answer: %s", error)
            await asyncio.sleep(STREAMS_RETRY_S)


async def _renew(
    nats: NatsConnection, store: Store, port: int, tls: TlsContext | None, settings: AuditProcess
) -> list[str]:
    """SIGHUP: sign in anew, and take over certificates. (A new password of the embedded endpoint takes a restart.)"""
    if tls is not None:
        tls.renew()
    changed = ["nats"] if await nats.renew(settings.nats) else []
    if not settings.embedded_path and await store.renew(msgspec.structs.replace(settings.clickhouse, port=port)):
        changed.append("clickhouse")
    return changed


def _logs(control: StreamPort, nodes: StreamPort) -> tuple[tuple[LogName, StreamPort], tuple[LogName, StreamPort]]:
    return ("control", control), ("nodes", nodes)


async def _migrate(store: Store) -> None:
    """Until ClickHouse is there; a wrong password or an old server shows in the log."""
    told = ""
    while True:
        try:
            await store.migrate()
        except StoreUnavailable as error:
            if str(error) != told:
                told = str(error)
                _log.warning("the audit's tables cannot be made yet: %s", told)
            await asyncio.sleep(MIGRATE_RETRY_S)
        else:
            return
