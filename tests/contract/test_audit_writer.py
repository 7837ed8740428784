"""The audit over a real ClickHouse (chDB): exactly once, whatever dies when, and the same figures as the log."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from support.audit_rows import Memory, as_values, rows_of
from support.audit_store import served
from support.clickhouse_endpoint import READER, WRITER, Endpoint

from controlplane.api.ports import BadCursor, Filters
from controlplane.audit.columns import COLUMNS
from controlplane.audit.reader import ClickHouseReader
from controlplane.audit.store import Store, StoreUnavailable
from controlplane.audit.writer import LogWriter, WriterLimits
from controlplane.process_settings import ClickHouseAccess
from events.codec import CodecError, decode_batch, encode_batch
from events.log.memory import MemoryPort, MemoryStream
from events.subjects import CONTROL_LOG, NODE_MARK, node_fence
from events.types import (
    By,
    ControlEvent,
    Event,
    Fenced,
    Heartbeat,
    KeyIssued,
    KeyRevoked,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestRefused,
    RequestReleased,
    RequestSettled,
)
from schemas.amounts import Amounts
from schemas.ids import slot_of
from schemas.policy import Who

NOW_NS = int(time.time()) * 10**9  # rows older than the retention would be gone at once
SMALL = WriterLimits(max_rows=7, max_messages=2, linger_s=0.0, retry_s=0.01)
QUICK = WriterLimits(max_rows=7, max_messages=2, linger_s=0.0, retry_s=0.01, settle_s=(0.01,))
LINES = ", ".join(name for name in COLUMNS)


__all__ = ["served"]


def access(served: Endpoint, login: tuple[str, str] = WRITER) -> ClickHouseAccess:
    return ClickHouseAccess(host=served.host, port=served.port, user=login[0], password=login[1])


@asynccontextmanager
async def empty_store(served: Endpoint) -> AsyncIterator[Store]:
    """A store whose tables are there and hold nothing, not even memories of blocks."""
    client = served.client()
    client.command("DROP DATABASE IF EXISTS ringfence SYNC")
    client.close()
    store = Store(access(served))
    await store.migrate()
    try:
        yield store
    finally:
        await store.close()


class Log:
    """A node log in memory with a story of requests, some settled twice or by object."""

    def __init__(self) -> None:
        self.port: MemoryPort = MemoryStream("RF_NODES", now_ns=lambda: NOW_NS).port()
        self._n = 0

    async def append(self, *events: Event, actor: str = "n1-a") -> None:
        self._n += 1
        payload = encode_batch(actor, self._n, NOW_NS + self._n, events)
        subject = f"rf.node.log.{slot_of(actor)}.{actor}"
        if isinstance(events[0], Fenced):
            subject = node_fence(slot_of(events[0].actor), events[0].actor)
        elif isinstance(events[0], ControlEvent):
            subject = CONTROL_LOG
        await self.port.publish(subject, payload, msg_id=None, expect=None, timeout_s=1)

    async def tell(self, count: int) -> None:
        for n in range(count):
            request_id = f"req_{n:03}"
            await self.append(Heartbeat(), admitted(request_id))
            if n % 4 == 0:
                thing = ObjectExposure(f"stripe/-/pi_{n % 3}", n * 10_000_000, final=n % 12 == 8)
                await self.append(settled(request_id, thing))
                if n >= 8:  # of a call that overlapped with it
                    await self.append(settled(f"req_{n - 5:03}", ObjectExposure(f"stripe/-/pi_{n % 3}", 7)))
            if n % 8 == 0:
                await self.append(settled(request_id, ObjectExposure(f"stripe/-/pi_{n % 3}", 5)), actor="n1-b")
            if n % 4 == 1:
                await self.append(RequestReleased(request_id, "key revoked"))
            if n % 4 == 2:
                await self.append(RequestSettled(request_id, "settled", NOW_NS, actual=Amounts(usd=123_456_789)))

    async def expected(self) -> list[list[Any]]:
        memory = Memory()
        rows = []
        for message in [
            m for s in range(1, (await self.port.state()).last_sequence + 1) if (m := await self.port.get(s))
        ]:
            rows += [as_values(row) for row in rows_of("nodes", message, decode_batch(message.payload), memory)]
        return rows


def admitted(request_id: str, who: Who | None = None, idempotency: str = "", at_ns: int = NOW_NS) -> RequestAdmitted:
    who = who or Who(key="vk_1", agent="billing-bot", owner="finance", purpose="invoices", run="run-1")
    path, bound = "/v1/payment_intents", Amounts(700_000_000)
    return RequestAdmitted(
        request_id, at_ns, who, "stripe", "payment_intents.create", "POST", path, bound, idempotency=idempotency
    )


def unknown(request_id: str) -> RequestSettled:
    return RequestSettled(request_id, "unknown", NOW_NS, error="timeout")


def replayed(request_id: str, resolves: str, at_ns: int = NOW_NS) -> RequestSettled:
    return RequestSettled(request_id, "settled", at_ns, actual=Amounts(usd=700_000_000), resolves=resolves)


def settled(request_id: str, exposure: ObjectExposure | None) -> RequestSettled:
    return RequestSettled(request_id, "settled", NOW_NS, object=exposure, status=200, latency_us=1500, overhead_us=250)


class Killed(BaseException):
    """kill -9 at a step."""


class MortalStore:
    """Dies at the k-th insert: before ClickHouse hears of it, or after it has done it."""

    def __init__(self, store: Store, dies_at: int, *, after: bool) -> None:
        self._store = store
        self._left = dies_at
        self._after = after

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return await self._store.query(sql, parameters)

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        await self._store.insert(table, columns, token)
        if self._left == 0:
            raise Killed


async def write_all(log: Log, store: Any, limits: WriterLimits = SMALL) -> None:
    """Run a writer until it has caught up, or dies."""
    writer = LogWriter("nodes", log.port, store, limits)
    task = asyncio.create_task(writer.run())
    last = (await log.port.state()).last_sequence
    while writer.progress.written_through < last and not task.done():
        await asyncio.sleep(0.005)
    if task.done():
        task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def table(store: Store) -> list[list[Any]]:
    rows = await store.query(
        f"SELECT * REPLACE (toUnixTimestamp64Nano(at) AS at, toUnixTimestamp64Nano(stored_at) AS stored_at) "
        f"FROM (SELECT {LINES} FROM ringfence.events) ORDER BY log, seq, idx"
    )
    return [list(row) for row in rows]


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_step_the_table_ends_equal_to_the_log(served: Endpoint, after: bool) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.tell(30)
        died = 0
        # Each life is killed one insert later than the last, until one lives to the end.
        for step in range(1, 100):
            try:
                await write_all(log, MortalStore(store, step, after=after))
            except Killed:
                died += 1
                continue
            break
        assert died >= 6
        assert await table(store) == await log.expected()
        await log.tell(3)
        await write_all(log, store)
        assert await table(store) == await log.expected()


class LosingStore(MortalStore):
    """kill -9 in the middle of the k-th insert: ClickHouse has noted its token and not kept its rows."""

    def __init__(self, store: Store, dies_at: int, served: Endpoint) -> None:
        super().__init__(store, dies_at, after=True)
        self._served = served

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        try:
            await super().insert(table, columns, token)
        except Killed:
            where = "from_seq" if table.endswith("blocks") else "seq"
            least = min(columns[where])
            client = self._served.client()
            client.command(f"ALTER TABLE {table} DELETE WHERE {where} >= {least} SETTINGS mutations_sync = 2")
            client.close()
            raise


async def test_a_block_whose_token_is_remembered_and_whose_rows_are_lost_is_written_after_all(
    served: Endpoint,
) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.tell(12)
        died = 0
        for step in range(1, 100):
            try:
                await write_all(log, LosingStore(store, step, served), QUICK)
            except Killed:
                died += 1
                continue
            break
        assert died >= 6
        assert await table(store) == await log.expected()


class FlakyStore(MortalStore):
    """Each insert is done, its answer lost, every other time."""

    lost = 0

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        await self._store.insert(table, columns, token)
        self._left += 1
        if self._left % 2:
            self.lost += 1
            raise StoreUnavailable("the answer was lost")


async def test_answers_lost_after_the_deed_change_nothing(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.tell(8)
        flaky = FlakyStore(store, 0, after=False)
        await write_all(log, flaky)
        assert flaky.lost > 2
        assert await table(store) == await log.expected()


class ForgetfulStore(MortalStore):
    """Acknowledges inserts of many rows and keeps nothing of them, as chDB does when it runs out of memory."""

    def __init__(self, store: Store, most_rows: int) -> None:
        super().__init__(store, 0, after=False)
        self._most_rows = most_rows

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        if max(map(len, columns.values())) <= self._most_rows:
            await self._store.insert(table, columns, token)


async def test_a_block_that_was_acknowledged_and_not_kept_is_written_in_pieces(served: Endpoint) -> None:
    limits = WriterLimits(max_rows=40, piece_rows=3, linger_s=0.0, retry_s=0.01, settle_s=(0.0,))
    async with empty_store(served) as store:
        log = Log()
        await log.tell(12)
        await write_all(log, ForgetfulStore(store, 4), limits)
        assert await table(store) == await log.expected()


async def test_however_much_is_waiting_the_engine_keeps_every_row(served: Endpoint) -> None:
    """30,000 rows at once are more than a statement's memory, which chDB does not report."""
    async with empty_store(served) as store:
        log = Log()
        for message in range(60):
            await log.append(*(admitted(f"req_{message}_{n}") for n in range(500)))
        await write_all(log, store, WriterLimits(linger_s=0.0))
        assert await store.query("SELECT count(), uniqExact(request_id) FROM ringfence.events") == [(30_000, 30_000)]
        assert await store.query("SELECT count() FROM ringfence.requests") == [(30_000,)]


async def test_what_no_node_writes_is_told_as_such_and_is_nobodys_request_or_change(served: Endpoint) -> None:
    """Somebody with the credential of slot n1 writes; the audit goes on, and says where it came from."""
    forged = [
        b'{"no": "batch"}',
        b"\xff\x00" * 2_000,
        encode_batch("n1-a", 2, NOW_NS, [KeyRevoked("vk_1", By(operator="op_1", name="ann", reason="forged"))]),
        encode_batch("n1-a", 2, NOW_NS, [Fenced("n2-b", "silent")]),
        encode_batch("n2-b", 2, NOW_NS, [admitted("req_forged")]),
        encode_batch("n1-a", 2, NOW_NS, [settled("req_1", ObjectExposure("stripe/-/pi_1", -5))]),
    ]
    async with empty_store(served) as store:
        log = Log()
        await log.append(admitted("req_1"))
        for payload in forged:
            await log.port.publish("rf.node.log.n1.n1-a", payload, msg_id=None, expect=None, timeout_s=1)
        absurd = RequestSettled("req_1", "settled", NOW_NS, actual=Amounts(usd=2**62, tokens=2**62))
        await log.append(absurd)
        await write_all(log, store)
        told = (
            "SELECT seq, subject, JSONExtractUInt(data, 'size_bytes') FROM ringfence.events WHERE type = 'Distrusted'"
        )
        expected = [(2 + n, "rf.node.log.n1.n1-a", len(payload)) for n, payload in enumerate(forged)]
        assert await store.query(told + " ORDER BY seq") == expected
        assert await store.query("SELECT count() FROM ringfence.control_changes") == [(0,)]
        requests = await store.query("SELECT request_id, outcome, toString(actual_usd) FROM ringfence.requests")
        assert requests == [("req_1", "settled", "999999999.999999999")]


async def test_what_cannot_be_decoded_stops_the_writer_instead_of_being_skipped(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.append(admitted("req_1"))
        await log.port.publish(NODE_MARK, b'{"no": "batch"}', msg_id=None, expect=None, timeout_s=1)
        await log.append(admitted("req_2"))
        with pytest.raises(CodecError):
            await write_all(log, store)
        assert not [row for row in await table(store) if row[1] > 1]


async def test_requests_are_merged_and_their_outcomes_told(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        for name in ("settled", "released", "open", "unknown", "lost", "reconciled", "over"):
            await log.append(admitted(f"req_{name}"), actor="n2-x" if name == "lost" else "n1-a")
        await log.append(settled("req_settled", ObjectExposure("stripe/-/pi_1", 700_000_000)))
        await log.append(settled("req_settled", ObjectExposure("stripe/-/pi_1", 1)))  # told twice: the first counts
        await log.append(RequestReleased("req_released", "key revoked"))
        for name in ("unknown", "reconciled"):
            await log.append(unknown(f"req_{name}"))
        await log.append(Fenced("n2-x", "silent"), actor="control")
        await log.append(
            RequestReconciled("req_reconciled", Amounts(usd=300_000_000), By(name="ann", reason="invoice"))
        )
        await log.append(RequestSettled("req_over", "settled", NOW_NS, actual=Amounts(usd=900_000_000)))
        await log.append(
            RequestRefused("req_refused", "cap_exhausted", NOW_NS, NOW_NS + 9, Who(key="vk_2"), 41, 402, "stripe")
        )
        await write_all(log, store)
        reader = ClickHouseReader(store)
        rows = {row["request_id"]: row for row in (await reader.requests(Filters(), 100, None)).rows}
        assert {name.removeprefix("req_"): row["outcome"] for name, row in rows.items()} == {
            "settled": "settled", "released": "released", "open": "open", "unknown": "unknown", "lost": "unknown",
            "reconciled": "settled", "over": "settled", "refused": "refused",
        }  # fmt: skip
        assert rows["req_settled"]["actual_usd"] == "0.70"
        assert rows["req_settled"]["latency_ms"] == 1.5
        assert rows["req_reconciled"]["actual_usd"] == "0.30"
        assert (rows["req_over"]["actual_usd"], rows["req_over"]["overrun_usd"]) == ("0.90", "0.20")
        assert rows["req_refused"]["refusal"] == "cap_exhausted"
        assert rows["req_settled"]["at"] == f"{datetime.fromtimestamp(NOW_NS // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.000000Z"
        (total,) = (await reader.report("spend", "team", Filters(team="finance"), 10, None)).rows
        assert total == {
            "team": "finance", "admitted": 7, "settled": 3, "released": 1, "refused": 0, "unknown": 2,
            "settled_usd": "1.90", "held_usd": "2.10", "input_tokens": 0, "output_tokens": 0,
        }  # fmt: skip
        refused = (await reader.report("requests", "key", Filters(key="vk_2"), 10, None)).rows
        assert [row["refused"] for row in refused] == [41]


async def test_a_replayed_answer_resolves_what_its_idempotency_key_had_left_unknown(served: Endpoint) -> None:
    """The same cases as the ledger's (tests/unit/test_budget.py): one set of numbers."""
    async with empty_store(served) as store:
        log = Log()
        day_ns = 86_400 * 10**9
        await log.append(admitted("req_old", idempotency="d1", at_ns=NOW_NS - day_ns - 1))
        await log.append(admitted("req_first", idempotency="d1"), unknown("req_first"), unknown("req_old"))
        await log.append(admitted("req_dead", idempotency="d1"), actor="n2-x")
        await log.append(admitted("req_live", idempotency="d1"), admitted("req_unsent", idempotency="d1"))
        await log.append(admitted("req_other", idempotency="d2"), unknown("req_other"))
        await log.append(admitted("req_keyless"), unknown("req_keyless"))
        await log.append(admitted("req_hung", idempotency="d1"))
        await log.append(admitted("req_replay", idempotency="d1"), replayed("req_replay", "d1"), actor="n3-y")
        await log.append(unknown("req_hung"), RequestReleased("req_unsent", "key revoked"))
        await log.append(admitted("req_later", idempotency="d1"), unknown("req_later"))
        await log.append(Fenced("n2-x", "silent"), actor="control")
        await write_all(log, store)
        reader = ClickHouseReader(store)
        rows = {row["request_id"]: row for row in (await reader.requests(Filters(), 100, None)).rows}
        assert {name.removeprefix("req_"): row["outcome"] for name, row in rows.items()} == {
            "old": "unknown", "first": "settled", "dead": "settled", "hung": "settled", "live": "open",
            "unsent": "released", "other": "unknown", "keyless": "unknown", "replay": "settled", "later": "unknown",
        }  # fmt: skip
        assert {name for name, row in rows.items() if row["actual_usd"] != "0.00"} == {"req_replay"}
        (total,) = (await reader.report("spend", "team", Filters(), 10, None)).rows
        # Held: four of unknown outcome and the open one, at 0.70 each.
        assert (total["settled_usd"], total["held_usd"], total["unknown"]) == ("0.70", "3.50", 4)


async def test_an_operators_figure_stands_until_the_nodes_own_word_comes(served: Endpoint) -> None:
    """As in the ledger (tests/unit/test_budget.py): a late answer replaces it, a replayed one too."""
    async with empty_store(served) as store:
        log, by = Log(), By(name="ann", reason="invoice")
        await log.append(*(admitted(f"req_{name}", idempotency="d1" if name == "told" else "")
                           for name in ("kept", "late", "told", "unsent", "refund")))  # fmt: skip
        await log.append(*(unknown(f"req_{name}") for name in ("kept", "late", "told", "refund")))
        for name in ("kept", "late", "told"):
            await log.append(RequestReconciled(f"req_{name}", Amounts(usd=100_000_000), by))
            await log.append(RequestReconciled(f"req_{name}", Amounts(usd=300_000_000), by))
        await log.append(RequestReconciled("req_refund", Amounts(refund=200_000_000), by))
        await log.append(RequestSettled("req_late", "settled", NOW_NS, actual=Amounts(usd=500_000_000)))
        await log.append(admitted("req_replay", idempotency="d1"), replayed("req_replay", "d1"))
        await write_all(log, store)
        rows = await store.query("SELECT request_id, outcome, actual_usd, refund_usd FROM ringfence.requests")
        assert {name.removeprefix("req_"): (rest[0], *(f"{figure:.1f}" for figure in rest[1:])) for name, *rest in rows} == {
            "kept": ("settled", "0.3", "0.0"), "late": ("settled", "0.5", "0.0"), "told": ("settled", "0.0", "0.0"),
            "unsent": ("open", "0.0", "0.0"), "refund": ("settled", "0.0", "0.2"), "replay": ("settled", "0.7", "0.0"),
        }  # fmt: skip


async def test_a_refusal_that_two_logs_of_a_node_hold_is_told_once(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        refused = RequestRefused("req_1", "cap_exhausted", NOW_NS, NOW_NS + 9, Who(key="vk_2"), 41, 402, "stripe")
        await log.append(refused)
        await write_all(log, store)
        await log.append(refused, actor="n1-b")  # its recording was in doubt at the fence
        await log.append(RequestRefused("req_2", "cap_exhausted", NOW_NS, NOW_NS, Who(key="vk_2")))
        await write_all(log, store)  # another process, which looks up what was told
        assert await store.query("SELECT request_id, count FROM ringfence.refusals ORDER BY request_id") == [
            ("req_1", 41),
            ("req_2", 1),
        ]


async def test_lists_page_without_gaps_or_repeats_and_filter(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        for n in range(25):
            await log.append(admitted(f"req_{n:02}", Who(key=f"vk_{n % 2}", agent="a' OR 1=1 --")))
        await write_all(log, store)
        reader = ClickHouseReader(store)
        seen: list[Any] = []
        cursor: str | None = None
        for _ in range(10):
            page = await reader.requests(Filters(key="vk_1"), 5, cursor)
            seen += [row["request_id"] for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"req_{n:02}" for n in range(23, 0, -2)]
        assert len((await reader.requests(Filters(agent="a' OR 1=1 --"), 100, None)).rows) == 25
        assert (await reader.requests(Filters(agent="a"), 100, None)).rows == []
        assert (await reader.requests(Filters(from_ns=NOW_NS + 1), 100, None)).rows == []
        for forged in ("", "x", "W10", "WyJ4IiwieSJd"):
            with pytest.raises(BadCursor):
                await reader.requests(Filters(), 5, forged)


async def test_control_changes_say_who_and_hide_digests(served: Endpoint) -> None:
    async with empty_store(served) as store:
        stream = MemoryStream("RF_CONTROL", now_ns=lambda: NOW_NS).port()
        by = By(operator="op_1", name="ann", address="10.0.0.9", reason="run away")
        issued = KeyIssued("vk_1", by, "d1ge57" * 10, "billing-bot", NOW_NS, NOW_NS + 1)
        events: tuple[ControlEvent, ...] = (issued, KeyRevoked("vk_1", by))
        for n, event in enumerate(events, 1):
            payload = encode_batch("leader", n, NOW_NS, [event])
            await stream.publish("rf.control.log", payload, msg_id=None, expect=None, timeout_s=1)
        writer = LogWriter("control", stream, store, SMALL)
        task = asyncio.create_task(writer.run())
        while writer.progress.written_through < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        page = await ClickHouseReader(store).report("changes", "", Filters(), 10, None)
        assert [(row["event"], row["subject"], row["operator_name"], row["reason"]) for row in page.rows] == [
            ("KeyRevoked", "key:vk_1", "ann", "run away"),
            ("KeyIssued", "key:vk_1", "ann", "run away"),
        ]
        assert "d1ge57" not in str(await store.query("SELECT * FROM ringfence.events"))
        served.admit_reader()
        auditor = Store(access(served, READER))
        assert len(await auditor.query("SELECT * FROM ringfence.control_changes")) == 2
        with pytest.raises(StoreUnavailable, match=r"not open to readers|Not enough privileges"):
            await auditor.query("SELECT * FROM ringfence.events")
        await auditor.close()
