"""CPU per request at saturation, contender by contender, round by round, on one core of their own."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import wrk
from bench.peers import bare, nginx, ringfence
from bench.peers.base import Peer
from bench.processes import cpu_ns, resident_bytes
from bench.run import Run, ratio

ROW = "cpu"
WARM_UP_S = 1.0


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
    with contenders(run) as (peers, token):
        results = {peer.name: Measured() for peer in peers}
        for peer in peers:
            _round(run, peer, token, Measured(), WARM_UP_S)
        for _ in range(run.rounds):
            for peer in peers:
                _round(run, peer, token, results[peer.name], run.seconds)
        for peer in peers:
            run.add(ROW, peer.name, "rss_bytes", [resident_bytes(peer.pids())])
    return _report(run, results)


@contextlib.contextmanager
def contenders(run: Run) -> Iterator[tuple[list[Peer], str]]:
    """All peers up, before one cheap upstream. Yields them with a vault key's token."""
    scratch, cores = run.scratch / ROW, run.cores
    scratch.mkdir()
    with contextlib.ExitStack() as up:
        upstream_port = up.enter_context(nginx.upstream(scratch, cores.load))
        peers = [
            up.enter_context(nginx.proxy(scratch, cores.proxy, upstream_port)),
            up.enter_context(bare.proxy(scratch, cores.proxy, upstream_port)),
        ]
        running = up.enter_context(ringfence.stack(scratch / "ringfence", cores, f"http://127.0.0.1:{upstream_port}"))
        peers.append(ringfence.peer(running))
        yield peers, ringfence.issue(running)


def _round(run: Run, peer: Peer, token: str, into: Measured, seconds: float) -> None:
    before = cpu_ns(peer.pids())
    helpers_before = {name: cpu_ns(pids()) for name, pids in peer.helpers.items()}
    done = wrk.saturate(
        peer.url,
        token,
        core=run.cores.load,
        connections=run.connections,
        duration_s=seconds,
        scratch=run.scratch,
    )
    used_ns = cpu_ns(peer.pids()) - before
    into.cpu_us.append(used_ns / 1000 / done.requests)
    into.requests_s.append(done.requests / done.elapsed_s)
    into.busy.append(used_ns / 1e9 / done.elapsed_s)
    for name, pids in peer.helpers.items():
        used = (cpu_ns(pids()) - helpers_before[name]) / 1000 / done.requests
        into.helpers_us.setdefault(name, []).append(used)


def _report(run: Run, results: dict[str, Measured]) -> list[str]:
    lines = [
        "## CPU per request at saturation",
        "",
        (
            f"POST of 325 bytes answered with 442, {run.connections} connections, {run.rounds} interleaved rounds of "
            f"{run.seconds:g} s; proxy alone on core {run.cores.proxy}, everything else on core {run.cores.load}."
        ),
        "",
        "| proxy | CPU us/request | (rounds) | x bare aiohttp | x nginx | requests/s | its core busy | RSS MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in results.items():
        cpu = run.add(ROW, name, "cpu_us", measured.cpu_us)
        rate = run.add(ROW, name, "requests_s", measured.requests_s)
        busy = run.add(ROW, name, "busy", measured.busy)
        rss = run.find(ROW, name, "rss_bytes")
        lines.append(
            f"| {name} | {cpu:.1f} | {min(measured.cpu_us):.1f} to {max(measured.cpu_us):.1f} "
            f"| {_times(run, name, 'bare aiohttp')} | {_times(run, name, 'nginx')} | {rate:,.0f} | {busy:.0%} "
            f"| {rss.value / 1e6 if rss else 0:.0f} |"
        )
    lines.append("")
    for name, measured in results.items():
        for helper, values in measured.helpers_us.items():
            cost = run.add(ROW, f"{name}: {helper}", "cpu_us", values)
            lines.append(f"Beside it, on the other core: {helper} {cost:.1f} us a request.")
    return [*lines, ""]


def _times(run: Run, name: str, other: str) -> str:
    above, below = run.find(ROW, name, "cpu_us"), run.find(ROW, other, "cpu_us")
    return f"{ratio(above, below):.2f}" if above and below else "-"
