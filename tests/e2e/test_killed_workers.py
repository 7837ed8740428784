"""kill -9 of workers under load: nothing goes out unrecorded, and capacity comes back but for unknown outcomes."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from support.load import Chargers
from support.stack import Stack, running_stack

KILLS = 6


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("mortal") / "data", workers=3) as running:
        yield running


async def test_every_vendor_call_has_its_row_and_the_books_cover_what_moved(mortal: Stack) -> None:
    key = mortal.issue(vendor="stripe", agent="survivor", total_usd_cap="500.00")
    mortal.faults({"fault": {"delay_ms": 20}, "vendor": "stripe", "percent": 50})
    async with Chargers(mortal.stripe, key["token"], clients=16, cents=7) as load:
        for kill in range(KILLS):
            done = len(load.load.answers)
            while len(load.load.answers) < done + 40:
                await asyncio.sleep(0.01)
            name = f"proxy-n{kill % 3 + 1}"
            pid = mortal.worker_pids()[name]
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while mortal.worker_pids().get(name, pid) == pid and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
    mortal.faults()
    await asyncio.to_thread(check_books, mortal, key["id"])


def check_books(stack: Stack, key_id: str) -> None:
    entries = [entry for entry in stack.vendor_log() if entry["path"] == "/v1/payment_intents"]
    moved = sum(move["moved"] for entry in entries for move in entry["moves"])
    assert moved > 0
    rows = stack.answered_requests(len(entries), key=key_id)
    outcomes = [row["outcome"] for row in rows]
    assert len([outcome for outcome in outcomes if outcome in {"settled", "unknown"}]) >= len(entries)
    settled = sum(Decimal(row["actual_usd"]) for row in rows)
    held = sum(Decimal(row["bound_usd"]) for row in rows if row["outcome"] == "unknown")
    assert settled * 100 <= moved <= (settled + held) * 100
    # One set of numbers: what enforces is what the audit says, and the rest of the cap is free again.
    spend = _quiet_spend(stack, key_id)
    assert Decimal(spend["settled"]) == settled
    assert Decimal(spend["held"]) == held
    assert Decimal(spend["remaining"]) == Decimal("500.00") - settled - held


def _quiet_spend(stack: Stack, key_id: str) -> dict[str, str]:
    deadline = time.monotonic() + 20
    seen: dict[str, str] = {}
    while time.monotonic() < deadline:
        spend: dict[str, str] = stack.control("GET", f"/v1/keys/{key_id}")["spend"]["total"]
        if spend == seen:
            return spend
        seen = spend
        time.sleep(0.5)
    return seen
