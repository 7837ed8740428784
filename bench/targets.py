"""What is promised of the cost of a request, and what one run measured: must, aim, and a verdict for each."""

import operator
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.report import Result
from bench.rows.fairness import SCENES
from bench.run import Figure, ratio
from bench.stats import table

MB = 1e6

Measured = Callable[[Result, str], float | None]
"""Of a result and the name of a contender; None if the run did not measure it."""


class Target(NamedTuple):
    """`measured`, and the bounds on it in the same unit: at most (or at least, where `more` is better)."""

    name: str
    measured: Measured
    must: float
    aim: float
    unit: str
    more: bool = False

    def verdict(self, value: float) -> str:
        good = operator.ge if self.more else operator.le
        return "aim" if good(value, self.aim) else "must" if good(value, self.must) else "**missed**"


class Mixed(Exception):
    """Figures of several runs were to be put into one table."""


def _cost(other: str, row: str = "cpu", metric: str = "cpu_us") -> Measured:
    """Ringfence's over the other's, round by round."""

    def measured(result: Result, name: str) -> float | None:
        ours, theirs = _figure(result, row, name, metric), _figure(result, row, other, metric)
        return ratio(ours, theirs) if ours and theirs else None

    return measured


def _times_less(other: str) -> Measured:
    def measured(result: Result, name: str) -> float | None:
        ours, theirs = (_figure(result, "cpu", each, "cpu_us") for each in (name, other))
        return ratio(theirs, ours) if ours and theirs else None

    return measured


def _plain(row: str, metric: str, unit: float, contender: str = "") -> Measured:
    """A figure in a unit; `contender`: whose, if not Ringfence's own."""

    def measured(result: Result, name: str) -> float | None:
        figure = _figure(result, row, contender or name, metric)
        return figure.value / unit if figure else None

    return measured


TARGETS = (
    Target("CPU per request / bare aiohttp", _cost("bare aiohttp"), 0.75, 0.5, "x"),
    Target("CPU per request / nginx", _cost("nginx"), 6, 4, "x"),
    Target("CPU per request / Envoy with rate limit and mutation", _cost("Envoy"), 2, 1.3, "x"),
    Target("Portkey's CPU per request / ours", _times_less("Portkey"), 10, 15, "x", more=True),
    Target("LiteLLM's CPU per request / ours", _times_less("LiteLLM"), 75, 120, "x", more=True),
    Target("added latency p50, 200 requests/s", _plain("latency", "added_p50_us", 1e3), 1.5, 0.8, "ms"),
    Target("added latency p99, 200 requests/s", _plain("latency", "added_p99_us", 1e3), 5, 2, "ms"),
    Target("CPU per chunk of a stream / nginx", _cost("nginx", "sse", "chunk_us"), 1.5, 1.2, "x"),
    Target("memory of a worker with 100,000 keys", _plain("keys", "rss_bytes", MB, "100000"), 250, 150, "MB"),
    Target("start of a worker with 100,000 keys", _plain("keys", "start_s", 1, "100000"), 3, 1, "s"),
    Target("memory with 10,000 idle streams", _plain("idle streams", "rss_bytes", MB), 500, 500, "MB"),
    Target("p99 of the admitted at twice / at half the capacity", _plain("overload", "p99_times_half", 1), 3, 3, "x"),
    Target("recovery after the overload", _plain("overload", "recovery_s", 1), 1, 1, "s"),
    Target("CPU to refuse a request at the door", _plain("overload", "door_us", 1), 10, 10, "us"),
    *(
        Target(
            f"an agent's p99 beside a runaway: {scene.name}",
            _plain("fairness", "p99_change", 0.01, scene.name),
            20,
            20,
            "%",
        )
        for scene in SCENES
    ),
)


def verdicts(results: Iterable[Result]) -> list[str]:
    """Markdown: each target that the run measured. Raises Mixed: figures of two runs do not belong in one table."""
    found = list(results)
    if len({result.run_id for result in found}) != 1:
        runs = ", ".join(result.run_id for result in found)
        raise Mixed(f"figures of different runs ({runs}) must not be compared; measure all rows in one run")
    result = found[0]
    names = [each for each in ("ringfence", "ringfence-compiled") if _figure(result, "cpu", each, "cpu_us")]
    rows = []
    for target in TARGETS:
        values = [target.measured(result, name) for name in names or ["ringfence"]]
        if any(value is not None for value in values):
            rows.append([target.name, _bound(target, target.must), _bound(target, target.aim), *_cells(target, values)])
    if not rows:
        return []
    heads = [head for name in names or ["ringfence"] for head in (name, "")]
    return ["## Against what is promised", "", *table(["", "must", "aim", *heads], rows)]


def _cells(target: Target, values: list[float | None]) -> list[str]:
    """Of each contender: the figure, and which bound it keeps."""
    cells = []
    for value in values:
        cells += ["-", ""] if value is None else [f"{value:,.2f} {target.unit}", target.verdict(value)]
    return cells


def _bound(target: Target, value: float) -> str:
    return f"{'>=' if target.more else '<='} {value:g} {target.unit}"


def _figure(result: Result, row: str, contender: str, metric: str) -> Figure | None:
    wanted = (row, contender, metric)
    return next((f for f in result.figures if (f.row, f.contender, f.metric) == wanted), None)
