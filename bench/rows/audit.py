"""How fast the audit writer works off what has happened: a backlog made by load, measured while it drains."""

import time
import urllib.request

from support.stack import Stack

from bench import wrk
from bench.contenders import contenders
from bench.machine import precede
from bench.processes import cpu_ns, resident_bytes
from bench.run import Run

ROW = "audit"
LOAD_S = 5.0
EVENTS_A_REQUEST = 2
"""The intent and the settlement: a row of `events` each."""
LIMIT_S = 120.0


def measure(run: Run) -> list[str]:
    """Markdown lines."""
    with contenders(run, ROW, others=False) as up:
        pid = up.running.ready_pids()["audit"]
        before = cpu_ns([pid])
        done = wrk.saturate(
            up.gateway,
            up.token,
            core=run.cores.load,
            connections=run.connections,
            duration_s=LOAD_S,
            scratch=run.scratch,
        )
        precede(pid)  # under load it came last; what it can do is measured now
        behind, began_s = done.requests - _settled(up.running), time.monotonic()
        while (have := _settled(up.running)) < done.requests:
            if time.monotonic() - began_s > LIMIT_S:
                raise RuntimeError(f"the audit shows {have} of {done.requests} requests")
            time.sleep(0.05)
        drained_s = time.monotonic() - began_s
        cpu_us = (cpu_ns([pid]) - before) / 1000 / (done.requests * EVENTS_A_REQUEST)
        held = resident_bytes([pid], peak=True)
    rate = run.add(ROW, "ringfence", "rows_s", [behind * EVENTS_A_REQUEST / max(drained_s, 1e-3)])
    run.add(ROW, "ringfence", "row_us", [cpu_us])
    run.add(ROW, "ringfence", "peak_rss_bytes", [held])
    return [
        "## The audit writer",
        "",
        (
            f"{done.requests:,} requests in {LOAD_S:g} s left {behind:,} behind; the tables had them {drained_s:.1f} s "
            f"later: {rate:,.0f} rows a second beside everything else. {cpu_us:.0f} us of CPU a row over all "
            f"({held / 1e6:.0f} MB at most), chDB and the queries of this measurement included."
        ),
        "",
    ]


def _settled(running: Stack) -> int:
    query = "SELECT count() FROM ringfence.requests WHERE outcome = 'settled'"
    request = urllib.request.Request(running.urls["clickhouse"] + "/", data=query.encode())
    request.add_header("X-ClickHouse-User", "auditor")
    request.add_header("X-ClickHouse-Key", running.token)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return int(answer.read())
