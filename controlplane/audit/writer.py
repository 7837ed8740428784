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

    While a block is written, the next one is gathered and made rows: these are two processors' work. Its boundaries
    are not recorded before the first one's rows are there; and what it must look up among them it looks up then.

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
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from controlplane.audit.blocks import TURN_EVENTS, Block, make_rows
from controlplane.audit.columns import BLOCKS, EVENTS, Columns, Place, Rows
from controlplane.audit.lookup import Lookup
from controlplane.audit.memory import Memory
from controlplane.audit.merge import Merger
from controlplane.audit.packed import Packed, pack
from controlplane.audit.store import Store, StoreUnavailable
from controlplane.audit.told import Told
from events.log.port import Follower, LogUnavailable, Stored, StreamPort
from events.tasks import until_first
from schemas.histogram import Histogram

_log = logging.getLogger(__name__)

LogName = Literal["control", "nodes"]

BLOCK_BOUNDS_US = (5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000)


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How large blocks get and how long they wait."""

    max_rows: int = 16_000
    """A block of this size is written at once (a single message with more, by itself). The embedded engine needs 30 MB
    for so many usual rows; what is fixed about a block, some 40 ms, is shared by them."""
    max_bytes: int = 8 << 20
    """The same for the messages' bytes: rows can be much larger than usual."""
    piece_rows: int = 1_000
    """A block that the store has not kept is written again in pieces: it may have been too large."""
    max_messages: int = 400
    """Of one read."""
    linger_s: float = 0.3
    """A smaller block waits this long for company; requests must show within two seconds of their end."""
    merge_after_s: float = 0.7
    """What is written is merged at the latest after this long, however much is waiting."""
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


class _Ready(NamedTuple):
    """A block that can be written: its rows (none: it held signs of life alone), what they mean, and them packed."""

    rows: Rows
    told: Told
    packed: Packed
    from_seq: int
    to_seq: int


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
        self._ready: asyncio.Queue[_Ready] = asyncio.Queue(1)
        """One is written, one waits here, one is gathered: some 70 MB of usual rows."""
        self._lookup = Lookup(self._memory, self._query, self._ready.join)
        self._begun: deque[int] = deque()
        """When the log stored the first message of each block that is not written."""
        self._unmerged_s: float | None = None
        """When the first block was written that is not merged, on the loop's clock."""
        self.progress = Progress()

    async def run(self) -> None:
        """Finish the block that a predecessor may have left, then follow the log.

        Raises events.codec.CodecError, events.log.port.LogTrimmed: the log cannot be told whole.
        """
        position = await self._resume()
        follower = self._port.read(after=position)
        try:
            await until_first(self._make_ready(follower), self._write_ready())
        finally:
            await follower.aclose()

    async def _make_ready(self, follower: Follower) -> None:
        """Gather blocks, and make them rows. Runs for ever."""
        while True:
            ready = await self._make_next(follower)
            if ready is not None:
                await self._ready.put(ready)
            self.progress.lag = follower.lag

    async def _make_next(self, follower: Follower) -> _Ready | None:
        block = await self._gather(follower)
        if not block.messages:
            return None
        from_seq, to_seq = block.messages[0][0].sequence, block.messages[-1][0].sequence
        await self._know(block, from_seq)
        rows, told = await make_rows(self._log, block, self._memory)
        return _Ready(rows, told, await pack(EVENTS, rows.columns()), from_seq, to_seq)

    async def _write_ready(self) -> None:
        """Write one block after the other. Runs for ever."""
        while True:
            await self._write_new(await self._ready.get())
            self._begun.popleft()
            self.progress.oldest_unwritten_ns = self._begun[0] if self._begun else 0

    async def _resume(self) -> int:
        last = await self._last_block()
        if last is None:
            return 0
        from_seq, to_seq = last
        await self._remember(from_seq)
        follower = self._port.read(after=from_seq - 1)
        block = Block()
        try:
            while follower.position < to_seq:
                for message in await self._next(follower, to_seq - follower.position, None):
                    block.add(message)
        finally:
            await follower.aclose()
        await self._insert(block, from_seq, to_seq)
        return to_seq

    async def _last_block(self) -> tuple[int, int] | None:
        """The last one on record: (from, to)."""
        sql = "SELECT from_seq, to_seq FROM ringfence.blocks WHERE log = {log:String} ORDER BY from_seq DESC LIMIT 1"
        rows = await self._query(sql, {"log": self._log})
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    async def _gather(self, follower: Follower) -> Block:
        """A block: full, or as large as it got within the linger time of its first message."""
        loop = asyncio.get_running_loop()
        block = Block()
        deadline: float | None = None
        await self._fill(block, self._ahead)
        if block.messages:
            deadline = loop.time() + self._limits.linger_s
        while not self._ahead and not self._is_full(block):
            patience_s = None if deadline is None else max(0.0, deadline - loop.time())
            messages = await self._next(follower, self._limits.max_messages, patience_s)
            await self._fill(block, messages)
            self.progress.lag = follower.lag
            if deadline is None:
                deadline = loop.time() + self._limits.linger_s
            elif loop.time() >= deadline:
                break
        return block

    async def _fill(self, block: Block, messages: list[Stored]) -> None:
        """Add messages until the block is full; the rest is for the next one."""
        added, pause_at = 0, block.events + TURN_EVENTS
        for message in messages:
            if self._is_full(block):
                break
            if not block.messages:
                self._begun.append(message.time_ns)
                self.progress.oldest_unwritten_ns = self._begun[0]
            block.add(message)
            added += 1
            if block.events >= pause_at:
                pause_at = block.events + TURN_EVENTS
                await asyncio.sleep(0)
        self._ahead = messages[added:]

    def _is_full(self, block: Block) -> bool:
        return block.events >= self._limits.max_rows or block.bytes >= self._limits.max_bytes

    async def _write_new(self, block: _Ready) -> None:
        rows, told, packed, from_seq, to_seq = block
        if rows.count:
            # From here on this block is written with exactly these boundaries, whoever writes it.
            recorded = await self._record(from_seq, to_seq)
            if recorded != to_seq:
                raise RuntimeError(f"another writer recorded block {from_seq}..{recorded} of log {self._log}")
            await self._insert_rows(rows, packed, from_seq, to_seq)
            await self._merger.add(told, from_seq, to_seq)
        self._ready.task_done()
        await self._merge_in_time()
        self.progress.written_through = to_seq

    async def _merge_in_time(self) -> None:
        """With nothing waiting requests show at once; under load some blocks are merged together."""
        now_s = asyncio.get_running_loop().time()
        if self._unmerged_s is None:
            self._unmerged_s = now_s
        waits = self._ahead or self.progress.lag or self._ready.qsize()
        if not waits or self._merger.is_due or now_s - self._unmerged_s >= self._limits.merge_after_s:
            self._unmerged_s = None
            await self._merger.merge()

    async def _insert(self, block: Block, from_seq: int, to_seq: int) -> None:
        await self._know(block, from_seq)
        rows, _ = await make_rows(self._log, block, self._memory)
        await self._insert_rows(rows, await pack(EVENTS, rows.columns()), from_seq, to_seq, repeated=True)
        await self._merger.resume()
        self.progress.written_through = to_seq

    async def _remember(self, before_seq: int) -> None:
        if self._log == "nodes":
            await self._lookup.remember(before_seq)

    async def _know(self, block: Block, before_seq: int) -> None:
        await self._lookup.know(block.wants, before_seq)

    async def _record(self, from_seq: int, to_seq: int) -> int:
        """Record the block's boundaries; returns the end that is on record, which is `to_seq` but for a rival."""
        columns: Columns = {"log": [self._log], "from_seq": [from_seq], "to_seq": [to_seq]}
        sql = (
            "SELECT to_seq FROM ringfence.blocks WHERE log = {log:String} AND from_seq = {from_seq:UInt64} "
            "ORDER BY written_at, to_seq LIMIT 1"
        )
        token = f"block-{self._log}-{from_seq}"
        while True:
            await self._put(BLOCKS, columns, token)
            for pause_s in self._limits.settle_s:
                if rows := await self._query(sql, {"log": self._log, "from_seq": from_seq}):
                    return int(rows[0][0])
                await asyncio.sleep(pause_s)
            token = self._another(token)

    async def _insert_rows(
        self, rows: Rows, packed: Packed, from_seq: int, to_seq: int, *, repeated: bool = False
    ) -> None:
        """`repeated`: somebody may have tried before, under this token or (controlplane.audit.mend) under others."""
        began_s = asyncio.get_running_loop().time()
        token = f"events-{self._log}-{from_seq}-{to_seq}"
        if repeated and await self._is_kept(rows, from_seq, to_seq):
            return
        certain = await self._put(EVENTS, packed, token)
        if repeated or not certain or not await self._is_kept(rows, from_seq, to_seq):
            await self._complete(rows, from_seq, to_seq, token)
        self.progress.rows += rows.count
        self.progress.blocks += 1
        self.progress.block_us.observe(round((asyncio.get_running_loop().time() - began_s) * 1e6))

    async def _is_kept(self, rows: Rows, from_seq: int, to_seq: int) -> bool:
        """Whether the table holds the block. (chDB acknowledges inserts that failed at their end, out of memory.)"""
        sql = (
            "SELECT count() FROM ringfence.events "
            "WHERE log = {log:String} AND seq BETWEEN {from_seq:UInt64} AND {to_seq:UInt64}"
        )
        found = await self._query(sql, {"log": self._log, "from_seq": from_seq, "to_seq": to_seq})
        return int(found[0][0]) == rows.count

    async def _complete(self, rows: Rows, from_seq: int, to_seq: int, token: str) -> None:
        """Until all rows of a block are there: what was acknowledged may have been dropped as a repeat of nothing."""
        while missing := await self._missing(rows, from_seq, to_seq):
            token = self._another(token)
            for begin in range(0, len(missing), self._limits.piece_rows):
                piece = missing[begin : begin + self._limits.piece_rows]
                await self._put(EVENTS, rows.picked(piece), f"{token}-{begin}")

    async def _missing(self, rows: Rows, from_seq: int, to_seq: int) -> list[int]:
        """Which rows of a block are not in the table, nor come while an insert may still be under way there."""
        missing = list(range(rows.count))
        for pause_s in self._limits.settle_s:
            there = await self._there(from_seq, to_seq)
            missing = [row for row, place in enumerate(rows.places()) if place not in there]
            if not missing:
                break
            await asyncio.sleep(pause_s)
        return missing

    async def _there(self, from_seq: int, to_seq: int) -> set[Place]:
        """Which events of a span the table holds: (seq, idx)."""
        sql = (
            "SELECT seq, idx FROM ringfence.events "
            "WHERE log = {log:String} AND seq BETWEEN {from_seq:UInt64} AND {to_seq:UInt64}"
        )
        found = await self._query(sql, {"log": self._log, "from_seq": from_seq, "to_seq": to_seq})
        return {(int(seq), int(idx)) for seq, idx in found}

    def _another(self, token: str) -> str:
        _log.warning("ClickHouse remembers %s and does not have it; it is inserted again", token)
        self.progress.repaired += 1
        return f"{token.partition('~')[0]}~{secrets.token_hex(8)}"

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

    async def _put(self, table: str, columns: Columns, token: str) -> bool:
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
