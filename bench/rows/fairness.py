"""What a runaway agent with fifty times another's load does to the other (P6)."""

from typing import NamedTuple

from bench.children import free_port
from bench.contenders import raw_request
from bench.generator import Flow, Sample, generate
from bench.peers import ringfence
from bench.run import Run
from bench.spinner import awake
from bench.stats import percentile, table
from bench.vendor import VendorSettings, vendor

ROW = "fairness"
OK = 200
RATE = 30.0
TIMES = 50
CONNECTIONS = 128
SECONDS = 4.0
"""Of a turn, at least: a p99 needs some hundred requests in all."""
LIMITED = 600
"""Requests a minute that a limited runaway may make; it tries a hundred and fifty times as many."""


class Scene(NamedTuple):
    """`limit`: the runaway's own, a minute."""

    name: str
    delay_s: float
    limit: int


SCENES = (
    Scene("vendor at once, runaway limited", 0.0, LIMITED),
    Scene("vendor at once, runaway without a limit", 0.0, ringfence.PER_MINUTE),
    Scene("vendor takes 100 ms, runaway without a limit", 0.1, ringfence.PER_MINUTE),
)


def measure(run: Run) -> list[str]:
    """Markdown lines: the other's p99 alone and beside the runaway, in turn, over all rounds."""
    rows = []
    for scene in SCENES:
        alone, beside = _rounds(run, scene)
        mine, theirs = (_p99_us(samples) for samples in (alone, beside))
        change = run.add(ROW, scene.name, "p99_change", [theirs / mine - 1])
        run.add(ROW, scene.name, "p99_alone_us", [mine])
        run.add(ROW, scene.name, "p99_beside_us", [theirs])
        p50 = [percentile([s.took_us for s in samples], 0.5) / 1000 for samples in (alone, beside)]
        refused = sum(1 for s in [*alone, *beside] if s.status != OK)
        cells = [f"{p50[0]:.2f}", f"{p50[1]:.2f}", f"{mine / 1000:.2f}", f"{theirs / 1000:.2f}"]
        rows.append([scene.name, *cells, f"{change:+.0%}", f"{refused}"])
    heads = ["", "p50 alone ms", "p50 beside ms", "p99 alone ms", "p99 beside ms", "change", "its refusals"]
    return [
        "## Fairness",
        "",
        (
            f"An agent with {RATE:.0f} requests a second, alone and beside a runaway with {RATE * TIMES:.0f}; open "
            f"loop; {run.rounds} interleaved rounds, percentiles over all of them. A limited runaway may make "
            f"{LIMITED} a minute."
        ),
        "",
        *table(heads, rows),
    ]


def _p99_us(samples: list[Sample]) -> float:
    return percentile([s.took_us for s in samples if s.status == OK], 0.99)


def _rounds(run: Run, scene: Scene) -> tuple[list[Sample], list[Sample]]:
    """The quiet agent's requests, alone and beside the other."""
    scratch, cores = run.scratch / f"{ROW}-{SCENES.index(scene)}", run.cores
    scratch.mkdir()
    settings = VendorSettings(free_port(), delay_s=scene.delay_s)
    alone: list[Sample] = []
    beside: list[Sample] = []
    with (
        vendor(scratch, cores.load, settings) as port,
        ringfence.stack(scratch / "ringfence", cores, f"http://127.0.0.1:{port}", {"max_concurrent": 2_000}) as running,
        awake(cores, ringfence.behind(running)),
    ):
        gateway = ringfence.peer(running)
        other = raw_request(gateway, ringfence.issue(running, "bot"))
        runaway = raw_request(gateway, ringfence.issue(running, "runaway", scene.limit))
        seconds = max(SECONDS, run.seconds)
        quiet = Flow("bot", *other, ((seconds, RATE),), 8)
        busy_connections = max(CONNECTIONS, round(RATE * TIMES * scene.delay_s * 2))
        loud = Flow("runaway", *runaway, ((seconds, RATE * TIMES),), busy_connections)
        for number in range(run.rounds + 1):
            for flows, into in (([quiet], alone), ([quiet, loud], beside)):
                samples = [s for s in generate(flows, cores.load, punctual=True) if s.flow == "bot"]
                if number:  # the first round warms up
                    into.extend(samples)
    return alone, beside
