"""What a node does at twice what it can carry: whom it refuses, what that costs, how long the admitted wait.

Generator, vendor and log share a core with control plane and audit, for which no request waits. Vendor and log come
before all others there: else the log would wait for the core two thirds of the time, most of all at half the load, when
the audit works off what it has not got to before, and the p99 at half would be so high that the one at twice looked
good beside it. The generator does not: at twice the load the system would hold up whoever is so seldom idle for 50 ms
each second. So some 2 ms of its own are in the p99 at either load. Nor does the worker, which has its core for itself.
"""

from collections.abc import Sequence

from bench import door, wrk
from bench.contenders import contenders, raw_request
from bench.generator import Flow, Sample, generate
from bench.peers import ringfence
from bench.processes import cpu_ns
from bench.run import Run
from bench.spinner import awake
from bench.stats import percentile, table

ROW = "overload"
CONNECTIONS = 1024
SATURATING, SATURATED_S = 64, 3.0
"""As many clients as are no overload by themselves."""
HALF_S, TWICE_S, AFTER_S = 5.0, 5.0, 2.0
"""As long at half as at twice: a p99 moves with single slow syncs of the disk."""
ONSET_S = 1.0
"""Of the overload: until the queue is known to stand. Shown apart."""
LATE_TIMES, LATE_SHARE, STRETCH_S = 3.0, 0.02, 0.1
CYCLES = 3
OK, SHED = 200, 503


def measure(run: Run) -> list[str]:
    """Markdown lines."""
    with contenders(run, ROW, others=False) as up:
        pids = up.gateway.pids()
        before = cpu_ns(pids)
        full = wrk.saturate(
            up.gateway,
            up.token,
            core=run.cores.load,
            connections=SATURATING,
            duration_s=SATURATED_S,
            scratch=run.scratch,
            refusals=True,
        )
        served_us = (cpu_ns(pids) - before) / 1000 / full.requests
        capacity = full.requests / full.elapsed_s
        port, request = raw_request(up.gateway, up.token)
        phases = ((HALF_S, capacity / 2), (TWICE_S, capacity * 2), (AFTER_S, capacity / 2))
        flow = Flow("load", port, request, phases, CONNECTIONS)
        with awake(run.cores, {*ringfence.behind(up.running), *pids}):
            cycles = [generate([flow], run.cores.load) for _ in range(min(CYCLES, run.rounds))]
    return _report(run, cycles, capacity, served_us, full.others)


def _parts(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    twice_s, after_s = HALF_S, HALF_S + TWICE_S
    return {
        "half the capacity": [s for s in samples if ONSET_S <= s.due_s < twice_s],
        "twice, its first second": [s for s in samples if twice_s <= s.due_s < twice_s + ONSET_S],
        "twice": [s for s in samples if twice_s + ONSET_S <= s.due_s < after_s],
        "half again": [s for s in samples if s.due_s >= after_s],
    }


def _p99_us(samples: Sequence[Sample]) -> float:
    return percentile([s.took_us for s in samples if s.status == OK], 0.99)


def _report(run: Run, cycles: Sequence[Sequence[Sample]], capacity: float, served_us: float, refused: int) -> list[str]:
    samples = [sample for cycle in cycles for sample in cycle]
    parts = _parts(samples)
    rows = []
    for name, part in parts.items():
        admitted = [s.took_us for s in part if s.status == OK]
        shed = [s.took_us for s in part if s.status == SHED]
        run.add(ROW, name, "admitted_p99_us", [percentile(admitted, 0.99)])
        run.add(ROW, name, "shed_share", [len(shed) / max(1, len(part))])
        rows.append(
            [name, f"{len(part):,}", f"{len(admitted):,}", f"{len(shed) / max(1, len(part)):.0%}"]
            + [f"{percentile(values, share) / 1000:.1f}" for values, share in ((admitted, 0.5), (admitted, 0.99))]
            + [f"{percentile(shed, 0.99) / 1000:.1f}" if shed else "-"]
        )
    each = [_parts(cycle) for cycle in cycles]
    halves = [_p99_us(part["half the capacity"]) for part in each]
    run.add(ROW, "ringfence", "capacity_s", [capacity])
    times = run.add(
        ROW, "ringfence", "p99_times_half", [_p99_us(p["twice"]) / half for p, half in zip(each, halves, strict=True)]
    )
    recoveries = [_recovery_s(part["half again"], half) for part, half in zip(each, halves, strict=True)]
    recovery_s = run.add(ROW, "ringfence", "recovery_s", recoveries)
    door_us = door.measure(run, ROW)
    others = sum(1 for s in samples if s.status not in {OK, SHED})
    return [
        "## Overload",
        "",
        (
            f"As fast as answers come, {SATURATING} connections get {capacity:,.0f} a second, and "
            f"{refused:,} refusals: that is the "
            f"capacity of these two cores ({served_us:.0f} us of the worker's own a request, which is busy for "
            f"{capacity * served_us / 1e6:.0%}; generator, vendor, log, control plane and audit share the other). "
            f"Open loop, {CONNECTIONS} connections; latency from when a request was due. "
            "Vendor and log come before all others on their core."
        ),
        "",
        *table(["load", "requests", "admitted", "shed", "p50 ms", "p99 ms", "shed p99 ms"], rows),
        (
            f"p99 of the admitted at twice the capacity: {times:.1f} times that at half (median of {len(cycles)} "
            f"cycles). {recovery_s:.1f} s after the overload no more than {LATE_SHARE:.0%} of the requests were late "
            "or refused. To refuse a request (the decision, the answer and the record) takes "
            f"{door_us:.1f} us, beside one read and one write. {others} other answers."
        ),
        "",
    ]


def _recovery_s(after: Sequence[Sample], half_p99_us: float) -> float:
    """The end of the last stretch after the overload in which more than a few were refused, or took much longer than
    before it.
    """
    began_s, count = HALF_S + TWICE_S, round(AFTER_S / STRETCH_S)
    came, bad = [0] * count, [0] * count
    for sample in after:
        stretch = min(count - 1, int((sample.due_s - began_s) / STRETCH_S))
        came[stretch] += 1
        bad[stretch] += sample.status != OK or sample.took_us > LATE_TIMES * half_p99_us
    late = [n for n in range(count) if bad[n] > LATE_SHARE * came[n]]
    return (late[-1] + 1) * STRETCH_S if late else 0.0
