"""CPU per request at saturation, contender by contender, round by round, on one core of their own."""

from dataclasses import dataclass, field

from bench import wrk
from bench.contenders import contenders
from bench.peers.base import Peer
from bench.processes import cpu_ns, resident_bytes
from bench.run import Run, ratio
from bench.stats import table
from bench.turns import alone

ROW = "cpu"
WARM_UP_S, SLOW_WARM_UP_S = 1.0, 6.0
AGAIN_S = 1.0
"""Before each round: who has waited for its turn may find that the machine has taken its idle memory meanwhile."""


@dataclass
class Measured:
    """A contender's rounds."""

    cpu_us: list[float] = field(default_factory=list)
    requests_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Share of its core that it used: below one, the generator's core was the bottleneck."""
    helpers_us: dict[str, list[float]] = field(default_factory=dict)


def measure(run: Run) -> list[str]:
    """Markdown lines."""
    with contenders(run, ROW) as up:
        peers, token = up.peers, up.token
        results = {peer.name: Measured() for peer in peers}
        for peer in peers:
            _load(run, peer, token, WARM_UP_S if peer.rate is None else SLOW_WARM_UP_S)
        for _ in range(run.rounds):
            for peer in peers:
                with alone(peer, peers):
                    _round(run, peer, token, results[peer.name], run.seconds)
        for peer in peers:
            run.add(ROW, peer.name, "rss_bytes", [resident_bytes(peer.pids())])
    return _report(run, results)


def _round(run: Run, peer: Peer, token: str, into: Measured, seconds: float) -> None:
    _load(run, peer, token, AGAIN_S)
    before = cpu_ns(peer.pids())
    helpers_before = {name: cpu_ns(pids()) for name, pids in peer.helpers.items()}
    done = _load(run, peer, token, seconds)
    if not done.requests:
        raise wrk.Unsound(f"{peer.name} answered nothing in {seconds:g} s")
    used_ns = cpu_ns(peer.pids()) - before
    into.cpu_us.append(used_ns / 1000 / done.requests)
    into.requests_s.append(done.requests / done.elapsed_s)
    into.busy.append(used_ns / 1e9 / done.elapsed_s)
    for name, pids in peer.helpers.items():
        used = (cpu_ns(pids()) - helpers_before[name]) / 1000 / done.requests
        into.helpers_us.setdefault(name, []).append(used)


def _load(run: Run, peer: Peer, token: str, seconds: float) -> wrk.Saturated:
    core, scratch = run.cores.load, run.scratch
    return wrk.saturate(peer, token, core=core, connections=run.connections, duration_s=seconds, scratch=scratch)


def _report(run: Run, results: dict[str, Measured]) -> list[str]:
    rows, beside = [], []
    for name, measured in results.items():
        cpu = run.add(ROW, name, "cpu_us", measured.cpu_us)
        rate = run.add(ROW, name, "requests_s", measured.requests_s)
        busy = run.add(ROW, name, "busy", measured.busy)
        rss = run.value(ROW, name, "rss_bytes")
        spread = f"{min(measured.cpu_us):.1f} to {max(measured.cpu_us):.1f}"
        rows.append([name, f"{cpu:.1f}", spread, f"{rate:,.0f}", f"{busy:.0%}", f"{rss / 1e6:.0f}"])
    for row in rows:
        row[3:3] = [_times(run, row[0], other) for other in ("bare aiohttp", "nginx", "Envoy")]
    for name, measured in results.items():
        costs = {each: run.add(ROW, f"{name}: {each}", "cpu_us", us) for each, us in measured.helpers_us.items()}
        if costs:
            beside.append(f"{name}: " + ", ".join(f"{helper} {cost:.1f}" for helper, cost in costs.items()))
    head = [
        "proxy",
        "CPU us/request",
        "rounds",
        "x bare aiohttp",
        "x nginx",
        "x Envoy",
        "requests/s",
        "core busy",
        "MB",
    ]
    return [
        "## CPU per request at saturation",
        "",
        (
            f"POST of 325 bytes answered with 442, {run.connections} connections, {run.rounds} interleaved rounds of "
            f"{run.seconds:g} s; proxy alone on core {run.cores.proxy} (the others stand still), everything else on "
            f"core {run.cores.load}."
        ),
        "",
        *table(head, rows),
        (
            f"Beside Ringfence's worker, on the other core, in us a request: {'; '.join(beside)}. (The audit comes "
            "last there and works it off when there is time; its own row has what a row costs.)"
        ),
        "",
    ]


def _times(run: Run, name: str, other: str) -> str:
    above, below = run.find(ROW, name, "cpu_us"), run.find(ROW, other, "cpu_us")
    return f"{ratio(above, below):.2f}" if above and below else "-"
