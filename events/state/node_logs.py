r"""The node logs themselves: which incarnations live, how far each has come, what it has applied.

This fold is the door for all others: it skips repeated batches, refuses gaps (rule L5, docs/PROTOCOL.md), and
lets nothing pass that an incarnation would have written before its fence was opened or after it was fenced.
The server refuses such appends anyway; this is the second lock on that door.

| state \ message | FenceOpened | Fenced | batch n+1 | batch <= n | batch > n+1, or no batch of a node's |
|---|---|---|---|---|---|
| (unknown, or fenced) | living, n = 0 | - | - | - | - |
| living | - | forgotten | passes | - | broken |
| broken | - | forgotten | - | - | - |

Anybody who holds the slot's credential can write there. So one log that makes no sense (events.node_batches) stops
nobody else's: it is believed up to that point, and its incarnation is to be fenced. What it may have spent beyond
is within its leases, which therefore do not return (`Leases.keep`). What a slot writes under the name of another
slot's incarnation is nobody's log, and ignored.
"""

from collections.abc import Sequence

import msgspec

from events.codec import Batch, decode_batch
from events.node_batches import read_node_batch
from events.subjects import NodeSubject, parse_node_fence, parse_node_log
from events.types import Applied, Fenced, FenceOpened, NodeEvent, NodeStopped

_TOLD_HERE = frozenset({Applied, NodeStopped})
"""What is of interest here; most batches hold none of these."""


class CorruptLog(Exception):
    """The control log lacks something that was acknowledged. Folding on would forget; an operator must look."""


class NodeLog(msgspec.Struct):
    """One living incarnation. `applied`: it acts on the control log through this sequence (rule B1). `broken_seq`:
    from this message on its log is not believed; 0: it is.
    """

    slot: str
    opened_seq: int
    n: int = 0
    applied: int = 0
    stopped: bool = False
    seq: int = 0
    broken_seq: int = 0


class Passed(msgspec.Struct, frozen=True, gc=False):
    """What a message brings to the other folds: these events, by this incarnation. `breaks`: its log is not believed
    from here on.
    """

    actor: str
    events: Sequence[NodeEvent]
    breaks: bool = False


class NodeLogs:
    """All incarnations that have been opened and not fenced. `seq`: of the newest message folded."""

    def __init__(self) -> None:
        self.seq = 0
        self.living: dict[str, NodeLog] = {}

    def apply(self, seq: int, subject: str, payload: bytes) -> Passed | None:
        """Fold one message; None if it brings nothing new. Raises CodecError for a fence that cannot be read."""
        self.seq = seq
        owner = parse_node_log(subject)
        if owner is not None:
            return self._batch(seq, owner, payload)
        owner = parse_node_fence(subject)
        return self._fence(seq, owner.slot, owner.incarnation, decode_batch(payload)) if owner is not None else None

    def _batch(self, seq: int, owner: NodeSubject, payload: bytes) -> Passed | None:
        incarnation = owner.incarnation
        log = self.living.get(incarnation)
        if log is None or log.slot != owner.slot or log.broken_seq:
            return None
        batch = read_node_batch(owner, payload)
        if batch is None or batch.n > log.n + 1:
            log.broken_seq = seq
            return Passed(incarnation, (), breaks=True)
        if batch.n <= log.n:
            return None
        log.n = batch.n
        log.seq = seq
        events: Sequence[NodeEvent] = batch.events  # type: ignore[assignment]  # a node's log holds node events
        if not _TOLD_HERE.isdisjoint(map(type, events)):
            for event in events:
                if isinstance(event, Applied):
                    log.applied = max(log.applied, event.through)
                elif isinstance(event, NodeStopped):
                    log.stopped = True
        return Passed(incarnation, events)

    def _fence(self, seq: int, slot: str, incarnation: str, batch: Batch) -> Passed | None:
        for event in batch.events:
            if isinstance(event, FenceOpened) and incarnation not in self.living:
                self.living[incarnation] = NodeLog(slot, seq)
            elif isinstance(event, Fenced) and self.living.pop(incarnation, None) is not None:
                return Passed(incarnation, (Fenced(incarnation, event.reason, event.epoch),))
        return None
