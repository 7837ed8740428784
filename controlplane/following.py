"""Both logs on their way into one replica: what a standby knows, and what a leadership begins with.

A control plane has one replica as long as it lives. Standing by it folds what the leader and the nodes append; leading
it folds its own appends, and the node logs as before; afterwards it reads on. So a takeover has only the short rest to
fold, and losing the leadership costs nothing.

Where to go on is what has been *folded*, never what a follower has handed out: a task that is cancelled between the
two would lose messages, and with them spending. So each time of following opens its own followers.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from controlplane.checkpoints import CheckpointStore, Restored
from controlplane.marks import Passage
from controlplane.recorder import Recorder
from controlplane.silence import Silence
from events.clock import Clock
from events.log.port import Follower, Stored, StreamPort
from events.state.replica import Replica
from events.tasks import until_first
from events.types import Fenced

BATCH = 500
"""Messages taken at a time."""

EVENTS_A_STEP = 1_000
"""Events folded before other tasks get a turn: some 4 ms of work."""

FRESH_NS = 2_000_000_000
"""A fold that was at its log's end this recently shows the present, for people who look."""


class Logs(NamedTuple):
    """The two streams."""

    control: StreamPort
    nodes: StreamPort


class Replay:
    """Folds one stream. `position` is the sequence that the replica has folded; `fold` returns a message's events."""

    def __init__(
        self, port: StreamPort, position: Callable[[], int], fold: Callable[[Stored], int], clock: Clock
    ) -> None:
        self._port = port
        self._position = position
        self._fold = fold
        self._clock = clock
        self._reader: Follower | None = None
        self._current_ns: int | None = None

    @property
    def follower(self) -> Follower:
        """Reads on from what is folded."""
        if self._reader is None:
            self._reader = self._port.read(after=self._position())
        return self._reader

    def current(self) -> bool:
        """Whether the fold was at the log's end lately, as far as this process can know."""
        now_ns = self._clock.elapsed_ns()
        if self._reader is not None and self._reader.caught_up:
            self._current_ns = now_ns
        return self._current_ns is not None and now_ns - self._current_ns < FRESH_NS

    async def to_end(self) -> None:
        """Fold everything that is stored now. Raises LogUnavailable, LogTrimmed, CorruptLog, CodecError."""
        await self.through((await self._port.state()).last_sequence)

    async def through(self, sequence: int) -> None:
        """Fold until `sequence` is passed."""
        while self._position() < sequence:
            await self._take()

    async def run(self) -> None:
        """Fold what is written, for ever. Raises LogTrimmed, LogRewound, CorruptLog, CodecError."""
        while True:
            await self._take()
            self.current()

    async def _take(self) -> None:
        events = 0
        for message in await self.follower.next_batch(BATCH):
            events += self._fold(message)
            if events >= EVENTS_A_STEP:
                events = 0
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    def hand_over(self) -> Follower:
        """The follower, to somebody who folds what it brings from now on."""
        follower, self._reader = self.follower, None
        return follower

    async def close(self) -> None:
        follower, self._reader = self._reader, None
        if follower is not None:
            await follower.aclose()


class Following:
    """One control plane's copy of both logs. `on_fence(sequence)` hears of each fence of the control log."""

    def __init__(self, logs: Logs, restored: Restored, checkpoints: CheckpointStore, clock: Clock) -> None:
        self.replica: Replica = restored.replica
        self.recorder = Recorder(restored.replica, checkpoints, clock, restored.control, restored.nodes)
        self.silence = Silence(clock.elapsed_ns())
        self.folded = Passage()
        """How far the control log is folded while following."""
        self.on_fence: Callable[[int], None] = lambda _: None
        self._clock = clock
        self.control = Replay(logs.control, lambda: self.replica.control_seq, self._fold_control, clock)
        self.nodes = Replay(logs.nodes, lambda: self.replica.nodes.seq, self._fold_node, clock)

    def current(self) -> bool:
        """Whether both folds show the present."""
        return self.control.current() and self.nodes.current()

    async def to_ends(self) -> None:
        """Fold what both logs hold now. Raises as `Replay.to_end`."""
        await self.control.to_end()
        await self.nodes.to_end()

    async def run(self) -> None:
        """Follow both logs, and keep checkpoints, until cancelled. Raises as `Replay.run`."""
        self.silence = Silence(self._clock.elapsed_ns())
        self.folded.reached(self.replica.control_seq)
        try:
            await until_first(self.control.run(), self.nodes.run(), self.recorder.run())
        finally:
            await self.close()

    async def close(self) -> None:
        """Hold nothing at the server any more. The replica stays, and can be followed on."""
        await self.control.close()
        await self.nodes.close()

    def _fold_control(self, message: Stored) -> int:
        before = self.replica.fence_seq
        events = self.replica.apply_control(message)
        self.recorder.control_folded(message)
        self.folded.reached(self.replica.control_seq)
        if self.replica.fence_seq != before:
            self.on_fence(self.replica.fence_seq)
        return len(events)

    def _fold_node(self, message: Stored) -> int:
        folded = self.replica.apply_node(message)
        self.recorder.node_folded(message)
        if folded is None:
            return 0
        if any(isinstance(event, Fenced) for event in folded.events):
            self.silence.gone(folded.actor)
        else:
            self.silence.heard(folded.actor, self._clock.elapsed_ns())
        return len(folded.events)
