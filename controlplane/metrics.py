"""Figures of the control plane for `/metrics`: read from the leader when somebody asks, but for the API's own.

| metric | labels |
|---|---|
| `ringfence_control_api_seconds` (histogram) | method, route, status |
| `ringfence_control_lease_answers_total` | outcome |
| `ringfence_control_*` | |
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.leader import Leader
from schemas.accounts import METERS
from schemas.money import NANOS_PER_USD

API_BUCKETS_S = (0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""A revocation takes milliseconds, and up to a second with a dead node."""

MONEY = ("usd", "refund")


class ControlMetrics:
    """One process's metrics."""

    def __init__(self, leader: Leader) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LeaderCollector(leader))
        self._api = Histogram(
            "ringfence_control_api_seconds",
            "Answers of the HTTP API.",
            ("method", "route", "status"),
            buckets=API_BUCKETS_S,
            registry=self._registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self._api.labels(method, route, str(status)).observe(seconds)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return bytes(generate_latest(self._registry))


class _LeaderCollector(Collector):
    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def collect(self) -> Iterable[Metric]:
        leader, replica, core = self._leader, self._leader.replica, self._leader.ledger.core
        yield _gauge("leading", "Whether this process leads and can write.", int(leader.readiness() is None))
        yield _gauge("epoch", "Sequence of this leadership's fence.", leader.epoch)
        yield _gauge("log_sequence", "Control log folded.", replica.control_seq)
        yield _gauge("nodes_sequence", "Node logs folded.", replica.nodes.seq)
        yield _gauge("live_nodes", "Incarnations that are not fenced.", len(replica.nodes.living))
        yield _counter("fences", "Incarnations that this leader fenced.", leader.membership.fenced)
        yield _gauge("open_barriers", "Tightening changes that some node may not have applied.", leader.barrier.open)
        yield _gauge("lease_waiters", "Asks that wait for budget.", core.waiting)
        answers = CounterMetricFamily(
            "ringfence_control_lease_answers", "Answers to asks for budget.", labels=("outcome",)
        )
        for outcome, count in (("granted", core.granted), ("refused", core.refused), ("unavailable", core.unavailable)):
            answers.add_metric((outcome,), count)
        yield answers
        yield _gauge("open_requests", "Admitted and not ended.", len(replica.budget.open))
        yield _gauge("unknown_outcomes", "Held at their bound until reconciled.", replica.budget.unknown_outcomes())
        yield _counter("overruns", "Requests that cost more than their bound.", replica.budget.overruns.requests)
        yield self._overrun_usd()
        yield _counter("feed_lost", "Messages of the feed that could not leave.", leader.feed.lost)
        yield _counter("checkpoints_failed", "Checkpoints that could not be written.", leader.recorder.failed)

    def _overrun_usd(self) -> Metric:
        amounts = self._leader.replica.budget.overruns.amounts
        family = CounterMetricFamily("ringfence_control_overrun_usd", "Dollars above bounds.", labels=("meter",))
        for meter, amount in zip(METERS, amounts, strict=True):
            if meter in MONEY:
                family.add_metric((meter,), amount / NANOS_PER_USD)
        return family


def _gauge(name: str, text: str, value: int) -> Metric:
    return GaugeMetricFamily(f"ringfence_control_{name}", text, value=value)


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"ringfence_control_{name}", text, value=value)
