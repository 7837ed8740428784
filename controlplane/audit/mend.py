"""Puts back what the audit's tables have lost on the disk. The logs are the source; the tables can be told again.

How rows are lost
    The engine joins small parts into larger ones in the background. On a disk that runs full at that moment chDB 4.4
    ends such a part with empty files, takes it for good, and drops the parts that it was made of. From then on
    statements that touch it fail (`DAMAGE`); at the next start the engine puts it aside as broken, with all its rows,
    and says nothing. An acknowledged insert, read back and found whole, may so be gone an hour later.

What is done
    While it runs: damage that does not go away ends the process, so that the next start puts the part aside.
    At a start: if parts were put aside, the logs are read again from their beginning, and what is missing in `events`
    goes in; then all requests are merged anew. The broken parts are dropped last, so a mending that was killed is
    begun again. It takes as long as writing the logs for the first time, and nothing where no part is broken.

What would be wrong
    - Looking at the last block alone: a joined part holds hundreds of earlier ones.
    - Touching the last recorded block: the writer inserts it again under its own token, and would double it.
    - Rows that no recorded block holds: the next block would overlap with them under another token.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterable

from controlplane.audit.blocks import Block, make_rows
from controlplane.audit.columns import EVENTS, Place
from controlplane.audit.merge import merge_everything
from controlplane.audit.store import Store
from controlplane.audit.writer import LogName, LogWriter, Progress
from events.log.port import StreamPort

DAMAGE = frozenset({33, 40, 76, 107, 228, 246, 271, 740})
"""ClickHouse's codes for a part that cannot be read: too short, wrong checksum, missing or impossible files."""

DAMAGED_S = 5.0
"""Damage that lasts so long is no statement that met a part on its way out."""

KEPT_NS = 89 * 24 * 3_600 * 10**9
"""Younger rows must be there; schema.sql drops them at 90 days, and rows put back in that hour would vanish again."""

PIECE_ROWS = 1_000

_CODE = re.compile(r"code: (\d+)")
_log = logging.getLogger(__name__)


class Damaged(Exception):
    """A part of a table cannot be read; the next start puts it aside and mends the table."""


async def watch_damage(progresses: Iterable[Progress], look_s: float = 0.5) -> None:
    """Raises Damaged once a writer has met the same damage for DAMAGED_S. Else runs for ever."""
    watched = tuple(progresses)
    loop = asyncio.get_running_loop()
    since_s: float | None = None
    while True:
        await asyncio.sleep(look_s)
        trouble = next((found.trouble for found in watched if is_damage(found.trouble)), "")
        since_s = (since_s or loop.time()) if trouble else None
        if since_s is not None and loop.time() - since_s >= DAMAGED_S:
            raise Damaged(trouble)


def is_damage(trouble: str) -> bool:
    """Whether a store's error says that a part cannot be read."""
    found = _CODE.search(trouble)
    return found is not None and int(found.group(1)) in DAMAGE


async def mend(store: Store, logs: Iterable[tuple[LogName, StreamPort]]) -> int:
    """Mend all tables if the engine has put parts aside; returns how many rows were put back. Call before any writer
    runs. Raises StoreUnavailable; it may be called again.
    """
    parts = await _broken_parts(store)
    if not parts:
        return 0
    _log.error(
        "broken parts were put aside, their rows are read from the logs again: %s", ", ".join(map(".".join, parts))
    )
    rows = 0
    for name, port in logs:
        rows += await Mender(name, port, store).mend()
    await merge_everything(store.query)
    for table, part in parts:
        await store.query(
            f"ALTER TABLE ringfence.`{table}` DROP DETACHED PART '{part}' SETTINGS allow_drop_detached = 1"
        )
    _log.warning("the audit's tables are whole again: %d rows were put back", rows)
    return rows


async def _broken_parts(store: Store) -> list[tuple[str, str]]:
    """Tables and names."""
    sql = "SELECT table, name FROM system.detached_parts WHERE database = 'ringfence' AND startsWith(reason, 'broken')"
    return [(str(table), str(name)) for table, name in await store.query(sql)]


class Mender(LogWriter):
    """Mends the rows of one log."""

    async def mend(self) -> int:
        """Returns how many rows were put back. The writer that starts afterwards sees to the last recorded block."""
        from_seq, to_seq = await self._last_block() or (1, 0)
        sql = "SELECT max(seq) FROM ringfence.events WHERE log = {log:String}"
        ((newest,),) = await self._query(sql, {"log": self._log})
        end_seq = from_seq if to_seq >= newest else int(newest) + 1
        begin = max(1, (await self._port.state()).first_sequence)
        await self._remember(begin)
        follower = self._port.read(after=begin - 1)
        count = 0
        try:
            while follower.position < end_seq - 1:
                block = Block()
                for message in await self._next(follower, self._limits.max_messages, None):
                    if message.sequence < end_seq:
                        block.add(message)
                if block.messages:
                    first, last = block.messages[0][0].sequence, block.messages[-1][0].sequence
                    count += await self._put_back(block, first, last)
                    await self._record_again(first, last, to_seq)
        finally:
            await follower.aclose()
        return count

    async def _record_again(self, first: int, last: int, to_seq: int) -> None:
        """Boundaries of what lies behind the last block on record (that table's part was the broken one)."""
        if last > to_seq:
            await self._record(max(first, to_seq + 1), last)

    async def _put_back(self, block: Block, first: int, last: int) -> int:
        """The block's rows that are missing, once."""
        await self._know(block, first)
        old = {stored.sequence for stored, _ in block.messages if stored.time_ns < time.time_ns() - KEPT_NS}
        rows, _ = await make_rows(self._log, block, self._memory)
        places = rows.places()
        absent = await self._absent(set(places), first, last)
        missing = [row for row, place in enumerate(places) if place in absent and place[0] not in old]
        for begin in range(0, len(missing), PIECE_ROWS):
            token = f"mended-{self._log}-{first}-{last}~{secrets.token_hex(8)}"
            await self._put(EVENTS, rows.picked(missing[begin : begin + PIECE_ROWS]), token)
        if left := await self._absent({places[row] for row in missing}, first, last):
            raise Damaged(f"{len(left)} rows of {self._log} {first}..{last} were not kept")
        return len(missing)

    async def _absent(self, places: set[Place], first: int, last: int) -> set[Place]:
        return places - await self._there(first, last) if places else set()
