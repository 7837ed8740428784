"""What operators see of the audit process: its own `/healthz`, `/readyz` and `/metrics`, and a word on the bus.

The process is ready while both logs are written without trouble: a writer that waits for ClickHouse or for its log says
so. Being behind alone does not un-ready it; it is what it is there to catch up with.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.audit.writer import LogName, LogWriter, Progress
from controlplane.audit_status import LogProgress, encode_status
from events.messaging.port import Bus, BusTooLarge, BusUnavailable
from events.subjects import AUDIT_STATUS
from schemas.readiness import Reason, as_text, reason, render_reasons

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TELL_EVERY_S = 1.0
PREFIX = "ringfence_audit_"


class AuditObserver:
    """`writers` by log."""

    def __init__(self, writers: Mapping[LogName, LogWriter], bus: Bus) -> None:
        self._writers = writers
        self._bus = bus
        self._registry = CollectorRegistry()
        self._registry.register(AuditCollector(self.progress))
        ProcessCollector(registry=self._registry)

    def progress(self) -> dict[str, Progress]:
        return {log: writer.progress for log, writer in self._writers.items()}

    def reasons(self) -> list[Reason]:
        """Why it is not ready."""
        found = []
        if not self._bus.connected:
            found.append(reason("nats_unreachable", "the connection to NATS is lost"))
        for log, progress in self.progress().items():
            if progress.trouble:
                found.append(reason("audit_blocked", f"the log {log} cannot be written: {progress.trouble}"))
        return found

    def metrics(self) -> bytes:
        return bytes(generate_latest(self._registry))

    async def tell(self) -> None:
        """Tell control planes how far it is. Runs for ever."""
        while True:
            now_ns = time.time_ns()
            logs = {
                log: LogProgress(progress.written_through, progress.lag, progress.lag_s(now_ns), progress.trouble[:200])
                for log, progress in self.progress().items()
            }
            with contextlib.suppress(BusUnavailable, BusTooLarge):  # the next word says more
                await self._bus.publish(AUDIT_STATUS, encode_status(logs))
            await asyncio.sleep(TELL_EVERY_S)

    async def serve(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """Listen; returns the runner, to be cleaned up, and the port. Raises OSError."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return runner, int(runner.addresses[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")

    async def _readyz(self, request: web.Request) -> web.Response:
        answer = render_reasons(self.reasons())
        status = 200 if answer.ready else 503
        if request.query_string == "view=text":
            return web.Response(body=as_text(answer), status=status, content_type="text/plain")
        return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics(), headers={"Content-Type": METRICS_TYPE})


class AuditCollector(Collector):
    """Figures of each log, read when somebody asks."""

    def __init__(self, progress: Callable[[], Mapping[str, Progress]]) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        now_ns, logs = time.time_ns(), self._progress()
        for family, value_of in (
            (_counter("rows", "Rows written."), lambda log: log.rows),
            (_counter("blocks", "Blocks written."), lambda log: log.blocks),
            (_counter("failures", "Attempts at ClickHouse or at a log that failed."), lambda log: log.failures),
            (_gauge("written_sequence", "Everything through here is written."), lambda log: log.written_through),
            (_gauge("lag_messages", "Messages of the log that have not been read."), lambda log: log.lag),
            (_gauge("lag_seconds", "Age of the oldest event that is not written."), lambda log: log.lag_s(now_ns)),
            (_gauge("blocked", "Whether the writer waits for ClickHouse or its log."), lambda log: bool(log.trouble)),
        ):
            for log, progress in logs.items():
                family.add_metric((log,), float(value_of(progress)))
            yield family
        times = HistogramMetricFamily(f"{PREFIX}block_seconds", "Time to write a block.", labels=("log",))
        for log, progress in logs.items():
            times.add_metric((log,), progress.block_us.buckets(1_000_000), progress.block_us.total / 1e6)
        yield times


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}{name}", text, labels=("log",))


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, labels=("log",))
