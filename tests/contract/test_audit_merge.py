"""Requests merged block by block are what merging all of them at once gives: whatever comes late, twice or out of
order, whichever of the two writers is killed when, and whatever this process no longer remembers.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from contract.test_audit_writer import NOW_NS, Log, access, admitted, empty_store
from msgspec.structs import replace
from support.audit_store import served
from support.clickhouse_endpoint import Endpoint

from controlplane.audit import merge
from controlplane.audit.merge import MAX_SPANS, merge_everything, spans_of
from controlplane.audit.store import Store
from controlplane.audit.writer import LogName, LogWriter, WriterLimits
from events.codec import encode_batch
from events.log.memory import MemoryPort, MemoryStream
from events.types import (
    By,
    Event,
    Fenced,
    Heartbeat,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestRefused,
    RequestReleased,
    RequestSettled,
)
from schemas.amounts import Amounts
from schemas.policy import Who

REQUESTS = 40
LIMITS = WriterLimits(max_rows=20, max_messages=5, linger_s=0.0, retry_s=0.01, settle_s=(0.0,))
ROWS = "SELECT * FROM ringfence.requests ORDER BY request_id"


__all__ = ["served"]


class Killed(Exception):
    """As if by kill -9."""


class MortalStore:
    """A store whose writer dies at a statement that the dice choose, before or after it was carried out."""

    def __init__(self, store: Store, dice: Random) -> None:
        self._store = store
        self._left = dice.randrange(1, 40)
        self._after = dice.random() < 0.5

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        self._step()
        rows = await self._store.query(sql, parameters)
        self._step(done=True)
        return rows

    async def insert(self, *arguments: Any) -> None:
        self._step()
        await self._store.insert(*arguments)
        self._step(done=True)

    def _step(self, *, done: bool = False) -> None:
        self._left -= not done
        if self._left == 0 and done == self._after:
            raise Killed


def story(dice: Random) -> Iterator[Event]:
    """Requests in all their lives, many of them open at a time."""
    intents: list[RequestAdmitted] = []
    over: set[str] = set()
    for number in range(REQUESTS):
        request_id = f"req_{number:03}"
        intent = admitted(request_id, idempotency=f"key-{dice.randrange(REQUESTS // 2)}", at_ns=NOW_NS + number)
        intents.append(intent)
        if dice.random() < 0.15:
            yield refused(request_id, dice.randrange(1, 5))
            continue
        yield intent
        for _ in range(dice.randrange(3)):
            yield from ending(dice, dice.choice(intents), over)


def ending(dice: Random, intent: RequestAdmitted, over: set[str]) -> Iterator[Event]:
    """Something that may happen to a request, also to one that is over, or that was never admitted."""
    name, attempt = intent.request_id, dice.choice((1, 1, 1, 2))
    match dice.randrange(8):
        case 0 | 1 | 2:
            thing = ObjectExposure(f"stripe/-/pi_{dice.randrange(5)}", dice.randrange(10**9)) if attempt == 1 else None
            yield settled(name, dice.randrange(10**9), attempt, thing)
        case 3:
            yield RequestSettled(name, "unknown", NOW_NS, attempt=attempt)
        case 4:
            yield RequestReleased(name, "revoked", attempt=attempt)
        case 5:
            yield replace(intent, attempt=2, at_ns=NOW_NS - 5, path="/v1/again")
        case 6:
            yield RequestSettled(name, "settled", NOW_NS + 10**6, resolves=f"key-{dice.randrange(REQUESTS // 2)}")
        case 7 if name not in over:
            yield refused(name, 1)
        case _:
            return
    over.add(name)


def settled(name: str, usd: int, attempt: int = 1, thing: ObjectExposure | None = None) -> RequestSettled:
    return RequestSettled(name, "settled", NOW_NS, Amounts(usd, requests=1), thing, status=200, attempt=attempt)


def refused(name: str, count: int) -> RequestRefused:
    who = Who(key="vk_1", agent="billing-bot")
    return RequestRefused(name, "cap_exhausted", NOW_NS, NOW_NS, who, count, 402, "stripe", message="no")


class Control:
    """A control log in memory, of operators' figures."""

    def __init__(self) -> None:
        self.port: MemoryPort = MemoryStream("RF_CONTROL", now_ns=lambda: NOW_NS).port()
        self._n = 0

    async def reconcile(self, name: str, usd: int) -> None:
        self._n += 1
        event = RequestReconciled(name, Amounts(usd), By("op_1", "ada"))
        payload = encode_batch("cp-a", self._n, NOW_NS, (event,))
        await self.port.publish("rf.control.log", payload, msg_id=None, expect=None, timeout_s=1)


async def write(name: LogName, port: MemoryPort, store: Any) -> None:
    """Run a writer until it has caught up. Raises Killed."""
    writer = LogWriter(name, port, store, LIMITS)
    task = asyncio.create_task(writer.run())
    last = (await port.state()).last_sequence
    while writer.progress.written_through < last and not task.done():
        await asyncio.sleep(0.002)
    if task.done():
        task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def write_somehow(name: LogName, port: MemoryPort, store: Store, dice: Random) -> None:
    """Killed some times under way, and in the end alive."""
    for _ in range(2):
        with contextlib.suppress(Killed):
            await write(name, port, MortalStore(store, dice))
    await write(name, port, store)


@pytest.mark.parametrize(
    ("seed", "places"), [(1, 150_000), (2, 3), *(pytest.param(n, 10, marks=pytest.mark.slow) for n in range(3, 10))]
)
async def test_merged_block_by_block_or_all_at_once_is_the_same(
    served: Endpoint, seed: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MAX_PLACES", places)
    monkeypatch.setattr(merge, "SLICE_REQUESTS", 20)
    dice = Random(seed)
    log, control = Log(), Control()
    async with empty_store(served) as store:
        events = list(story(dice))
        for part in range(3):
            for event in events[part * len(events) // 3 : (part + 1) * len(events) // 3]:
                actor = dice.choice(("n1-a", "n1-b", "n1-c"))
                await log.append(event, Heartbeat(), actor=actor)
                if dice.random() < 0.03:
                    await log.append(Fenced(actor, "silent", 1), actor=actor)
                if dice.random() < 0.1:
                    await control.reconcile(f"req_{dice.randrange(REQUESTS):03}", dice.randrange(10**9))
            await asyncio.gather(
                write_somehow("nodes", log.port, store, dice), write_somehow("control", control.port, store, dice)
            )
        by_block = await store.query(ROWS)
        assert {row[18] for row in by_block} >= {"settled", "refused"}, "the story is too tame"
        for name in ("request_rows", "turns"):
            await store.query(f"TRUNCATE TABLE ringfence.{name}")
        await merge_everything(store.query)
        assert await store.query(ROWS) == by_block


async def test_a_request_that_is_forgotten_in_the_block_that_ends_it_is_merged_from_all_its_events(
    served: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long call under load: so many others began meanwhile that its intent's place goes as its end comes."""
    monkeypatch.setattr(merge, "MAX_PLACES", 3)
    log = Log()
    async with empty_store(served) as store:
        writer = LogWriter("nodes", log.port, store, LIMITS)
        task = asyncio.create_task(writer.run())
        await log.append(admitted("req_long"))
        await written(writer, 1)
        await log.append(settled("req_long", 5), *(admitted(f"req_{n}") for n in range(5)))
        await written(writer, 2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        query = "SELECT outcome FROM ringfence.requests WHERE request_id = 'req_long'"
        assert await store.query(query) == [("settled",)]


async def written(writer: LogWriter, through: int) -> None:
    async with asyncio.timeout(30):
        while writer.progress.written_through < through:
            await asyncio.sleep(0.002)


async def test_a_directory_of_before_the_merged_rows_is_migrated_once(served: Endpoint) -> None:
    async with empty_store(served) as store:
        log = Log()
        await log.tell(20)
        await write("nodes", log.port, store)
        rows = await store.query(ROWS)
        assert len(rows) == 20
        for name in ("request_rows", "turns", "schema_steps"):
            await store.query(f"DROP TABLE ringfence.{name} SYNC")
        again = Store(access(served))
        await again.migrate()
        assert await again.query(ROWS) == rows
        assert await again.query("SELECT step FROM ringfence.schema_steps") == [(1,)]
        await again.query("TRUNCATE TABLE ringfence.request_rows")
        await again.migrate()
        assert await again.query(ROWS) == [], "a step that was taken is not taken again"
        await again.close()


def test_few_spans_hold_all_sequences_and_leave_the_widest_gaps_out() -> None:
    assert spans_of([]) == []
    assert spans_of([5]) == [(5, 5)]
    assert spans_of({3, 1, 2}) == [(1, 3)]
    many = [n * 10 for n in range(2 * MAX_SPANS)] + [10**6, 10**9]
    spans = spans_of(many)
    assert len(spans) <= MAX_SPANS
    assert all(any(first <= seq <= last for first, last in spans) for seq in many)
    assert (10**6, 10**6) in spans
    assert (10**9, 10**9) in spans
