"""What can be measured. A row takes the run and returns Markdown lines; its figures it adds to the run."""

import asyncio
from collections.abc import Callable

from bench import failover, ledger, revocation
from bench.rows import audit, backlog, cpu, fairness, keys, latency, overload, scale, sse, tls
from bench.run import Run

Measure = Callable[[Run], list[str]]

ROWS: dict[str, Measure] = {
    "cpu": cpu.measure,
    "latency": latency.measure,
    "sse": sse.measure,
    "idle": sse.measure_idle,
    "overload": overload.measure,
    "fairness": fairness.measure,
    "tls": tls.measure,
    "keys": keys.measure,
    "scale": scale.measure,
    "audit": audit.measure,
    "backlog": backlog.measure_writing,
    "reports": backlog.measure_reports,
    "ledger": ledger.run,
    "revocation": lambda run: asyncio.run(revocation.run(run)),
    "failover": lambda run: asyncio.run(failover.run(run)),
}
"""In the order in which they run and are reported."""

CHECKED = ("cpu", "sse")
"""Those with ratios that `--check` holds against the baseline."""
