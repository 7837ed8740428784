"""Folding the node logs as they are written: the leader's view of what nodes do."""

import asyncio
from collections.abc import Callable

from controlplane.marks import Passage
from controlplane.recorder import Recorder
from controlplane.slot_volumes import SlotVolumes
from events.log.port import Follower
from events.state.replica import Folded, Replica

BATCH = 200
"""Messages taken at a time."""

EVENTS_A_STEP = 1_000
"""Events folded before other tasks get a turn: some 4 ms of work."""


class NodeFold:
    """`on_message` hears of each message that counts, `on_step` when the fold has come to rest for a moment."""

    def __init__(
        self,
        replica: Replica,
        follower: Follower,
        passage: Passage,
        on_message: Callable[[Folded], None],
        on_step: Callable[[], None],
        recorder: Recorder,
        volumes: SlotVolumes,
    ) -> None:
        self._replica = replica
        self._follower = follower
        self._passage = passage
        self._on_message = on_message
        self._on_step = on_step
        self._recorder = recorder
        self._volumes = volumes

    async def run(self) -> None:
        """Runs for ever. Raises LogTrimmed, CorruptLog, CodecError: going on would forget spending."""
        self._passage.reached(self._replica.nodes.seq)
        while True:
            events = 0
            for message in await self._follower.next_batch(BATCH):
                folded = self._replica.apply_node(message)
                self._recorder.node_folded(message)
                self._volumes.count(message.subject, len(message.payload))
                if folded is not None:
                    events += len(folded.events)
                    self._on_message(folded)
                if events >= EVENTS_A_STEP:
                    events = 0
                    self._step()
                    await asyncio.sleep(0)
            self._step()

    def _step(self) -> None:
        self._on_step()
        self._passage.reached(self._replica.nodes.seq)
