"""Figures of one node for `/metrics`: plain integers where they arise, the text format when somebody asks.

Every family is described in docs/OPERATIONS.md, and a test holds that page against what is collected here.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dataplane.core.shed import Shedder
from dataplane.governor import Governor
from dataplane.metrics_node import node_metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST

BUCKETS_US = (100, 200, 300, 500, 800, 1_200, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000)
"""Bounds of the overhead histogram, in microseconds: about a millisecond is aimed at."""


class Metrics:
    """Counters that the way of a request increments."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.defects = 0
        self.shed = 0
        self.shedder = Shedder()
        self.sources: list[Callable[[], Iterable[Metric]]] = []
        """What else to collect, from parts that the governor does not know."""
        self._buckets = [0] * (len(BUCKETS_US) + 1)
        self._overhead_us = 0

    def overhead(self, microseconds: int) -> None:
        """The gateway's own share of one request's time."""
        self._buckets[bisect_left(BUCKETS_US, microseconds)] += 1
        self._overhead_us += microseconds

    def histogram(self) -> HistogramMetricFamily:
        cumulative, buckets = 0, []
        for bound, count in zip((*BUCKETS_US, None), self._buckets, strict=True):
            cumulative += count
            buckets.append(("+Inf" if bound is None else f"{bound / 1e6:g}", cumulative))
        return HistogramMetricFamily(
            "ringfence_overhead_seconds",
            "Time that the gateway itself added to a request.",
            buckets=buckets,
            sum_value=self._overhead_us / 1e6,
        )


class _NodeCollector(Collector):
    def __init__(self, metrics: Metrics, governor: Governor) -> None:
        self._metrics = metrics
        self._governor = governor

    def collect(self) -> Iterable[Metric]:
        metrics, node = self._metrics, self._governor.node
        requests = CounterMetricFamily("ringfence_requests", "Requests.", labels=("upstream", "outcome"))
        for place, count in metrics.requests.items():
            requests.add_metric(place, count)
        yield requests
        refusals = CounterMetricFamily("ringfence_refusals", "Refusals by code.", labels=("code",))
        for code, count in metrics.refusals.items():
            refusals.add_metric((code,), count)
        yield refusals
        yield metrics.histogram()
        shedder = metrics.shedder
        yield CounterMetricFamily("ringfence_shed", "Requests refused at the door.", value=metrics.shed)
        yield GaugeMetricFamily("ringfence_door_queue", "Requests that nobody has looked at yet.", shedder.queued)
        yield GaugeMetricFamily("ringfence_door_limit", "How many may be in that queue.", shedder.limit)
        yield CounterMetricFamily("ringfence_defects", "Exceptions that should not happen.", value=metrics.defects)
        yield GaugeMetricFamily("ringfence_in_flight", "Admitted requests that have not ended.", len(node.inflight))
        yield from node_metrics(node)
        for source in metrics.sources:
            yield from source()


def exposition(metrics: Metrics, governor: Governor) -> bytes:
    """The text format. It is asked for every few seconds and takes a millisecond."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(metrics, governor))
    return generate_latest(registry)
