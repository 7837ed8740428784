"""What a proxy adds to a request's time, at a constant rate far below saturation, without coordinated omission."""

from bench.contenders import Contenders, contenders, raw_request
from bench.generator import Flow, generate
from bench.peers import ringfence
from bench.peers.base import Peer
from bench.run import Run
from bench.spinner import awake
from bench.stats import percentile, table
from bench.turns import alone

ROW = "latency"
RATE = 200.0
CONNECTIONS = 8
WARM_UP_S = 1.0
SHARES = {"p50": 0.5, "p99": 0.99}


def measure(run: Run) -> list[str]:
    """Markdown lines. Per round every contender has its turn, and so has the upstream without any."""
    added: dict[str, dict[str, list[float]]] = {}
    with contenders(run, ROW) as up, awake(run.cores, ringfence.behind(up.running)):
        slow = [peer for peer in up.peers if peer.rate is not None]
        for peer in up.peers:
            _percentiles(run, up, peer, WARM_UP_S)
        for _ in range(run.rounds):
            with alone(None, up.peers):
                direct = _percentiles(run, up, up.direct, run.seconds)
            for peer in up.peers:
                with alone(peer, up.peers):
                    _percentiles(run, up, peer, WARM_UP_S)
                    found = _percentiles(run, up, peer, run.seconds)
                for name, value in found.items():
                    added.setdefault(peer.name, {}).setdefault(name, []).append(value - direct[name])
    rows = []
    for name, values in added.items():
        p50, p99 = (run.add(ROW, name, f"added_{share}_us", values[share]) for share in SHARES)
        spread = f"{min(values['p99']):.0f} to {max(values['p99']):.0f}"
        rows.append([name, f"{p50:.0f}", f"{p99:.0f}", spread])
    return [
        f"## Added latency at {RATE:.0f} requests a second",
        "",
        (
            f"Open loop, {CONNECTIONS} connections, {run.rounds} interleaved rounds of {run.seconds:g} s. The same "
            "percentile without a proxy is subtracted, round by round. Spinners of low priority keep the cores awake."
            + "".join(f" {peer.name}: at {peer.rate:g} a second." for peer in slow)
        ),
        "",
        *table(["proxy", "p50 us", "p99 us", "p99 of rounds"], rows),
    ]


def _percentiles(run: Run, up: Contenders, peer: Peer, seconds: float) -> dict[str, float]:
    port, request = raw_request(peer, up.token)
    rate = peer.rate or RATE
    samples = generate([Flow(peer.name, port, request, ((seconds, rate),), CONNECTIONS)], run.cores.load, punctual=True)
    if bad := [sample.status for sample in samples if sample.status != 200]:
        raise RuntimeError(f"{peer.name} answered {bad[0]} to {len(bad)} of {len(samples)}")
    took_us = [sample.took_us for sample in samples]
    return {name: percentile(took_us, share) for name, share in SHARES.items()}
