"""A block of a log on its way into the audit: gathered messages, and the rows that they make."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.audit.columns import Rows
from controlplane.audit.memory import Memory, Wants
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

    messages: deque[tuple[Stored, Batch]] = field(default_factory=deque)
    wants: Wants = field(default_factory=lambda: Wants(set(), set()))
    events: int = 0
    bytes: int = 0

    def add(self, message: Stored) -> None:
        batch = read_message(message)
        self.messages.append((message, batch))
        self.wants.add(batch)
        self.events += len(batch.events)
        self.bytes += len(message.payload)


async def make_rows(log: str, block: Block, memory: Memory) -> tuple[Rows, Told]:
    """A block's rows, and what they mean; its messages are taken out of it. In many turns of the loop: what writes the
    block before this one has its turns in between. (Freeing all the events at once would take 5 ms.)
    """
    rows, told = Rows(), Told()
    for messages in _turns(block):
        add_rows(rows, told, log, messages, memory)
        await asyncio.sleep(0)
    return rows, told


def _turns(block: Block) -> Iterator[list[tuple[Stored, Batch]]]:
    """The messages, in pieces of TURN_ROWS events."""
    while block.messages:
        piece: list[tuple[Stored, Batch]] = []
        events = 0
        while block.messages and events < TURN_ROWS:
            piece.append(block.messages.popleft())
            events += len(piece[-1][1].events)
        yield piece
