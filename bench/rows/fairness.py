"""What a runaway agent with fifty times another's load does to the other (P6)."""

from bench.children import free_port
from bench.contenders import raw_request
from bench.generator import Flow, generate
from bench.peers import ringfence
from bench.run import Run
from bench.spinner import awake
from bench.stats import percentile, table
from bench.vendor import VendorSettings, vendor

ROW = "fairness"
RATE = 30.0
TIMES = 50
CONNECTIONS = 128
DELAYS_S = {"a vendor that answers at once": 0.0, "a vendor that takes 100 ms": 0.1}


def measure(run: Run) -> list[str]:
    """Markdown lines: the other's p99 alone and beside the runaway, in turn, round by round."""
    rows = []
    for name, delay_s in DELAYS_S.items():
        alone, beside, refused = _rounds(run, delay_s)
        changes = [b / a - 1 for a, b in zip(alone, beside, strict=True)]
        change = run.add(ROW, name, "p99_change", changes)
        mine, theirs = (
            run.add(ROW, name, f"p99_{what}_us", values) for what, values in (("alone", alone), ("beside", beside))
        )
        rows.append([name, f"{mine / 1000:.2f}", f"{theirs / 1000:.2f}", f"{change:+.0%}", f"{refused}"])
    return [
        "## Fairness",
        "",
        (
            f"An agent with {RATE:.0f} requests a second, alone and beside another with {RATE * TIMES:.0f}; open loop; "
            f"{run.rounds} interleaved rounds."
        ),
        "",
        *table(["", "p99 alone ms", "beside the runaway ms", "change", "its refusals"], rows),
    ]


def _rounds(run: Run, delay_s: float) -> tuple[list[float], list[float], int]:
    scratch, cores = run.scratch / f"{ROW}-{delay_s:g}", run.cores
    scratch.mkdir()
    settings = VendorSettings(free_port(), delay_s=delay_s)
    alone: list[float] = []
    beside: list[float] = []
    refused = 0
    with (
        vendor(scratch, cores.load, settings) as port,
        ringfence.stack(scratch / "ringfence", cores, f"http://127.0.0.1:{port}", {"max_concurrent": 2_000}) as running,
        awake(cores),
    ):
        gateway = ringfence.peer(running)
        other = raw_request(gateway, ringfence.issue(running, "bot"))
        runaway = raw_request(gateway, ringfence.issue(running, "runaway"))
        seconds = max(2.0, run.seconds)
        quiet = Flow("bot", *other, ((seconds, RATE),), 8)
        busy_connections = max(CONNECTIONS, round(RATE * TIMES * delay_s * 2))
        loud = Flow("runaway", *runaway, ((seconds, RATE * TIMES),), busy_connections)
        for number in range(run.rounds + 1):
            for flows, into in (([quiet], alone), ([quiet, loud], beside)):
                samples = [s for s in generate(flows, cores.load) if s.flow == "bot"]
                refused += sum(1 for s in samples if s.status != 200)
                if number:  # the first round warms up
                    into.append(percentile([s.took_us for s in samples if s.status == 200], 0.99))
    return alone, beside, refused
