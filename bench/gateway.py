"""What the gateway adds to a call: the same calls to the simulated vendor directly and through one worker, in turn."""

import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from support.stack import Stack, running_stack

ROUNDS = 6
CALLS = 400
AT_ONCE = 32
FORM = urlencode({"amount": "1", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"})


async def run(data_dir: Path) -> list[str]:
    """Markdown lines: latency one by one, and the worker's CPU per request under load."""
    with running_stack(data_dir / "data", workers=1) as stack:
        key = stack.issue(vendor="stripe", agent="bench", total_usd_cap="1000000")
        real = _real_key(stack)
        direct, through = stack.vendor("stripe"), stack.stripe
        pid = stack.worker_pids()["proxy-n1"]
        direct_ms: list[float] = []
        through_ms: list[float] = []
        cpu_us: list[float] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:
            await _calls(session, through, key["token"], 1, 200)
            for _ in range(ROUNDS):
                direct_ms += await _calls(session, direct, real, 1, CALLS // 4)
                through_ms += await _calls(session, through, key["token"], 1, CALLS // 4)
                before = _cpu_s(pid)
                await _calls(session, through, key["token"], AT_ONCE, CALLS * 4)
                cpu_us.append((_cpu_s(pid) - before) * 1e6 / (CALLS * 4))
    return [
        "## A charge through the gateway (policy, reservation, durable intent, metering, audit events)",
        "",
        "| | p50 ms | p99 ms |",
        "|---|---|---|",
        _latency("vendor, directly", direct_ms),
        _latency("through the gateway", through_ms),
        "",
        (
            f"CPU of the worker: median {statistics.median(cpu_us):.0f} us a request, {AT_ONCE} at once "
            f"({min(cpu_us):.0f} to {max(cpu_us):.0f} over {ROUNDS} rounds)."
        ),
        "",
    ]


async def _calls(session: aiohttp.ClientSession, url: str, token: str, at_once: int, count: int) -> list[float]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-www-form-urlencoded"}
    took_ms: list[float] = []

    async def client(calls: int) -> None:
        for _ in range(calls):
            began = time.perf_counter()
            async with session.post(f"{url}/v1/payment_intents", data=FORM, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{url} answered {answer.status}")
            took_ms.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client(count // at_once) for _ in range(at_once)))
    return took_ms


def _real_key(stack: Stack) -> str:
    """The simulated vendor's own key, for the direct calls."""
    settings = json.loads((stack.data_dir / "run" / "proxy-n1.json").read_text())["settings"]
    return str(settings["upstreams"]["stripe"]["credential"])


def _cpu_s(pid: int) -> float:
    """User and system time of a process, from the kernel's own account."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _latency(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    return f"| {name} | {statistics.median(ordered):.2f} | {ordered[int(len(ordered) * 0.99)]:.2f} |"
