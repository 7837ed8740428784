"""What a broken disk took from the audit's tables is there again after the next start, once, from the logs."""

import asyncio
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from contract.test_audit_writer import SMALL, Log, empty_store, table, write_all
from support.audit_store import served
from support.clickhouse_endpoint import Endpoint
from support.stack import ControlError, Stack, running_stack

from controlplane.audit import mend as mending
from controlplane.audit.mend import Damaged, Mender, is_damage, watch_damage
from controlplane.audit.merge import merge_everything
from controlplane.audit.store import Store
from controlplane.audit.writer import Progress

ROWS = "SELECT * EXCEPT version FROM ringfence.request_rows FINAL ORDER BY request_id"
PATIENCE_S = 60.0

__all__ = ["served"]


async def parts_of(store: Store, name: str) -> list[str]:
    sql = f"SELECT name FROM system.parts WHERE database = 'ringfence' AND table = '{name}' AND active ORDER BY min_block_number"
    return [row[0] for row in await store.query(sql)]


@pytest.mark.parametrize("lost", ["first", "last", "all"])
async def test_lost_parts_are_told_again(served: Endpoint, lost: str) -> None:
    async with empty_store(served) as store:
        log = Log()
        await store.query("SYSTEM STOP MERGES ringfence.events")
        await log.tell(30)
        await write_all(log, store)
        requests = await store.query(ROWS)
        parts = await parts_of(store, "events")
        assert len(parts) > 3
        for part in {"first": parts[:1], "last": parts[-1:], "all": parts}[lost]:
            await store.query(f"ALTER TABLE ringfence.events DROP PART '{part}'")
        assert await table(store) != await log.expected()
        put_back = await Mender("nodes", log.port, store, SMALL).mend()
        assert (put_back > 0) == (lost != "last")  # the last block is the writer's own, at every start
        await merge_everything(store.query)
        await write_all(log, store)
        assert await table(store) == await log.expected()
        assert await store.query(ROWS) == requests
        assert await Mender("nodes", log.port, store, SMALL).mend() == 0


async def test_lost_boundaries_double_nothing(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.tell(20)
        await write_all(log, store)
        blocks = await store.query("SELECT log, from_seq, to_seq FROM ringfence.blocks WHERE from_seq <= 15")
        await store.query("TRUNCATE TABLE ringfence.blocks SYNC")
        columns = dict(zip(("log", "from_seq", "to_seq"), zip(*blocks, strict=True), strict=True))
        await store.insert("ringfence.blocks", columns, "what is left")
        await Mender("nodes", log.port, store, SMALL).mend()
        await log.tell(3)
        await write_all(log, store)
        assert await table(store) == await log.expected()


async def test_damage_that_lasts_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "DAMAGED_S", 0.2)
    text = "DatabaseError: Received ClickHouse exception, code: 33, server response: Cannot read all data."
    assert is_damage(text)
    assert not is_damage("DatabaseError: Received ClickHouse exception, code: 243, server response: no space")
    assert not is_damage("ClientConnectorError: no answer")
    progress = Progress(trouble=text)
    watch = asyncio.create_task(watch_damage([Progress(), progress], look_s=0.02))
    await asyncio.sleep(0.1)
    progress.trouble = ""  # it has gone
    await asyncio.sleep(0.3)
    assert not watch.done()
    progress.trouble = text
    with pytest.raises(Damaged):
        await asyncio.wait_for(watch, 30)


def test_a_part_with_empty_files_costs_a_restart_and_no_row(tmp_path: Path) -> None:
    """As chDB leaves one behind on a full disk. The audit is stopped meanwhile, so that it is found at the start."""
    with running_stack(tmp_path / "data", workers=1) as stack:
        key = stack.issue(vendor="stripe", total_usd_cap="100", label="mend")
        for _ in range(5):
            pay(stack, key["token"])
        before = stack.settled_requests(5, key=key["id"], outcome="settled")
        assert len(before) == 5
        pid = stack.ready_pids()["audit"]
        os.kill(pid, signal.SIGSTOP)
        try:
            assert empty_parts(stack.data_dir / "audit") > 0
        finally:
            os.kill(pid, signal.SIGKILL)
        assert shown(once_back(stack, 5, key["id"])) == shown(before)
        assert "were put back" in (stack.data_dir / "logs" / "audit.log").read_text()


def pay(stack: Stack, token: str) -> None:
    request = urllib.request.Request(
        f"{stack.stripe}/v1/payment_intents",
        data=b"amount=100&currency=usd",
        headers={"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def once_back(stack: Stack, count: int, key: str) -> list[dict[str, Any]]:
    """What the audit shows as soon as it answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return stack.settled_requests(count, key=key, outcome="settled")
        except ControlError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def empty_parts(data: Path) -> int:
    """Empty the files of all parts that hold rows, but for the data itself; returns how many parts."""
    parts = [path.parent for path in data.glob("store/*/*/*/count.txt") if path.stat().st_size]
    for part in parts:
        for path in part.iterdir():
            if path.suffix == ".txt":
                path.write_bytes(b"")
    return len(parts)


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["request_id"]))
