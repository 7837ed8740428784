"""Keys: how fast they are issued and revoked, and what a worker needs to start with many of them."""

import asyncio
import os
import signal
import statistics
import time
from typing import Any

import aiohttp
from support.stack import Stack

from bench.children import free_port
from bench.machine import pin
from bench.peers import ringfence
from bench.processes import resident_bytes
from bench.run import Run
from bench.stats import percentile, table

ROW = "keys"
AT_ONCE = 64
REVOKED = 60
WAIT_S = 60.0


def measure(run: Run) -> list[str]:
    """Markdown lines. Start-ups are measured with each number of keys in `run.key_counts`."""
    lines = []
    with ringfence.stack(run.scratch / ROW, run.cores, f"http://127.0.0.1:{free_port()}") as running:
        have, rows = 0, []
        for count in run.key_counts:
            rate = asyncio.run(_issue(running, count - have))
            have = count
            run.add(ROW, f"{count}", "issued_s", [rate])
            started_s, held = zip(*(_restart(run, running) for _ in range(min(3, run.rounds))), strict=True)
            start = run.add(ROW, f"{count}", "start_s", started_s)
            rss = run.add(ROW, f"{count}", "rss_bytes", held)
            rows.append([f"{count:,}", f"{rate:,.0f}", f"{start:.2f}", f"{rss / 1e6:.0f}"])
        lines += table(["keys", "issued a second", "a worker's start, s", "MB"], rows)
        one, many, rate = asyncio.run(_revoke(running))
    p50, p99 = run.add(ROW, "ringfence", "revoke_p50_ms", [statistics.median(one)]), percentile(one, 0.99)
    run.add(ROW, "ringfence", "revoked_s", [rate])
    return [
        "## Keys",
        "",
        (
            f"Issued by the API, {AT_ONCE} at once. A start is measured from the kill of a worker to its successor's "
            "ready mark: the supervisor's pause of 50 ms, Python, joining, the snapshot."
        ),
        "",
        *lines,
        (
            f"Revocation through the barrier, one after another: p50 {p50:.1f} ms, p99 {p99:.1f} ms; {many} at once: "
            f"{rate:,.0f} a second."
        ),
        "",
    ]


async def _issue(running: Stack, count: int) -> float:
    body = {"agent": "bench-agent", "vendor": ringfence.UPSTREAM, "daily_usd_cap": "10", "expires_in": "1d"}
    left = iter(range(count))
    async with _session(running) as session:

        async def issue() -> None:
            for _ in left:
                await _call(session, "POST", f"{running.urls['control']}/v1/keys", 201, body)

        began_s = time.perf_counter()
        await asyncio.gather(*(issue() for _ in range(AT_ONCE)))
        return count / (time.perf_counter() - began_s)


async def _revoke(running: Stack) -> tuple[list[float], int, float]:
    """Times of single revocations in ms; then how many at once, and how many a second."""
    async with _session(running) as session:
        url = f"{running.urls['control']}/v1/keys"
        keys = [str(key["id"]) for key in (await _call(session, "GET", f"{url}?limit={2 * REVOKED}", 200))["data"]]
        took_ms = []
        for key in keys[:REVOKED]:
            began_s = time.perf_counter()
            await _call(session, "DELETE", f"{url}/{key}", 204)
            took_ms.append((time.perf_counter() - began_s) * 1000)
        began_s = time.perf_counter()
        await asyncio.gather(*(_call(session, "DELETE", f"{url}/{key}", 204) for key in keys[REVOKED:]))
        return took_ms, REVOKED, REVOKED / (time.perf_counter() - began_s)


def _session(running: Stack) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {running.token}"}, connector=aiohttp.TCPConnector(limit=AT_ONCE)
    )


async def _call(session: aiohttp.ClientSession, method: str, url: str, expected: int, body: Any = None) -> Any:
    async with session.request(method, url, json=body) as answer:
        if answer.status != expected:
            raise RuntimeError(f"{method} {url} answered {answer.status}: {await answer.text()}")
        return await answer.json() if expected != 204 else None


def _restart(run: Run, running: Stack) -> tuple[float, int]:
    """Kill the worker; how long until its successor is ready, and what that one holds."""
    ((name, pid),) = running.worker_pids().items()
    mark = running.data_dir / "run" / f"{name}.ready"
    os.kill(pid, signal.SIGKILL)
    began_s = time.time()
    deadline_s = began_s + WAIT_S
    while (successor := running.ready_pids().get(name, pid)) == pid:
        if time.time() > deadline_s:
            raise RuntimeError("the worker did not come back")
        time.sleep(0.01)
    took_s = mark.stat().st_mtime - began_s
    pin(successor, run.cores.proxy)
    time.sleep(0.5)  # what a load leaves behind is given back
    return took_s, resident_bytes([successor])
