"""How long a DELETE takes until its 204: over three workers under load, and over twenty, one of them standing still."""

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path

import aiohttp
from support.load import Chargers
from support.stack import Stack, running_stack

from bench.run import Run

KEYS = 40
WORKERS = 3
MANY = 20
STOPPED_ROUNDS = 10
STOPPED_KEYS = 3
"""Revoked while one worker stands still: the first must wait for its fence, the others find it fenced."""
SYNCS = 200
REST_S = 0.1
"""Between two revocations over many workers: each stands alone."""
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
    synced = _fsync_ms(run.scratch / "synced")
    run.add("revocation", "disk", "fsync_ms", synced)
    with running_stack(run.scratch / "many", workers=MANY) as stack:
        many = await _revoke_all(stack, REST_S)
        first, then = await _with_one_stopped(stack)
    for name, values in (("many", many), ("many, one stopped", first), ("many, one fenced", then)):
        run.add("revocation", name, "delete_ms", values)
    for name, values in (("idle", idle), ("loaded", loaded), ("saturated", saturated)):
        run.add("revocation", name, "delete_ms", values)
    return [
        f"## Revocation over {WORKERS} and {MANY} workers, {KEYS} keys",
        "",
        "| | median ms | p95 ms | worst ms |",
        "|---|---|---|---|",
        _row("idle", idle),
        _row(f"under load ({CLIENTS} clients, about {CLIENTS / PAUSE_S:.0f} charges a second)", loaded),
        _row(f"saturated ({CLIENTS} clients without pause; clients and vendors on the same cores)", saturated),
        _row(f"{MANY} workers", many),
        _row(f"{MANY} workers, one stands still: the first revocation", first),
        _row(f"{MANY} workers, one stands still: those after it", then),
        _row("one fsync on this disk; each worker's answer is one, one after the other", synced),
        "",
    ]


async def _under_load(stack: Stack, token: str, pause_s: float) -> list[float]:
    async with Chargers(stack.stripe, token, clients=CLIENTS, most=200_000, pause_s=pause_s) as load:
        while len(load.load.answers) < 50:  # noqa: ASYNC110 - a count that others raise
            await asyncio.sleep(0.01)
        return await _revoke_all(stack)


async def _revoke_all(stack: Stack, rest_s: float = 0.0) -> list[float]:
    keys = _issue(stack, KEYS)
    took_ms = []
    async with _operator(stack) as session:
        for key in keys:
            took_ms.append(await _revoke(session, stack, key))
            await asyncio.sleep(rest_s)
    return took_ms


async def _with_one_stopped(stack: Stack) -> tuple[list[float], list[float]]:
    """What the first revocation takes while a worker stands still, and what the next ones do."""
    first, then = [], []
    pids = list(stack.worker_pids().values())
    keys = _issue(stack, STOPPED_ROUNDS * STOPPED_KEYS)
    async with _operator(stack) as session:
        for turn in range(STOPPED_ROUNDS):
            pid = pids[turn % len(pids)]
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(REST_S)
                first.append(await _revoke(session, stack, keys.pop()))
                then += [await _revoke(session, stack, keys.pop()) for _ in range(STOPPED_KEYS - 1)]
            finally:
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1.0)  # it joins again
    return first, then


def _fsync_ms(path: Path) -> list[float]:
    took_ms = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(300))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took_ms.append((time.perf_counter() - began) * 1000)
    return took_ms


def _operator(stack: Stack) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {stack.token}"})


def _issue(stack: Stack, count: int) -> list[str]:
    return [stack.issue(vendor="stripe", agent="bench", total_usd_cap="10")["id"] for _ in range(count)]


async def _revoke(session: aiohttp.ClientSession, stack: Stack, key: str) -> float:
    began = time.perf_counter()
    async with session.delete(f"{stack.urls['control']}/v1/keys/{key}") as answer:
        if answer.status != 204:
            raise RuntimeError(f"revocation answered {answer.status}")
    return (time.perf_counter() - began) * 1000


def _row(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[int(len(ordered) * 0.95)]
    return f"| {name} | {statistics.median(ordered):.1f} | {p95:.1f} | {ordered[-1]:.1f} |"
