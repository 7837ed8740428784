"""What can be measured. A row takes the run and returns Markdown lines; its figures it adds to the run."""

import asyncio
from collections.abc import Callable

from bench import gateway, ledger, revocation
from bench.rows import cpu
from bench.run import Run

Measure = Callable[[Run], list[str]]

ROWS: dict[str, Measure] = {
    "cpu": cpu.measure,
    "ledger": lambda _: ledger.run(),
    "gateway": lambda run: asyncio.run(gateway.run(run.scratch / "gateway")),
    "revocation": lambda run: asyncio.run(revocation.run(run.scratch / "revocation")),
}
"""In the order in which they run and are reported."""
