"""A block of a log on its way into the audit: gathered messages, and the rows that they make."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.audit.columns import Rows
from controlplane.audit.memory import Memory
from controlplane.audit.messages import read_message
from controlplane.audit.rows import add_rows
from controlplane.audit.told import Told
from events.codec import Batch
from events.log.port import Stored

TURN_ROWS = 200
"""Made in one turn of the loop, or little more: half a millisecond."""

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


async def make_rows(log: str, block: Block, memory: Memory) -> tuple[Rows, Told]:
    """A block's rows, and what they mean. In many turns of the loop: what writes the block before this one has its
    turns in between.
    """
    rows, told = Rows(), Told()
    for messages in _turns(block):
        add_rows(rows, told, log, messages, memory)
        await asyncio.sleep(0)
    return rows, told


def _turns(block: Block) -> Iterator[list[tuple[Stored, Batch]]]:
    """The messages, in pieces of TURN_ROWS events."""
    piece: list[tuple[Stored, Batch]] = []
    events = 0
    for message in block.messages:
        piece.append(message)
        events += len(message[1].events)
        if events >= TURN_ROWS:
            yield piece
            piece, events = [], 0
    yield piece
