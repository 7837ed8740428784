"""Writes checkpoints now and then, and one at the end."""

import asyncio
import logging
from collections import deque
from functools import partial

from controlplane.checkpoints import CheckpointStore, Position, write_checkpoint
from events.clock import Clock
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM

EVERY_S = 60.0
COST_SHARE = 50
"""A checkpoint takes another processor for about a second with 100,000 keys: at most a fiftieth of the time."""

AT_LEAST_MESSAGES = 5_000
"""Folding that much again takes a fraction of a second; less is not worth a checkpoint."""

_log = logging.getLogger(__name__)


class Recorder:
    """Knows the newest message of each log that the replica has folded. `*_at`: where it begins."""

    def __init__(
        self, replica: Replica, store: CheckpointStore, clock: Clock, control_at: Position, nodes_at: Position
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._store = store
        self._control: Stored | Position = control_at
        self._nodes: Stored | Position = nodes_at
        self._saved = self._folded()
        self._took_s = 0.0
        begin = {CONTROL_STREAM: control_at.sequence, NODES_STREAM: nodes_at.sequence}
        self._kept: deque[dict[str, int]] = deque([begin], maxlen=2)
        """What the checkpoints in the store have folded; the first is the oldest that a start may need."""
        self._saving = asyncio.Lock()
        self.saved_ns: int | None = None
        """When the newest checkpoint of this process was written, on the elapsed clock."""
        self.failing = False
        """Whether the last try failed."""
        self.failed = 0
        """Checkpoints that could not be written, for metrics; the one before stays."""

    def control_folded(self, message: Stored) -> None:
        self._control = message

    def node_folded(self, message: Stored) -> None:
        self._nodes = message

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(max(EVERY_S, COST_SHARE * self._took_s))
            if self._folded() - self._saved >= AT_LEAST_MESSAGES:
                await self.save()

    @property
    def newest_node_message(self) -> Stored | None:
        """The newest message of the node logs that was folded here; None before the first."""
        return self._nodes if isinstance(self._nodes, Stored) else None

    def saved_through(self, stream: str) -> int:
        """What the oldest checkpoint that is kept has folded of a stream; 0 if there was none at the start."""
        return self._kept[0][stream]

    async def save(self) -> None:
        """Write a checkpoint of this moment. A failure is logged: the next start folds more, and loses nothing."""
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        if (self._replica.control_seq, self._replica.nodes.seq) != (self._control.sequence, self._nodes.sequence):
            # The fold of a message has failed half-way. The next start must come upon that message again.
            _log.critical(
                "no checkpoint: what follows control %d or nodes %d could not be folded",
                self._control.sequence,
                self._nodes.sequence,
            )
            return
        folded = self._folded()
        through = {CONTROL_STREAM: self._control.sequence, NODES_STREAM: self._nodes.sequence}
        began_ns = self._clock.elapsed_ns()
        make = partial(write_checkpoint, self._replica, _position(self._control), _position(self._nodes))
        try:
            size = await self._store.write(make)
        except OSError as error:
            self.failed += 1
            self.failing = True
            _log.error("no checkpoint could be written: %s", error)
            return
        self.failing, self.saved_ns = False, self._clock.elapsed_ns()
        self._saved = folded
        self._kept.append(through)
        self._took_s = (self._clock.elapsed_ns() - began_ns) / 1e9
        _log.info("checkpoint of %d bytes at %s", size, through)

    def _folded(self) -> int:
        return self._control.sequence + self._nodes.sequence


def _position(at: Stored | Position) -> Position:
    return Position.of(at) if isinstance(at, Stored) else at
