"""Rows are the same whatever the writer still remembers of earlier ones, and however slowly the table takes them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from contract.test_audit_writer import LINES, SMALL, Log, empty_store, write_all
from support.audit_store import served
from support.clickhouse_endpoint import Endpoint

from controlplane.audit import lookup
from controlplane.audit.store import Store
from controlplane.audit.writer import WriterLimits

__all__ = ["served"]


class SlowStore:
    """Takes its time for inserts, so that the next block is made meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.merges = 0

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        self.merges += sql.startswith("INSERT INTO ringfence.request_rows")
        return await self._store.query(sql, parameters)

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        await asyncio.sleep(0.02)
        await self._store.insert(table, columns, token)


@pytest.mark.parametrize("kept", [0, 1])
async def test_what_is_forgotten_is_looked_up_behind_the_block_that_is_written(
    served: Endpoint, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "MAX_OBJECTS", kept)
    async with empty_store(served) as store:
        log = Log()
        await log.tell(25)
        await write_all(log, SlowStore(store), SMALL)
        sql = "SELECT seq, idx, actual_usd, refund_usd, exposure_usd FROM ringfence.events ORDER BY seq, idx"
        names = LINES.split(", ")
        wanted = [names.index(name) for name in ("seq", "idx", "actual_usd", "refund_usd", "exposure_usd")]
        assert await store.query(sql) == [tuple(row[place] for place in wanted) for row in await log.expected()]


@pytest.mark.parametrize(("merge_after_s", "least", "most"), [(0.0, 4, 99), (1e9, 1, 2)])
async def test_requests_are_merged_in_time_however_much_is_waiting(
    served: Endpoint, merge_after_s: float, least: int, most: int
) -> None:
    """Some blocks wait. Merging each by itself is slow; none before the last would show nothing for as long."""
    async with empty_store(served) as store:
        log = Log()
        await log.tell(16)
        slow = SlowStore(store)
        limits = WriterLimits(max_rows=6, max_messages=2, linger_s=0.0, retry_s=0.01, merge_after_s=merge_after_s)
        await write_all(log, slow, limits)
        assert least <= slow.merges <= most
        assert await store.query("SELECT count() FROM ringfence.requests") == [(16,)]
