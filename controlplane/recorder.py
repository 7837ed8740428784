"""Writes checkpoints now and then, and one at the end."""

import asyncio
import logging

from controlplane.checkpoints import CheckpointStore, Position, write_checkpoint
from events.clock import Clock
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM

EVERY_S = 60.0
COST_SHARE = 1_000
"""Making the bytes stalls this process (0.4 s with 100,000 keys), so at most a thousandth of its time goes there."""

AT_LEAST_MESSAGES = 5_000
"""Folding that much again takes a fraction of a second; less is not worth a checkpoint."""

_log = logging.getLogger(__name__)


class Recorder:
    """Knows the newest message of each log that the replica has folded. `*_at`: where the takeover ended."""

    def __init__(
        self, replica: Replica, store: CheckpointStore, clock: Clock, control_at: Position, nodes_at: Position
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._store = store
        self._control: Stored | Position = control_at
        self._nodes: Stored | Position = nodes_at
        self._saved = 0
        self._took_s = 0.0
        self._saved_through = {CONTROL_STREAM: 0, NODES_STREAM: 0}
        self.failed = 0
        """Checkpoints that could not be written, for metrics; the one before stays."""

    def control_folded(self, message: Stored) -> None:
        self._control = message

    def node_folded(self, message: Stored) -> None:
        self._nodes = message

    async def run(self) -> None:
        """Runs for ever."""
        self._saved = self._folded()
        while True:
            await asyncio.sleep(max(EVERY_S, COST_SHARE * self._took_s))
            if self._folded() - self._saved >= AT_LEAST_MESSAGES:
                await self.save()

    def saved_through(self, stream: str) -> int:
        """What the newest checkpoint that was written here has folded of a stream; 0 before the first."""
        return self._saved_through[stream]

    async def save(self) -> None:
        """Write a checkpoint of this moment. A failure is logged: the next start folds more, and loses nothing."""
        folded = self._folded()
        through = {CONTROL_STREAM: self._control.sequence, NODES_STREAM: self._nodes.sequence}
        began_ns = self._clock.elapsed_ns()
        data = write_checkpoint(self._replica, _position(self._control), _position(self._nodes))
        self._took_s = (self._clock.elapsed_ns() - began_ns) / 1e9
        try:
            await self._store.save(data)
        except OSError as error:
            self.failed += 1
            _log.error("no checkpoint could be written: %s", error)
            return
        self._saved = folded
        self._saved_through = through
        _log.info("checkpoint of %d bytes at %s", len(data), through)

    def _folded(self) -> int:
        return self._control.sequence + self._nodes.sequence


def _position(at: Stored | Position) -> Position:
    return Position.of(at) if isinstance(at, Stored) else at
