"""Taking over: fold what is there, fence the leader before, fold the rest, begin (rule F4, docs/PROTOCOL.md).

1. Start from the checkpoint, if it agrees with the streams (rule L7), and fold both logs to their present ends.
   Nothing is decided yet, and the old leader goes on meanwhile.
2. Append to the control fence. From that sequence on, every append of an earlier leader fails.
3. Fold the control log through that sequence: now nothing of the old leader is missing.
4. Put a mark behind the node logs and fold through it, so that the first decisions see what nodes have done.
5. Record `LeaderStarted`. It fails if somebody else has fenced meanwhile: of two that race, the last one leads.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from controlplane.checkpoints import CheckpointStore, Position, restore
from controlplane.fences import Fences
from controlplane.lane import Encoder
from controlplane.marks import mark_nodes
from events.clock import Clock
from events.log.port import FenceExpectation, Follower, Stored, StreamPort
from events.log.writer import SoleWriterLog, WriterSettings
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, CONTROL_LOG
from events.types import ControlEvent, FenceOpened, LogMarked
from schemas.ids import ID_BYTES, base62
from schemas.settings import Timing

REPLAY_BATCH = 500
"""Messages folded before other tasks get a turn: some 10 ms of work."""

LEADER_PREFIX = "cp-"

_log = logging.getLogger(__name__)


class Logs(NamedTuple):
    """The two streams."""

    control: StreamPort
    nodes: StreamPort


class TakenOver(NamedTuple):
    """What a leader begins with. `log` is started; `nodes` follows the node logs from where the replica is."""

    replica: Replica
    name: str
    epoch: int
    log: SoleWriterLog[ControlEvent]
    encoder: Encoder
    nodes: Follower
    control_at: Position
    nodes_at: Position
    since_ns: int


async def take_over(
    logs: Logs, checkpoints: CheckpointStore, clock: Clock, draw: Callable[[int], bytes], timing: Timing
) -> TakenOver:
    """Become the leader, but for `LeaderStarted`. Waits as long as the streams take.

    Raises Unsafe, LogTrimmed, LogUnavailable, OSError; CorruptLog and CodecError for logs that cannot be folded.
    """
    restored = await restore(checkpoints, logs.control, logs.nodes)
    replica = restored.replica
    name = LEADER_PREFIX + base62(draw(ID_BYTES))
    control = _Replay(logs.control, restored.control, replica.apply_control)
    nodes = _Replay(logs.nodes, restored.nodes, replica.apply_node)
    try:
        await control.through((await logs.control.state()).last_sequence)
        await nodes.through((await logs.nodes.state()).last_sequence)
        fences = Fences(name, draw, clock.wall_ns)
        epoch = await fences.write(logs.control, CONTROL_FENCE, FenceOpened(name))
        since_ns = clock.elapsed_ns()
        await control.through(epoch)
        mark = LogMarked(epoch, 0)
        await nodes.through(await mark_nodes(logs.nodes, mark, name, clock.wall_ns))
    except BaseException:
        await nodes.follower.aclose()
        raise
    finally:
        await control.follower.aclose()
    replica.budget.take_overran()
    _log.info("%s leads since %d, node logs folded through %d", name, epoch, replica.nodes.seq)
    encoder = Encoder(name, clock.wall_ns)
    log = SoleWriterLog[ControlEvent](
        logs.control,
        subject=CONTROL_LOG,
        fence=FenceExpectation(CONTROL_FENCE, epoch),
        incarnation=name,
        encode=encoder,
        clock_ns=clock.elapsed_ns,
        settings=WriterSettings(ack_timeout_s=timing.append_timeout_ms / 1000),
        id_salt=draw(8).hex(),
    )
    log.start()
    return TakenOver(replica, name, epoch, log, encoder, nodes.follower, control.at, nodes.at, since_ns)


class _Replay:
    """Folds one stream from where the checkpoint ends."""

    def __init__(self, port: StreamPort, begin: Position, fold: Callable[[Stored], object]) -> None:
        self.follower = port.read(after=begin.sequence)
        self.at = begin
        self._fold = fold

    async def through(self, sequence: int) -> None:
        """Fold until `sequence` is passed."""
        last: Stored | None = None
        while self.follower.position < sequence:
            batch = await self.follower.next_batch(REPLAY_BATCH)
            for message in batch:
                self._fold(message)
            last = batch[-1] if batch else last
            await asyncio.sleep(0)
        if last is not None:
            self.at = Position.of(last)
