"""A control plane's `/metrics`: figures are read when somebody asks.

Every family is described in docs/OPERATIONS.md, and a test holds that page against what is collected here.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from controlplane.alerts.desk import AlertDesk
from controlplane.api.auth import FailedTries
from controlplane.audit_status import AuditEar
from controlplane.leader import Leader
from controlplane.log_watch import LogWatch
from controlplane.metrics_leader import leader_metrics
from controlplane.metrics_ledger import cap_metrics, ledger_metrics
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM
from schemas.histogram import Histogram
from schemas.metric_families import MICROS, counter, gauge, gauges, seconds_by

API_BOUNDS_US = (2_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000)
"""A revocation takes milliseconds, and up to a second with a dead node."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Of answers, told apart; what else somebody sends is `other`, for nobody needs a token to send it."""

NAME = "ringfence_control"


class Seen(Protocol):
    """What one control plane's process shows (controlplane.operations). `leader` and `desk` None: it stands by."""

    @property
    def leader(self) -> Leader | None: ...
    @property
    def replica(self) -> Replica: ...
    @property
    def watch(self) -> LogWatch: ...
    @property
    def desk(self) -> AlertDesk | None: ...
    @property
    def ear(self) -> AuditEar: ...
    @property
    def tries(self) -> FailedTries: ...
    @property
    def clock_offset_s(self) -> float | None: ...


class ControlMetrics:
    """One process's metrics."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._answers: dict[tuple[str, str, str], Histogram] = {}
        """By method, route (a template of the route table, never a path) and status."""

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        place = (method if method in METHODS else "other", route, str(status))
        histogram = self._answers.get(place)
        if histogram is None:
            histogram = self._answers[place] = Histogram(API_BOUNDS_US)
        histogram.observe(round(seconds * MICROS))

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Figures(self._seen, self._answers))
        ProcessCollector(registry=registry)
        return bytes(generate_latest(registry))


class _Figures(Collector):
    def __init__(self, seen: Seen, answers: Mapping[tuple[str, str, str], Histogram]) -> None:
        self._seen = seen
        self._answers = answers

    def collect(self) -> Iterable[Metric]:
        seen, leader = self._seen, self._seen.leader
        leading = leader is not None and leader.readiness() is None
        yield gauge(f"{NAME}_leading", "Whether this process leads and can write.", leading)
        yield gauge(f"{NAME}_standby", "Whether this process stands by.", leader is None)
        yield from self._logs()
        yield from ledger_metrics(seen.replica)
        yield from self._audit()
        if leader is not None:
            yield from leader_metrics(leader)
        if seen.desk is not None:
            yield from cap_metrics(seen.desk.caps)
            yield gauge(
                f"{NAME}_alerts_held_back", "Alerts not raised because of their bounds.", seen.desk.judge.held_back
            )
        kinds: dict[tuple[str], int] = {}
        for kind, _ in seen.replica.state.alerts.open:
            kinds[kind,] = kinds.get((kind,), 0) + 1
        yield gauges(f"{NAME}_alerts_open", "Open alerts.", ("kind",), kinds.items())
        yield counter(f"{NAME}_login_failures", "Failed operator logins.", seen.tries.total)
        yield counter(
            f"{NAME}_login_limited", "Failed operator logins that were answered with 429.", seen.tries.limited
        )
        if seen.clock_offset_s is not None:
            text = "This machine's wall clock less the NATS server's."
            yield gauge(f"{NAME}_clock_offset_seconds", text, seen.clock_offset_s)
        labels = ("method", "route", "status")
        yield seconds_by(f"{NAME}_api_seconds", "Answers of the HTTP API.", labels, self._answers.items())

    def _logs(self) -> Iterable[Metric]:
        replica, watch = self._seen.replica, self._seen.watch
        folded = {CONTROL_STREAM: replica.control_seq, NODES_STREAM: replica.nodes.seq}
        streams = [(stream,) for stream in folded]
        yield gauges(
            f"{NAME}_log_sequence", "Sequence through which a log is folded.", ("stream",),
            [((stream,), seq) for stream, seq in folded.items()],
        )  # fmt: skip
        lags = [((name,), max(0, state.last_sequence - folded.get(name, 0))) for name, state in watch.states.items()]
        yield gauges(
            f"{NAME}_log_lag_messages",
            "Messages that were stored at the last look and are not folded.",
            ("stream",),
            lags,
        )
        full = [((name,), share) for name, share in watch.shares.items()]
        yield gauges(f"{NAME}_stream_full_ratio", "How full a stream is.", ("stream",), full)
        sizes = [((name,), state.size_bytes) for name, state in watch.states.items()]
        yield gauges(f"{NAME}_stream_bytes", "Size of a stream.", ("stream",), sizes)
        silent = [(labels, watch.silent_s(labels[0])) for labels in streams]
        yield gauges(f"{NAME}_stream_silent_seconds", "How long a stream has not answered.", ("stream",), silent)
        yield gauge(f"{NAME}_admission_stopped", "Whether the logs are too full to admit anything.", watch.full)

    def _audit(self) -> Iterable[Metric]:
        ear = self._seen.ear
        lags = [((log,), progress.lag_s) for log, progress in ear.logs.items()]
        yield gauges(f"{NAME}_audit_lag_seconds", "Age of the oldest event that the audit lacks.", ("log",), lags)
        yield gauge(f"{NAME}_audit_silent_seconds", "How long the audit writer has not been heard.", ear.silent_s())
