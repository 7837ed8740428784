"""Caps over several workers: not one cent over, and nothing that fits refused."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.load import charges_at_once
from support.stack import AUDIT_S, Stack, running_stack


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("four") / "data", workers=4) as running:
        yield running


def moved_cents(stack: Stack) -> int:
    return sum(move["moved"] for entry in stack.vendor_log() for move in entry["moves"])


def report_with_refusals(stack: Stack, agent: str, count: int) -> dict[str, Any]:
    """The key's row of the spend report, once it tells all refusals (those alike within a second are one event)."""
    deadline = time.monotonic() + AUDIT_S
    while True:
        row: dict[str, Any]
        (row,) = stack.control("GET", f"/v1/reports/spend?group_by=key&agent={agent}")["data"]
        if row["refused"] >= count or time.monotonic() > deadline:
            return row
        time.sleep(0.1)


@pytest.mark.parametrize("account", ["key", "agent", "team"])
async def test_600_charges_of_70_cents_under_100_dollars_move_exactly_9940_cents(four: Stack, account: str) -> None:
    four.reset_vendors()
    agent = f"charger-{account}"
    if account == "key":
        key = four.issue(vendor="stripe", agent=agent, total_usd_cap="100.00")
    else:
        four.control("PUT", f"/v1/agents/{agent}", {"owner": f"team-{account}"})
        name = agent if account == "agent" else f"team-{account}"
        four.control("PUT", f"/v1/budgets/{account}/{name}", {"daily_usd_cap": "100.00"})
        key = four.issue(vendor="stripe", agent=agent, uncapped=True)
    load = await charges_at_once(four.stripe, key["token"], 70, 600)
    assert load.by_outcome() == {"200": 142, "cap_exhausted": 458}
    assert await asyncio.to_thread(moved_cents, four) == 9_940
    rows = await asyncio.to_thread(four.settled_requests, 142, key=key["id"], outcome="settled")
    assert len(rows) == 142
    report = await asyncio.to_thread(report_with_refusals, four, agent, 458)
    assert (report["key"], report["settled_usd"], report["refused"]) == (key["id"], "99.40", 458)
    spend = four.control("GET", f"/v1/keys/{key['id']}")["spend"]["total"]
    assert (spend["settled"], spend["held"]) == ("99.40", "0.00")
