"""A block of a log on its way into the audit: gathered messages, and the rows that they make."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from controlplane.audit.messages import read_message
from controlplane.audit.rows import Memory, Row, column, names_in, rows_of
from events.codec import Batch
from events.log.port import Stored

TURN_ROWS = 25
"""Made in one turn of the loop, or little more: a quarter of a millisecond."""

TURN_EVENTS = 200
"""Decoded in one turn."""


@dataclass(slots=True)
class Block:
    """Messages gathered and not yet written."""

    messages: list[tuple[Stored, Batch]] = field(default_factory=list)
    events: int = 0
    bytes: int = 0

    def add(self, message: Stored) -> None:
        batch = read_message(message)
        self.messages.append((message, batch))
        self.events += len(batch.events)
        self.bytes += len(message.payload)


async def make_rows(log: str, block: Block, memory: Memory) -> list[Row]:
    """A block's rows. In many turns of the loop: what writes the block before this one has its turns in between."""
    rows: list[Row] = []
    pause_at = TURN_ROWS
    for message, batch in block.messages:
        rows += rows_of(log, message, batch, memory)
        if len(rows) >= pause_at:
            pause_at = len(rows) + TURN_ROWS
            await asyncio.sleep(0)
    return rows


async def make_columns(rows: list[Row]) -> dict[str, list[Any]]:
    """As `columns_of`, in many turns."""
    columns: dict[str, list[Any]] = {}
    for name in names_in(rows):
        columns[name] = column(rows, name)
        await asyncio.sleep(0)
    return columns
