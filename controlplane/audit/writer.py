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
        4 merge its requests            inserts it again, and merges them again (controlplane.audit.merge)
        5 done                          the same

    ClickHouse remembers a token before it keeps the rows. Killed in between, it drops every repeat of a block that it
    does not have. So an insert that was not acknowledged at its first try is read back, and what is missing is
    inserted under a token of its own.

What would be wrong
    - Choosing boundaries anew after step 2: the same token with other rows is dropped silently.
    - Taking "acknowledged" for "stored" where a token was used before.
    - Rows that depend on anything but the log before them: a repeat would differ. So object differences are
      looked up among rows with a sequence below the block's own.
    - Skipping what cannot be decoded: in the control log the writer stops there, says so, and is not ready; in a
      node's log it is told as what it is (controlplane.audit.messages).
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from controlplane.audit.merge import Merger
from controlplane.audit.messages import read_message
from controlplane.audit.rows import (
    COLUMNS,
    REMEMBERED,
    Known,
    Memory,
    Row,
    attempt_name,
    refusal_name,
    rows_of,
    wants_of,
)
from controlplane.audit.store import Store, StoreUnavailable
from events.codec import Batch
from events.log.port import Follower, LogUnavailable, Stored, StreamPort
from schemas.histogram import Histogram
from schemas.money import NANOS_PER_USD

_log = logging.getLogger(__name__)

LogName = Literal["control", "nodes"]

MAX_OBJECTS = 200_000
"""Vendor objects whose count is kept at hand (some 50 MB); others are looked up again."""


BLOCK_BOUNDS_US = (5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000)


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How large blocks get and how long they wait."""

    max_rows: int = 8_000
    """A block of this size is written at once (a single message with more, by itself). 16,000 usual rows are more than
    the embedded engine's limit for a statement that writes (200 MB), and gain nothing."""
    max_bytes: int = 8 << 20
    """The same for the messages' bytes: rows can be much larger than usual."""
    piece_rows: int = 1_000
    """A block that the store has not kept is written again in pieces: it may have been too large."""
    max_messages: int = 400
    """Of one read."""
    linger_s: float = 0.3
    """A smaller block waits this long for company; requests must show within two seconds of their end."""
    retry_s: float = 0.5
    """Between attempts while ClickHouse or the log is away."""
    settle_s: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0, 2.0)
    """Pauses between looks for a block that should be there: an insert whose answer was lost may still be under way."""


@dataclass(slots=True)
class Progress:
    """How far one log is written; for /readyz and /metrics."""

    written_through: int = 0
    rows: int = 0
    blocks: int = 0
    lag: int = 0
    trouble: str = ""
    failures: int = 0
    repaired: int = 0
    """Inserts that ClickHouse took for repeats and did not have."""
    oldest_unwritten_ns: int = 0
    """When the log stored the oldest message that was read and is not written; 0: there is none."""
    block_us: Histogram = field(default_factory=lambda: Histogram(BLOCK_BOUNDS_US))

    def lag_s(self, now_ns: int) -> float:
        """Age of the oldest event that is read and not written, by this process's wall clock."""
        return max(0.0, (now_ns - self.oldest_unwritten_ns) / 1e9) if self.oldest_unwritten_ns else 0.0


@dataclass(slots=True)
class _Block:
    """Messages gathered and not yet written."""

    messages: list[tuple[Stored, Batch]] = field(default_factory=list)
    events: int = 0
    bytes: int = 0

    def add(self, message: Stored) -> None:
        batch = read_message(message)
        self.messages.append((message, batch))
        self.events += len(batch.events)
        self.bytes += len(message.payload)


class LogWriter:
    """Writes one log. `run` returns only by cancellation, or raises what must not be passed over."""

    def __init__(self, log: LogName, port: StreamPort, store: Store, limits: WriterLimits | None = None) -> None:
        self._log = log
        self._port = port
        self._store = store
        self._limits = limits or WriterLimits()
        self._memory = Memory()
        self._merger = Merger(log, self._query)
        self._ahead: list[Stored] = []
        """Read, and not yet in a block."""
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
                self.progress.oldest_unwritten_ns = 0
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
        self._fill(block, self._ahead)
        if block.messages:
            deadline = loop.time() + self._limits.linger_s
        while not self._ahead and not self._is_full(block):
            patience_s = None if deadline is None else max(0.0, deadline - loop.time())
            messages = await self._next(follower, self._limits.max_messages, patience_s)
            self._fill(block, messages)
            self.progress.lag = follower.lag
            if messages and not self.progress.oldest_unwritten_ns:
                self.progress.oldest_unwritten_ns = messages[0].time_ns
            if deadline is None:
                deadline = loop.time() + self._limits.linger_s
            elif loop.time() >= deadline:
                break
        return block

    def _fill(self, block: _Block, messages: list[Stored]) -> None:
        """Add messages until the block is full; the rest is for the next one."""
        added = 0
        for message in messages:
            if self._is_full(block):
                break
            block.add(message)
            added += 1
        self._ahead = messages[added:]

    def _is_full(self, block: _Block) -> bool:
        return block.events >= self._limits.max_rows or block.bytes >= self._limits.max_bytes

    async def _write_new(self, block: _Block) -> None:
        from_seq, to_seq = block.messages[0][0].sequence, block.messages[-1][0].sequence
        await self._know(block, from_seq)
        rows = self._rows(block)
        if rows:
            # From here on this block is written with exactly these boundaries, whoever writes it.
            recorded = await self._record(from_seq, to_seq)
            if recorded != to_seq:
                raise RuntimeError(f"another writer recorded block {from_seq}..{recorded} of log {self._log}")
            await self._insert_rows(rows, from_seq, to_seq)
            self._merger.add(rows, from_seq, to_seq)
        # With nothing waiting requests show at once; under load some blocks are merged together.
        if self._merger.is_due or not (self._ahead or self.progress.lag):
            await self._merger.merge()
        self.progress.written_through = to_seq

    async def _insert(self, block: _Block, from_seq: int, to_seq: int) -> None:
        await self._know(block, from_seq)
        await self._insert_rows(self._rows(block), from_seq, to_seq, repeated=True)
        await self._merger.resume()
        self.progress.written_through = to_seq

    def _rows(self, block: _Block) -> list[Row]:
        return [row for message, batch in block.messages for row in rows_of(self._log, message, batch, self._memory)]

    async def _record(self, from_seq: int, to_seq: int) -> int:
        """Record the block's boundaries; returns the end that is on record, which is `to_seq` but for a rival."""
        columns: dict[str, list[Any]] = {"log": [self._log], "from_seq": [from_seq], "to_seq": [to_seq]}
        sql = (
            "SELECT to_seq FROM ringfence.blocks WHERE log = {log:String} AND from_seq = {from_seq:UInt64} "
            "ORDER BY written_at, to_seq LIMIT 1"
        )
        token = f"block-{self._log}-{from_seq}"
        while True:
            await self._put("ringfence.blocks", columns, token)
            for pause_s in self._limits.settle_s:
                if rows := await self._query(sql, {"log": self._log, "from_seq": from_seq}):
                    return int(rows[0][0])
                await asyncio.sleep(pause_s)
            token = self._another(token)

    async def _insert_rows(self, rows: list[Row], from_seq: int, to_seq: int, *, repeated: bool = False) -> None:
        """`repeated`: somebody may have tried before."""
        began_s = asyncio.get_running_loop().time()
        token = f"events-{self._log}-{from_seq}-{to_seq}"
        certain = await self._put("ringfence.events", _columns(rows), token)
        if repeated or not certain or not await self._is_kept(rows, from_seq, to_seq):
            await self._complete(rows, from_seq, to_seq, token)
        self.progress.rows += len(rows)
        self.progress.blocks += 1
        self.progress.block_us.observe(round((asyncio.get_running_loop().time() - began_s) * 1e6))

    async def _is_kept(self, rows: list[Row], from_seq: int, to_seq: int) -> bool:
        """Whether the table holds the block. chDB acknowledges an insert, with the number of its rows, that has failed
        at its end for want of memory; so no acknowledgement is believed.
        """
        sql = (
            "SELECT count() FROM ringfence.events "
            "WHERE log = {log:String} AND seq BETWEEN {from_seq:UInt64} AND {to_seq:UInt64}"
        )
        found = await self._query(sql, {"log": self._log, "from_seq": from_seq, "to_seq": to_seq})
        return int(found[0][0]) == len(rows)

    async def _complete(self, rows: list[Row], from_seq: int, to_seq: int, token: str) -> None:
        """Until all rows of a block are there: what was acknowledged may have been dropped as a repeat of nothing."""
        while missing := await self._missing(rows, from_seq, to_seq):
            token = self._another(token)
            for begin in range(0, len(missing), self._limits.piece_rows):
                piece = missing[begin : begin + self._limits.piece_rows]
                await self._put("ringfence.events", _columns(piece), f"{token}-{begin}")

    async def _missing(self, rows: list[Row], from_seq: int, to_seq: int) -> list[Row]:
        """Rows of a block that are not in the table, nor come while an insert may still be under way there."""
        sql = (
            "SELECT seq, idx FROM ringfence.events "
            "WHERE log = {log:String} AND seq BETWEEN {from_seq:UInt64} AND {to_seq:UInt64}"
        )
        missing = rows
        for pause_s in self._limits.settle_s:
            found = await self._query(sql, {"log": self._log, "from_seq": from_seq, "to_seq": to_seq})
            there = {(int(seq), int(idx)) for seq, idx in found}
            missing = [row for row in rows if (row["seq"], row["idx"]) not in there]
            if not missing:
                break
            await asyncio.sleep(pause_s)
        return missing

    def _another(self, token: str) -> str:
        _log.warning("ClickHouse remembers %s and does not have it; it is inserted again", token)
        self.progress.repaired += 1
        return f"{token.partition('~')[0]}~{secrets.token_hex(8)}"

    async def _remember(self, before_seq: int) -> None:
        """What was told already, from the rows before the block that is written again."""
        if self._log != "nodes":
            return
        sql = (
            "SELECT type, request_id, JSONExtractUInt(data, 'attempt'), refusal, "
            "JSONExtractInt(data, 'first_at_ns') FROM ringfence.events WHERE log = 'nodes' AND seq < {before:UInt64} "
            "AND ((type = 'RequestSettled' AND outcome = 'settled') OR type = 'RequestRefused') "
            "ORDER BY seq DESC, idx DESC LIMIT {limit:UInt64}"
        )
        rows = await self._query(sql, {"before": before_seq, "limit": REMEMBERED})
        for kind, request_id, attempt, code, first_at_ns in reversed(rows):
            refused = kind == "RequestRefused"
            self._memory.tell(
                refusal_name(request_id, code, int(first_at_ns)) if refused else attempt_name(request_id, int(attempt))
            )

    async def _know(self, block: _Block, before_seq: int) -> None:
        """Look up what the rows of a block need of those before it, where this process has not seen it."""
        wants = [wants_of(batch) for _, batch in block.messages]
        memory = self._memory
        places = {place for want in wants for place in want.places} - memory.objects.keys()
        names = {name for want in wants for name in want.names} - memory.since.keys()
        memory.forget(keep_objects=MAX_OBJECTS - len(places))
        if places:
            await self._know_objects(sorted(places), before_seq)
        if names:
            await self._know_intents(sorted(names), before_seq)

    async def _know_objects(self, places: list[str], before_seq: int) -> None:
        """What is counted is the sum of all differences."""
        sql = (
            "SELECT concat(meter, ' ', object) AS place, sum(if(meter = 'usd', actual_usd, refund_usd)), max(seq), "
            "max(JSONExtractBool(data, 'object', 'final')) FROM ringfence.events "
            "WHERE log = 'nodes' AND seq < {before:UInt64} AND object IN {objects:Array(String)} GROUP BY place"
        )
        objects = sorted({place.split(" ", 1)[1] for place in places})
        rows = await self._query(sql, {"before": before_seq, "objects": objects})
        known = {
            place: Known(int(counted * NANOS_PER_USD), int(told_seq), bool(final))
            for place, counted, told_seq, final in rows
        }
        for place in places:
            self._memory.objects[place] = known.get(place, Known())

    async def _know_intents(self, names: list[str], before_seq: int) -> None:
        sql = (
            "SELECT request_id, JSONExtractUInt(data, 'attempt'), seq FROM ringfence.events "
            "WHERE log = 'nodes' AND seq < {before:UInt64} "
            "AND type = 'RequestAdmitted' AND request_id IN {requests:Array(String)} ORDER BY seq DESC"
        )
        requests = sorted({name.partition("#")[0] for name in names})
        for request_id, attempt, seq in await self._query(sql, {"before": before_seq, "requests": requests}):
            self._memory.since[attempt_name(request_id, int(attempt))] = int(seq)  # the first one's, which comes last

    async def _next(self, follower: Follower, most: int, patience_s: float | None) -> list[Stored]:
        while True:
            try:
                messages = await follower.next_batch(most, patience_s)
            except LogUnavailable as error:
                await self._pause(f"log {self._log}: {error}")
            else:
                self.progress.trouble = ""
                return messages

    async def _query(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        while True:
            try:
                rows = await self._store.query(sql, parameters)
            except StoreUnavailable as error:
                await self._pause(str(error))
            else:
                self.progress.trouble = ""
                return rows

    async def _put(self, table: str, columns: dict[str, list[Any]], token: str) -> bool:
        """Until it is acknowledged: the same block under the same token. Whether it was at the first try."""
        certain = True
        while True:
            try:
                await self._store.insert(table, columns, token)
            except StoreUnavailable as error:
                certain = False
                await self._pause(str(error))
            else:
                self.progress.trouble = ""
                return certain

    async def _pause(self, trouble: str) -> None:
        self.progress.failures += 1
        if trouble != self.progress.trouble:
            _log.warning("audit writer waits: %s", trouble)
        self.progress.trouble = trouble
        await asyncio.sleep(self._limits.retry_s)


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    """By column, without those of which no row has a value: the table knows the defaults."""
    present = {name for row in rows for name in row}
    return {name: [row.get(name, default) for row in rows] for name, default in COLUMNS.items() if name in present}
