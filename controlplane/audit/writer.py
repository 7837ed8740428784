"""The audit writer: both logs into `ringfence.events`, exactly once.

The idea
    A block is a span (from, to] of one log. Its boundaries are recorded in `ringfence.blocks` before its rows
    are inserted, under a token made of them. Whoever starts reads the last recorded block of each log and inserts
    it again: if its rows were there, ClickHouse drops the repeat by its token; if not, they are there now. What
    follows begins after it.

        step                            killed after it: the next start ...
        1 gather messages               gathers again
        2 record the boundaries         inserts this block, same rows, same token
        3 insert the rows               inserts it again; the token makes that a no-op
        4 acknowledged                  the same

What would be wrong
    - Choosing boundaries anew after step 2: the same token with other rows is dropped silently.
    - Rows that depend on anything but the log before them: a repeat would differ. So object differences are
      looked up among rows with a sequence below the block's own.
    - Skipping what cannot be decoded: the writer stops there, says so, and is not ready.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from controlplane.audit.rows import COLUMNS, REMEMBERED_SETTLEMENTS, Memory, Row, as_values, objects_of, rows_of
from controlplane.audit.store import Store, StoreUnavailable
from events.codec import Batch, decode_batch
from events.log.port import Follower, LogUnavailable, Stored, StreamPort
from schemas.money import NANOS_PER_USD

_log = logging.getLogger(__name__)

LogName = Literal["control", "nodes"]

MAX_OBJECTS = 200_000
"""Vendor objects whose last exposure is kept at hand (some 40 MB); others are looked up again."""


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How large blocks get and how long they wait."""

    max_rows: int = 20_000
    """A block of this size is written at once; larger ones use more memory and gain little."""
    max_messages: int = 4_000
    """Of one read."""
    linger_s: float = 0.3
    """A smaller block waits this long for company; requests must show within two seconds of their end."""
    retry_s: float = 0.5
    """Between attempts while ClickHouse or the log is away."""


@dataclass(slots=True)
class Progress:
    """How far one log is written; for /readyz and /metrics."""

    written_through: int = 0
    rows: int = 0
    blocks: int = 0
    lag: int = 0
    trouble: str = ""


@dataclass(slots=True)
class _Block:
    """Messages gathered and not yet written."""

    messages: list[tuple[Stored, Batch]] = field(default_factory=list)
    events: int = 0

    def add(self, message: Stored) -> None:
        batch = decode_batch(message.payload)
        self.messages.append((message, batch))
        self.events += len(batch.events)


class LogWriter:
    """Writes one log. `run` returns only by cancellation, or raises what must not be passed over."""

    def __init__(self, log: LogName, port: StreamPort, store: Store, limits: WriterLimits | None = None) -> None:
        self._log = log
        self._port = port
        self._store = store
        self._limits = limits or WriterLimits()
        self._memory = Memory()
        self.progress = Progress()

    async def run(self) -> None:
        """Finish the block that a predecessor may have left, then follow the log.

        Raises events.codec.CodecError, events.log.port.LogTrimmed: the log cannot be told whole.
        """
        position = await self._resume()
        follower = self._port.read(after=position)
        try:
            while True:
                block = await self._gather(follower)
                if block.messages:
                    await self._write_new(block)
                self.progress.lag = follower.lag
        finally:
            await follower.aclose()

    async def _resume(self) -> int:
        sql = "SELECT from_seq, to_seq FROM ringfence.blocks WHERE log = {log:String} ORDER BY from_seq DESC LIMIT 1"
        rows = await self._query(sql, {"log": self._log})
        if not rows:
            return 0
        from_seq, to_seq = rows[0]
        await self._remember(from_seq)
        follower = self._port.read(after=from_seq - 1)
        block = _Block()
        try:
            while follower.position < to_seq:
                for message in await self._next(follower, to_seq - follower.position, None):
                    block.add(message)
        finally:
            await follower.aclose()
        await self._insert(block, from_seq, to_seq)
        return int(to_seq)

    async def _gather(self, follower: Follower) -> _Block:
        """A block: full, or as large as it got within the linger time of its first message."""
        loop = asyncio.get_running_loop()
        block = _Block()
        deadline: float | None = None
        while block.events < self._limits.max_rows:
            patience_s = None if deadline is None else max(0.0, deadline - loop.time())
            messages = await self._next(follower, self._limits.max_messages, patience_s)
            for message in messages:
                block.add(message)
            if deadline is None:
                deadline = loop.time() + self._limits.linger_s
            elif loop.time() >= deadline:
                break
        return block

    async def _write_new(self, block: _Block) -> None:
        from_seq, to_seq = block.messages[0][0].sequence, block.messages[-1][0].sequence
        await self._know_objects(block, from_seq)
        rows = self._rows(block)
        if rows:
            # From here on this block is written with exactly these boundaries, whoever writes it.
            recorded = await self._record(from_seq, to_seq)
            if recorded != to_seq:
                raise RuntimeError(f"another writer recorded block {from_seq}..{recorded} of log {self._log}")
            await self._insert_rows(rows, from_seq, to_seq)
        self.progress.written_through = to_seq

    async def _insert(self, block: _Block, from_seq: int, to_seq: int) -> None:
        await self._know_objects(block, from_seq)
        await self._insert_rows(self._rows(block), from_seq, to_seq)
        self.progress.written_through = to_seq

    def _rows(self, block: _Block) -> list[Row]:
        return [row for message, batch in block.messages for row in rows_of(self._log, message, batch, self._memory)]

    async def _record(self, from_seq: int, to_seq: int) -> int:
        """Record the block's boundaries; returns the end that is on record, which is `to_seq` but for a rival."""
        columns: dict[str, list[Any]] = {"log": [self._log], "from_seq": [from_seq], "to_seq": [to_seq]}
        await self._put("ringfence.blocks", columns, f"block-{self._log}-{from_seq}")
        sql = "SELECT to_seq FROM ringfence.blocks WHERE log = {log:String} AND from_seq = {from_seq:UInt64}"
        rows = await self._query(sql, {"log": self._log, "from_seq": from_seq})
        return int(rows[0][0])

    async def _insert_rows(self, rows: list[Row], from_seq: int, to_seq: int) -> None:
        columns = dict(zip(COLUMNS, (list(column) for column in zip(*map(as_values, rows), strict=True)), strict=True))
        await self._put("ringfence.events", columns, f"events-{self._log}-{from_seq}-{to_seq}")
        self.progress.rows += len(rows)
        self.progress.blocks += 1

    async def _remember(self, before_seq: int) -> None:
        """Which requests are settled already, from the rows before the block that is written again."""
        if self._log != "nodes":
            return
        sql = (
            "SELECT request_id FROM ringfence.events WHERE log = 'nodes' AND seq < {before:UInt64} "
            "AND type = 'RequestSettled' AND outcome = 'settled' ORDER BY seq DESC, idx DESC LIMIT {limit:UInt64}"
        )
        rows = await self._query(sql, {"before": before_seq, "limit": REMEMBERED_SETTLEMENTS})
        for (request_id,) in reversed(rows):
            self._memory.settle(request_id)

    async def _know_objects(self, block: _Block, before_seq: int) -> None:
        """Look up the last exposures of objects that this process has not seen settled."""
        places = {place for _, batch in block.messages for place in objects_of(batch)}
        unknown = sorted(places - self._memory.exposures.keys())
        if not unknown:
            return
        sql = (
            "SELECT concat(meter, ' ', object) AS place, argMax(exposure_usd, (seq, idx)) FROM ringfence.events "
            "WHERE log = 'nodes' AND seq < {before:UInt64} AND object IN {objects:Array(String)} GROUP BY place"
        )
        objects = sorted({place.split(" ", 1)[1] for place in unknown})
        rows = await self._query(sql, {"before": before_seq, "objects": objects})
        known = {place: int(exposure * NANOS_PER_USD) for place, exposure in rows}
        self._memory.forget_objects(keep=MAX_OBJECTS - len(unknown))
        for place in unknown:
            self._memory.exposures[place] = known.get(place, 0)

    async def _next(self, follower: Follower, most: int, patience_s: float | None) -> list[Stored]:
        while True:
            try:
                return await follower.next_batch(most, patience_s)
            except LogUnavailable as error:
                await self._pause(f"log {self._log}: {error}")

    async def _query(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        while True:
            try:
                return await self._store.query(sql, parameters)
            except StoreUnavailable as error:
                await self._pause(str(error))

    async def _put(self, table: str, columns: dict[str, list[Any]], token: str) -> None:
        """Until it is acknowledged: the same block under the same token."""
        while True:
            try:
                await self._store.insert(table, columns, token)
            except StoreUnavailable as error:
                await self._pause(str(error))
            else:
                self.progress.trouble = ""
                return

    async def _pause(self, trouble: str) -> None:
        if trouble != self.progress.trouble:
            _log.warning("audit writer waits: %s", trouble)
        self.progress.trouble = trouble
        await asyncio.sleep(self._limits.retry_s)
