"""`make bench-check`: have the ratios become worse than those of the committed run?

Only ratios are compared, each of two figures of one run: Ringfence's cost over a peer's that ran in turn with it. A
ratio counts as worse above 110% of the baseline's. Ratios over peers of different versions are not compared.
"""

from pathlib import Path

import msgspec

from bench.report import Result
from bench.run import Figure, ratio
from bench.stats import table

BASELINE = Path(__file__).parent / "baseline.json"
WORSE = 1.10

COMPARED = tuple(
    (row, ours, theirs, metric)
    for row, theirs, metric in (
        ("cpu", "nginx", "cpu_us"),
        ("cpu", "bare aiohttp", "cpu_us"),
        ("sse", "nginx", "chunk_us"),
    )
    for ours in ("ringfence", "ringfence-compiled")
)
"""(row, contender, over which other, metric). Latencies are too noisy on shared machines to fail a build."""


VERSIONED = {"nginx": "nginx", "bare aiohttp": "aiohttp"}
"""What a peer is made of, as the machine's description names it."""


class Incomparable(Exception):
    """The figures do not belong together."""


def ratio_within(result: Result, row: str, above: str, below: str, metric: str) -> float | None:
    """A ratio of one run; None if either figure is missing."""
    found: dict[str, Figure] = {
        figure.contender: figure for figure in result.figures if (figure.row, figure.metric) == (row, metric)
    }
    return ratio(found[above], found[below]) if above in found and below in found else None


def peer_version(result: Result, peer: str) -> str:
    """Of a peer in that run, with the interpreter's where it is written in Python."""
    machine, name = result.machine, VERSIONED[peer]
    programs, packages = (msgspec.convert(machine[each], dict[str, str]) for each in ("programs", "versions"))
    return programs[name] if name in programs else f"{packages.get(name, '')}, Python {machine['python']}"


def compare(result: Result, baseline: Result) -> tuple[list[str], bool]:
    """Markdown lines, and whether nothing became worse. Raises Incomparable if there is nothing to compare."""
    rows, good, compared = [], True, False
    for row, above, below, metric in COMPARED:
        now, then = (ratio_within(each, row, above, below, metric) for each in (result, baseline))
        if now is None or then is None:
            continue
        if (ours := peer_version(result, below)) != (theirs := peer_version(baseline, below)):
            rows.append([f"{row}: {above} / {below}", f"{theirs}", f"{ours}", "", "other versions, not compared"])
            continue
        compared = True
        worse = now > then * WORSE
        good = good and not worse
        verdict = "worse" if worse else "as good"
        rows.append([f"{row}: {above} / {below}", f"{then:.2f}", f"{now:.2f}", f"{now / then - 1:+.0%}", verdict])
    if not compared:
        raise Incomparable("the two runs have no ratio of the same versions in common")
    return ["## Against the baseline", "", *table(["ratio", "baseline", "now", "change", ""], rows)], good
