"""Taking over: fold the rest, fence the leader before, fold what it still wrote, begin (rule F4, docs/PROTOCOL.md).

1. Fold both logs to their present ends. Nothing is decided yet, and the old leader goes on meanwhile.
2. Append to the control fence, asserting that it ends where the fold has seen it. From that sequence on, every append
   of an earlier leader fails. If somebody else has fenced meanwhile, this fence is not stored: a fence ends exactly
   the leadership that its writer has looked at, so of two that race one leads and the other deposes nobody.
3. Fold the control log through that sequence: now nothing of the old leader is missing.
4. Put a mark behind the node logs and fold through it, so that the first decisions see what nodes have done.
5. Record `LeaderStarted`. It fails if somebody else has fenced after all.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from controlplane.control_clock import ControlClock
from controlplane.errors import NotLeading
from controlplane.fences import Fences
from controlplane.following import Following, Logs
from controlplane.lane import Encoder
from controlplane.marks import mark_nodes
from controlplane.recorder import Recorder
from events.clock import Clock
from events.log.port import FenceExpectation, FenceMoved, Follower
from events.log.writer import SoleWriterLog, WriterSettings
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, CONTROL_LOG
from events.types import ControlEvent, FenceOpened, LogMarked
from schemas.ids import ID_BYTES, base62
from schemas.settings import Timing

LEADER_PREFIX = "cp-"

_log = logging.getLogger(__name__)


class TakenOver(NamedTuple):
    """What a leader begins with. `log` is started; `nodes` follows the node logs from where the replica is.

    `clock`: its time, which does not go back.
    """

    replica: Replica
    recorder: Recorder
    name: str
    epoch: int
    log: SoleWriterLog[ControlEvent]
    encoder: Encoder
    nodes: Follower
    since_ns: int
    clock: Clock


async def take_over(
    logs: Logs,
    following: Following,
    clock: Clock,
    draw: Callable[[int], bytes],
    timing: Timing,
    silent_epoch: int | None = None,
) -> TakenOver:
    """Become the leader, but for `LeaderStarted`. Nobody else may fold into `following` meanwhile. Waits as long as the
    streams take. `silent_epoch`: whose leader has gone silent; None: whoever leads.

    Raises NotLeading if another one is quicker, LogTrimmed, LogUnavailable; CorruptLog and CodecError for logs that
    cannot be folded.
    """
    replica = following.replica
    name = LEADER_PREFIX + base62(draw(ID_BYTES))
    try:
        await following.to_ends()
        epoch = await _fence(logs, replica, Fences(name, draw, clock.wall_ns), name, silent_epoch)
        since_ns = clock.elapsed_ns()
        await following.control.through(epoch)
        clock = ControlClock(clock, replica.at_ns)
        mark = LogMarked(epoch, 0)
        await following.nodes.through(await mark_nodes(logs.nodes, mark, name, clock.wall_ns))
        nodes = following.nodes.hand_over()
    finally:
        await following.close()
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
    return TakenOver(replica, following.recorder, name, epoch, log, encoder, nodes, since_ns, clock)


async def _fence(logs: Logs, replica: Replica, fences: Fences, name: str, silent_epoch: int | None) -> int:
    seen = replica.fence_seq
    if silent_epoch not in {None, seen}:
        raise NotLeading("another control plane has taken over from the one that went silent")
    # The very first fence asserts nothing: "no message there" would hold again after a purge (rule L2).
    expect = FenceExpectation(CONTROL_FENCE, seen) if seen else None
    try:
        return await fences.write(logs.control, CONTROL_FENCE, FenceOpened(name), expect)
    except FenceMoved:
        raise NotLeading("another control plane took over at the same time") from None
