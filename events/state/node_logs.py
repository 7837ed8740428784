r"""The node logs themselves: which incarnations live, how far each has come, what it has applied.

This fold is the door for all others: it skips repeated batches, refuses gaps (rule L5, docs/PROTOCOL.md), and
lets nothing pass that an incarnation would have written before its fence was opened or after it was fenced.
The server refuses such appends anyway; this is the second lock on that door.

| state \ message | FenceOpened | Fenced | batch n+1 | batch <= n | batch > n+1 |
|---|---|---|---|---|---|
| (unknown, or fenced) | living, n = 0 | - | - | - | - |
| living | - | forgotten | passes | - | CorruptLog |
"""

from collections.abc import Sequence

import msgspec

from events.codec import Batch
from events.subjects import parse_node_fence, parse_node_log
from events.types import Applied, Fenced, FenceOpened, NodeEvent, NodeStopped


class CorruptLog(Exception):
    """A log lacks something that was acknowledged. Folding on would forget spending; an operator must look."""


class NodeLog(msgspec.Struct):
    """One living incarnation. `applied`: it acts on the control log through this sequence (rule B1)."""

    slot: str
    opened_seq: int
    n: int = 0
    applied: int = 0
    stopped: bool = False
    seq: int = 0


class Passed(msgspec.Struct, frozen=True, gc=False):
    """What a message brings to the other folds: these events, by this incarnation."""

    actor: str
    events: Sequence[NodeEvent]


class NodeLogs:
    """All incarnations that have been opened and not fenced. `seq`: of the newest message folded."""

    def __init__(self) -> None:
        self.seq = 0
        self.living: dict[str, NodeLog] = {}

    def apply(self, seq: int, subject: str, batch: Batch) -> Passed | None:
        """Fold one message; None if it brings nothing new. Raises CorruptLog."""
        self.seq = seq
        owner = parse_node_log(subject)
        if owner is not None:
            return self._batch(seq, owner.incarnation, batch)
        owner = parse_node_fence(subject)
        return self._fence(seq, owner.slot, owner.incarnation, batch) if owner is not None else None

    def _batch(self, seq: int, incarnation: str, batch: Batch) -> Passed | None:
        log = self.living.get(incarnation)
        if log is None or batch.n <= log.n:
            return None
        if batch.n != log.n + 1:
            raise CorruptLog(f"log of {incarnation} goes from batch {log.n} to {batch.n} at sequence {seq}")
        log.n = batch.n
        log.seq = seq
        for event in batch.events:
            match event:
                case Applied():
                    log.applied = max(log.applied, event.through)
                case NodeStopped():
                    log.stopped = True
                case _:
                    pass  # for the other folds
        return Passed(incarnation, batch.events)  # type: ignore[arg-type]  # a node's log holds node events

    def _fence(self, seq: int, slot: str, incarnation: str, batch: Batch) -> Passed | None:
        for event in batch.events:
            if isinstance(event, FenceOpened) and incarnation not in self.living:
                self.living[incarnation] = NodeLog(slot, seq)
            elif isinstance(event, Fenced) and self.living.pop(incarnation, None) is not None:
                return Passed(incarnation, (Fenced(incarnation, event.reason, event.epoch),))
        return None
