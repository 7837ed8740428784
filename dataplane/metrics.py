"""Figures of one node for `/metrics`: plain integers where they arise, the text format when somebody asks.

Every family is described in docs/OPERATIONS.md, and a test holds that page against what is collected here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from dataplane.core.backlog import Backlog
from dataplane.core.shed import Shedder
from dataplane.governor import Governor
from dataplane.metrics_node import node_metrics
from schemas.histogram import Histogram
from schemas.metric_families import counter, counters, gauge, seconds

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
        self.shedder = Shedder(time.thread_time_ns)
        self.backlog = Backlog()
        self.sources: list[Callable[[], Iterable[Metric]]] = []
        """What else to collect, from parts that the governor does not know."""
        self.overhead_us = Histogram(BUCKETS_US)
        """The gateway's own share of each request's time."""


class _NodeCollector(Collector):
    def __init__(self, metrics: Metrics, governor: Governor) -> None:
        self._metrics = metrics
        self._governor = governor

    def collect(self) -> Iterable[Metric]:
        metrics, node = self._metrics, self._governor.node
        places = (((upstream, outcome), count) for (upstream, outcome), count in metrics.requests.items())
        yield counters("ringfence_requests", "Requests.", ("upstream", "outcome"), places)
        codes = (((code,), count) for code, count in metrics.refusals.items())
        yield counters("ringfence_refusals", "Refusals by code.", ("code",), codes)
        text = "Time that the gateway itself added to a request."
        yield seconds("ringfence_overhead_seconds", text, metrics.overhead_us)
        yield counter("ringfence_shed", "Requests refused at the door.", metrics.shed)
        yield gauge("ringfence_door_queue", "Requests that nobody has looked at yet.", metrics.shedder.queued)
        text = "How many requests may be in that queue or have an intent that waits for the log."
        yield gauge("ringfence_door_limit", text, metrics.shedder.limit)
        yield gauge("ringfence_door_log_limit", "How many events may wait for the log.", metrics.backlog.limit)
        yield counter("ringfence_defects", "Exceptions that should not happen.", metrics.defects)
        yield gauge("ringfence_in_flight", "Admitted requests that have not ended.", len(node.inflight))
        yield from node_metrics(node)
        for source in metrics.sources:
            yield from source()


def exposition(metrics: Metrics, governor: Governor) -> bytes:
    """The text format. It is asked for every few seconds and takes a millisecond."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(metrics, governor))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
