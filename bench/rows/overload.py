"""What a node does at twice what it can carry: whom it refuses, what that costs, how long the admitted wait."""

from collections.abc import Sequence

from bench import wrk
from bench.contenders import contenders, raw_request
from bench.generator import Flow, Sample, generate
from bench.processes import cpu_ns
from bench.run import Run
from bench.stats import percentile, table

ROW = "overload"
CONNECTIONS = 1024
SATURATING, SATURATED_S = 64, 3.0
HALF_S, TWICE_S, AFTER_S = 3.0, 5.0, 2.0
ONSET_S = 1.0
"""Of the overload: until the queue is known to stand. Shown apart."""
LATE_TIMES = 3.0


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
        )
        served_us = (cpu_ns(pids) - before) / 1000 / full.requests
        capacity = full.requests / full.elapsed_s
        port, request = raw_request(up.gateway, up.token)
        phases = ((HALF_S, capacity / 2), (TWICE_S, capacity * 2), (AFTER_S, capacity / 2))
        before = cpu_ns(pids)
        samples = generate([Flow("load", port, request, phases, CONNECTIONS)], run.cores.load)
        used_us = (cpu_ns(pids) - before) / 1000
    return _report(run, samples, capacity, served_us, used_us)


def _report(run: Run, samples: Sequence[Sample], capacity: float, served_us: float, used_us: float) -> list[str]:
    twice_s, after_s = HALF_S, HALF_S + TWICE_S
    parts = {
        "half the capacity": [s for s in samples if ONSET_S <= s.due_s < twice_s],
        "twice, its first second": [s for s in samples if twice_s <= s.due_s < twice_s + ONSET_S],
        "twice": [s for s in samples if twice_s + ONSET_S <= s.due_s < after_s],
        "half again": [s for s in samples if s.due_s >= after_s],
    }
    rows = []
    for name, part in parts.items():
        admitted = [s.took_us for s in part if s.status == 200]
        shed = [s.took_us for s in part if s.status == 503]
        run.add(ROW, name, "admitted_p99_us", [percentile(admitted, 0.99)])
        run.add(ROW, name, "shed_share", [len(shed) / max(1, len(part))])
        rows.append(
            [name, f"{len(part):,}", f"{len(admitted):,}", f"{len(shed) / max(1, len(part)):.0%}"]
            + [f"{percentile(values, share) / 1000:.1f}" for values, share in ((admitted, 0.5), (admitted, 0.99))]
            + [f"{percentile(shed, 0.99) / 1000:.1f}" if shed else "-"]
        )
    half = run.value(ROW, "half the capacity", "admitted_p99_us")
    times = run.add(ROW, "ringfence", "p99_times_half", [run.value(ROW, "twice", "admitted_p99_us") / half])
    shed_count = sum(1 for s in samples if s.status == 503)
    served_count = sum(1 for s in samples if s.status == 200)
    run.add(ROW, "ringfence", "capacity_s", [capacity])
    left_us = max(0.0, used_us - served_us * served_count) / max(1, shed_count)
    shed_us = run.add(ROW, "ringfence", "shed_us", [left_us])
    recovery_s = run.add(ROW, "ringfence", "recovery_s", [_recovery_s(samples, after_s, half)])
    return [
        "## Overload",
        "",
        (
            f"As fast as answers come, {SATURATING} connections get {capacity:,.0f} a second: that is the capacity of "
            f"these two cores ({served_us:.0f} us of the worker's own a request, which is busy for "
            f"{capacity * served_us / 1e6:.0%}; generator, vendor, log, control plane and audit share the other). "
            f"Open loop, {CONNECTIONS} connections; latency from when a request was due."
        ),
        "",
        *table(["load", "requests", "admitted", "shed", "p50 ms", "p99 ms", "shed p99 ms"], rows),
        (
            f"p99 of the admitted at twice the capacity: {times:.1f} times that at half. After the overload the last "
            f"late or refused request was due {recovery_s:.2f} s after its end. What is left of the worker's time "
            f"after {served_count:,} served requests is {shed_us:.0f} us for each refused one. "
            f"{len(samples) - shed_count - served_count} other answers."
        ),
        "",
    ]


def _recovery_s(samples: Sequence[Sample], after_s: float, half_p99_us: float) -> float:
    """When, after the overload, the last request was due that was refused or took much longer than before it."""
    bad = [
        s.due_s - after_s
        for s in samples
        if s.due_s >= after_s and (s.status != 200 or s.took_us > LATE_TIMES * half_p99_us)
    ]
    return max(bad, default=0.0)
