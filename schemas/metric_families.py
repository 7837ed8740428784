"""Making Prometheus's families: one line each, so that collectors read as lists of figures."""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from schemas.accounts import MONEY_METERS
from schemas.histogram import Histogram
from schemas.money import NANOS_PER_USD

MICROS = 1_000_000


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def counter(name: str, text: str, value: float) -> Metric:
    """`name` without `_total`, which is added."""
    return CounterMetricFamily(name, text, value=float(value))


def gauges(name: str, text: str, labels: Sequence[str], figures: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, figure in figures:
        family.add_metric(values, float(figure))
    return family


def counters(name: str, text: str, labels: Sequence[str], figures: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, figure in figures:
        family.add_metric(values, float(figure))
    return family


def seconds(name: str, text: str, micros: Histogram) -> Metric:
    """A histogram of microseconds, in seconds."""
    return HistogramMetricFamily(name, text, buckets=micros.buckets(MICROS), sum_value=micros.total / MICROS)


def seconds_by(
    name: str, text: str, labels: Sequence[str], micros: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    """Histograms of microseconds, one for each set of labels, in seconds."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in micros:
        family.add_metric(values, buckets=histogram.buckets(MICROS), sum_value=histogram.total / MICROS)
    return family


def sizes(name: str, text: str, counts: Histogram) -> Metric:
    """A histogram of counts."""
    return HistogramMetricFamily(name, text, buckets=counts.buckets(), sum_value=float(counts.total))


def in_unit(meter: str, amount: int) -> float:
    """Dollars for meters of money, else the count itself. For people; nothing is decided by it."""
    return amount / NANOS_PER_USD if meter in MONEY_METERS else float(amount)
