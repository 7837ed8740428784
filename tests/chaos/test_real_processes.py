"""Real processes under kill -9: workers, control plane, audit and NATS, at random, under load.

Both runs belong to `make chaos`; every test run kills workers (tests/e2e/test_killed_workers.py). A failing run prints
its seed; give it again with RINGFENCE_CHAOS_SEED.
"""

import asyncio
import os
import random
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import pytest
from support.load import Chargers
from support.stack import Stack, running_stack

WORKERS = 3
BACK_S = 40.0
CAP = "2000.00"


def processes(stack: Stack) -> dict[str, int]:
    """Everything that may be killed, by name. NATS by its parent: it is a child of the supervisor."""
    found = stack.ready_pids()
    found.pop("demo", None)  # the vendor keeps the books that everything else is held against
    children = subprocess.run(
        ["ps", "--ppid", str(stack.process.pid), "-o", "pid=,comm="], capture_output=True, text=True, check=False
    )
    for line in children.stdout.splitlines():
        pid, name = line.split(None, 1)
        if name.startswith("nats-server"):
            found["nats-server"] = int(pid)
    return found


async def kill_and_wait(stack: Stack, name: str) -> None:
    """kill -9, and wait until another process stands in its place."""
    pid = processes(stack)[name]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + BACK_S
    while processes(stack).get(name, pid) == pid:
        assert time.monotonic() < deadline, f"{name} did not come back"
        await asyncio.sleep(0.05)


async def storm(stack: Stack, seed: int, kills: int, pause_s: float) -> str:
    """Charge while processes die; returns the key's id."""
    rng = random.Random(seed)
    key = stack.issue(vendor="stripe", agent=f"storm-{seed}", total_usd_cap=CAP)
    async with Chargers(stack.stripe, key["token"], clients=8, cents=7, most=60_000) as load:
        for _ in range(kills):
            await asyncio.sleep(pause_s * rng.random())
            await kill_and_wait(stack, rng.choice(sorted(processes(stack))))
        await _until_serving(load)
    # Whatever dies, an answer is a success, one of our own refusals, or a connection that died with its worker.
    strange = {name for name in load.load.by_outcome() if name not in EXPECTED}
    assert strange == set(), load.load.by_outcome()
    return str(key["id"])


EXPECTED = {
    "200", "0", "log_unavailable", "policy_unavailable", "budget_unavailable", "draining", "upstream_unreachable",
    "overloaded",
}  # fmt: skip


async def _until_serving(load: Chargers) -> None:
    """A hundred charges in a row succeed: the faults are over."""
    deadline = time.monotonic() + BACK_S
    while True:
        newest = load.load.answers[-100:]
        if len(newest) == 100 and all(answer.status == 200 for answer in newest):
            return
        assert time.monotonic() < deadline, load.load.by_outcome()
        await asyncio.sleep(0.1)


def check_books(stack: Stack, key_id: str) -> None:
    """The vendor's own books against ledger and audit."""
    entries = [entry for entry in stack.vendor_log() if entry["path"] == "/v1/payment_intents"]
    moved = sum(move["moved"] for entry in entries for move in entry["moves"])
    rows = stack.settled_requests(len(entries), key=key_id)
    answered = [row for row in rows if row["outcome"] in {"settled", "unknown"}]
    assert len(answered) >= len(entries), "a call reached the vendor without a record"
    settled = sum((Decimal(row["actual_usd"]) for row in rows), Decimal(0))
    held = sum((Decimal(row["bound_usd"]) for row in rows if row["outcome"] == "unknown"), Decimal(0))
    assert settled * 100 <= moved <= (settled + held) * 100
    deadline = time.monotonic() + BACK_S
    while True:
        spend = stack.control("GET", f"/v1/keys/{key_id}")["spend"]["total"]
        figures = tuple(Decimal(spend[name]) for name in ("settled", "held", "remaining"))
        if figures == (settled, held, Decimal(CAP) - settled - held) or time.monotonic() > deadline:
            assert figures == (settled, held, Decimal(CAP) - settled - held)
            return
        time.sleep(0.2)


async def run(data_dir: Path, seed: int, kills: int, pause_s: float) -> None:
    print(f"RINGFENCE_CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it when the run fails
    with running_stack(data_dir, workers=WORKERS) as stack:
        key_id = await storm(stack, seed, kills, pause_s)
        await asyncio.to_thread(check_books, stack, key_id)


def seed_of_this_run() -> int:
    return int(os.environ.get("RINGFENCE_CHAOS_SEED") or random.SystemRandom().randrange(10**6))


@pytest.mark.slow
async def test_a_short_storm(tmp_path: Path) -> None:
    await run(tmp_path / "data", seed_of_this_run(), kills=8, pause_s=1.0)
    assert not (tmp_path / "data" / "endpoints.json").exists()  # a gateway that has ended announces nothing


@pytest.mark.slow
async def test_a_long_storm(tmp_path: Path) -> None:
    await run(tmp_path / "data", seed_of_this_run(), kills=120, pause_s=4.0)
    assert not (tmp_path / "data" / "endpoints.json").exists()
