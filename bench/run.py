"""One run of the bench: its options, its machine, and the figures it has gathered.

Machines differ and drift: figures are compared within one run alone, and every result carries the run's id so that
nobody compares them otherwise.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.machine import Cores


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value: the median of its rounds, and the rounds themselves."""

    row: str
    contender: str
    metric: str
    """With its unit last: `cpu_us`, `added_p99_us`, `rss_bytes`."""
    value: float
    rounds: tuple[float, ...] = ()


@dataclass
class Run:
    """`rounds`, `seconds`: of each contender, in turn. `scratch`: gone after the run."""

    run_id: str
    cores: Cores
    rounds: int
    seconds: float
    connections: int
    scratch: Path
    key_counts: tuple[int, ...] = (10_000,)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    failed: list[str] = field(default_factory=list)
    """Rows that broke off."""

    def add(self, row: str, contender: str, metric: str, values: Sequence[float]) -> float:
        """Keep a figure; returns its median. The rounds stay in order: same index, same round."""
        value = statistics.median(values)
        self.figures.append(Figure(row=row, contender=contender, metric=metric, value=value, rounds=tuple(values)))
        return value

    def note(self, text: str) -> None:
        """Say once what could not be measured."""
        if text not in self.notes:
            self.notes.append(text)

    def find(self, row: str, contender: str, metric: str) -> Figure | None:
        for figure in self.figures:
            if (figure.row, figure.contender, figure.metric) == (row, contender, metric):
                return figure
        return None

    def value(self, row: str, contender: str, metric: str) -> float:
        """Of a figure that is there. Raises KeyError."""
        figure = self.find(row, contender, metric)
        if figure is None:
            raise KeyError((row, contender, metric))
        return figure.value

    def of(self, row: str) -> dict[str, dict[str, Figure]]:
        """Figures of one row: contender -> metric -> figure."""
        found: dict[str, dict[str, Figure]] = {}
        for figure in self.figures:
            if figure.row == row:
                found.setdefault(figure.contender, {})[figure.metric] = figure
        return found


def ratio(above: Figure, below: Figure) -> float:
    """Of two figures of one run: the median of the rounds' ratios where both have the same rounds."""
    if above.rounds and len(above.rounds) == len(below.rounds):
        return statistics.median(a / b for a, b in zip(above.rounds, below.rounds, strict=True))
    return above.value / below.value
