"""`make bench-check`: have the ratios become worse than those of the committed run?

Only ratios are compared, each of two figures of one run: Ringfence's cost over a peer's that ran in turn with it. A
ratio counts as worse above 110% of the baseline's.
"""

from pathlib import Path

from bench.report import Result
from bench.run import Figure, ratio
from bench.stats import table

BASELINE = Path(__file__).parent / "baseline.json"
WORSE = 1.10

COMPARED = (
    ("cpu", "ringfence", "nginx", "cpu_us"),
    ("cpu", "ringfence", "bare aiohttp", "cpu_us"),
    ("sse", "ringfence", "nginx", "chunk_us"),
)
"""(row, contender, over which other, metric). Latencies are too noisy on shared machines to fail a build."""


class Incomparable(Exception):
    """The figures do not belong together."""


def ratio_within(result: Result, row: str, above: str, below: str, metric: str) -> float | None:
    """A ratio of one run; None if either figure is missing."""
    found: dict[str, Figure] = {
        figure.contender: figure for figure in result.figures if (figure.row, figure.metric) == (row, metric)
    }
    return ratio(found[above], found[below]) if above in found and below in found else None


def compare(result: Result, baseline: Result) -> tuple[list[str], bool]:
    """Markdown lines, and whether nothing became worse. Raises Incomparable if there is nothing to compare."""
    rows, good = [], True
    for row, above, below, metric in COMPARED:
        now, then = (ratio_within(each, row, above, below, metric) for each in (result, baseline))
        if now is None or then is None:
            continue
        worse = now > then * WORSE
        good = good and not worse
        verdict = "worse" if worse else "as good"
        rows.append([f"{row}: {above} / {below}", f"{then:.2f}", f"{now:.2f}", f"{now / then - 1:+.0%}", verdict])
    if not rows:
        raise Incomparable("the two runs have no ratio in common")
    return ["## Against the baseline", "", *table(["ratio", "baseline", "now", "change", ""], rows)], good
