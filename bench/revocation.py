"""How long a DELETE takes until its 204, over three workers under load."""

import asyncio
import statistics
import time

import aiohttp
from support.load import Chargers
from support.stack import Stack, running_stack

from bench.run import Run

KEYS = 40
WORKERS = 3
CLIENTS = 8
PAUSE_S = 0.04
"""Between two charges of a client: a load of some 200 charges a second, which two cores carry."""


async def run(run: Run) -> list[str]:
    """Markdown lines: median, 95th percentile and worst."""
    with running_stack(run.scratch / "revocation", workers=WORKERS) as stack:
        idle = await _revoke_all(stack)
        busy_key = stack.issue(vendor="stripe", agent="load", uncapped=True)
        loaded = await _under_load(stack, busy_key["token"], PAUSE_S)
        saturated = await _under_load(stack, busy_key["token"], 0.0)
    for name, values in (("idle", idle), ("loaded", loaded), ("saturated", saturated)):
        run.add("revocation", name, "delete_ms", values)
    return [
        f"## Revocation over {WORKERS} workers, {KEYS} keys",
        "",
        "| | median ms | p95 ms | worst ms |",
        "|---|---|---|---|",
        _row("idle", idle),
        _row(f"under load ({CLIENTS} clients, about {CLIENTS / PAUSE_S:.0f} charges a second)", loaded),
        _row(f"saturated ({CLIENTS} clients without pause; clients and vendors on the same cores)", saturated),
        "",
    ]


async def _under_load(stack: Stack, token: str, pause_s: float) -> list[float]:
    async with Chargers(stack.stripe, token, clients=CLIENTS, most=200_000, pause_s=pause_s) as load:
        while len(load.load.answers) < 50:  # noqa: ASYNC110 - a count that others raise
            await asyncio.sleep(0.01)
        return await _revoke_all(stack)


async def _revoke_all(stack: Stack) -> list[float]:
    keys = [stack.issue(vendor="stripe", agent="bench", total_usd_cap="10")["id"] for _ in range(KEYS)]
    took_ms = []
    headers = {"Authorization": f"Bearer {stack.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for key in keys:
            began = time.perf_counter()
            async with session.delete(f"{stack.urls['control']}/v1/keys/{key}") as answer:
                if answer.status != 204:
                    raise RuntimeError(f"revocation answered {answer.status}")
            took_ms.append((time.perf_counter() - began) * 1000)
    return took_ms


def _row(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[int(len(ordered) * 0.95)]
    return f"| {name} | {statistics.median(ordered):.1f} | {p95:.1f} | {ordered[-1]:.1f} |"
