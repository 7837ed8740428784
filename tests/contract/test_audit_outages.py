"""The audit over a real nats-server that is killed under way, while ClickHouse refuses what it is given."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from contract.test_audit_writer import LINES, NOW_NS, admitted, empty_store, settled
from support.audit_rows import Memory, as_values, rows_of
from support.audit_store import served
from support.clickhouse_endpoint import Endpoint
from support.nats_server import RunningNats, nats_server

from controlplane.audit.store import Store, StoreUnavailable
from controlplane.audit.writer import LogWriter, WriterLimits
from events.codec import decode_batch, encode_batch
from events.log.port import AppendUncertain, StreamPort
from events.subjects import node_log
from events.types import Event, ObjectExposure

__all__ = ["nats_server", "served"]

REFUSED = "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)"
LIMITS = WriterLimits(max_rows=7, max_messages=3, linger_s=0.0, retry_s=0.02, settle_s=(0.01, 0.1))


class FullDisk:
    """While `full`, no insert succeeds, and what must be asked for is answered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.full = False
        self.refused = 0

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        if self.full and sql.startswith("INSERT"):
            self.refused += 1
            raise StoreUnavailable(REFUSED)
        return await self._store.query(sql, parameters)

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        if self.full:
            self.refused += 1
            raise StoreUnavailable(REFUSED)
        await self._store.insert(table, columns, token)


class NodeLog:
    """A node's log at the server; an append is repeated until it is acknowledged, as a node does."""

    def __init__(self, nodes: StreamPort) -> None:
        self._nodes = nodes
        self._n = 0

    async def append(self, *events: Event) -> None:
        self._n += 1
        payload = encode_batch("n1-a", self._n, NOW_NS + self._n, events)
        while True:
            with contextlib.suppress(AppendUncertain):
                await self._nodes.publish(
                    node_log("n1", "n1-a"), payload, msg_id=f"n1-a.{self._n}", expect=None, timeout_s=5.0
                )
                return
            await asyncio.sleep(0.05)


async def test_a_log_that_goes_away_and_a_table_that_refuses_lose_nothing_and_double_nothing(
    nats_server: RunningNats, served: Endpoint
) -> None:
    nodes = (await nats_server.streams())[1]
    log = NodeLog(nodes)
    async with empty_store(served) as store:
        disk = FullDisk(store)
        writer = LogWriter("nodes", nodes, disk, LIMITS)  # type: ignore[arg-type]  # a store that refuses
        task = asyncio.create_task(writer.run())
        await story(log, 0, 12)
        disk.full = True
        await story(log, 12, 24)
        await reached(lambda: disk.refused > 2)
        await nats_server.kill()
        disk.full = False
        await asyncio.sleep(0.5)
        disk.full = True
        await nats_server.start()
        await story(log, 24, 36)
        refused = disk.refused
        await reached(lambda: disk.refused > refused)
        assert "NOT_ENOUGH_SPACE" in writer.progress.trouble
        disk.full = False
        last = (await nodes.state()).last_sequence
        await reached(lambda: writer.progress.written_through == last)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        table = await store.query(f"SELECT {LINES} FROM ringfence.events ORDER BY log, seq, idx")
        places = [LINES.split(", ").index(name) for name in ("seq", "idx", "request_id", "actual_usd")]
        assert [tuple(row[place] for place in places) for row in table] == [
            tuple(row[place] for place in places) for row in await expected(nodes)
        ]
        outcomes = await store.query(
            "SELECT outcome, count() FROM ringfence.requests GROUP BY outcome ORDER BY outcome"
        )
        assert outcomes == [("settled", 36)]


async def story(log: NodeLog, begin: int, end: int) -> None:
    """Requests on a few objects, each settled by a later message."""
    for n in range(begin, end):
        await log.append(admitted(f"req_{n:03}", at_ns=NOW_NS + n))
        await log.append(settled(f"req_{n:03}", ObjectExposure(f"stripe/-/pi_{n % 5}", n * 10_000_000)))


async def expected(nodes: StreamPort) -> list[list[Any]]:
    memory, rows = Memory(), []
    follower = nodes.read(after=0)
    while messages := await follower.next_batch(timeout_s=0.5):
        for message in messages:
            rows += [as_values(row) for row in rows_of("nodes", message, decode_batch(message.payload), memory)]
    await follower.aclose()
    return rows


async def reached(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
