"""Who is a node: letting incarnations in, noticing silence, fencing (rules A2, F1 to F5, docs/PROTOCOL.md).

To let an incarnation in: open its fence, record `NodeJoined` (which also proves that this control plane leads), and
fence the slot's earlier incarnations. The same nonce gets the same answer. To fence one: a `Fenced` message beside
its log, and once the fold has passed it, `NodeFenced` in the control log for the record. No grant for it can follow,
because the ledger decides on the folded state, in the same lane.

Opened and never joined, joined and never heard, heard and silent: all end by `node_timeout`. A node that drained
says so itself and is fenced at once. So is one whose log no node could have written (events.node_batches).
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from controlplane.fences import Fences
from controlplane.lane import Lane
from controlplane.marks import Marks, Passage
from controlplane.silence import Silence
from events.clock import Clock
from events.log.port import StreamPort
from events.state.replica import Folded, Replica
from events.subjects import node_fence, node_log
from events.tasks import Tasks
from events.types import ControlEvent, Fenced, FenceOpened, NodeFenced, NodeJoined, NodeStopped
from schemas.ids import ID_BYTES, incarnation_id
from schemas.rpc import JoinAnswer, JoinAsk
from schemas.settings import MS, Timing

MAX_NONCES = 16
"""Joins remembered per slot. A node tries one nonce at a time; older ones are late copies of answered messages."""

MAX_SLOTS = 1_000
"""Slots whose nonces are remembered, the most recently used."""

MAX_TEXT = 128
"""Characters of a nonce or a version: what a node says of itself is kept in the log for good."""

TICKS = 12
"""Looks in one node_timeout. Silence is noticed that much late at most."""

_LEVELS = {"stopped": logging.INFO, "replaced": logging.INFO}
"""Reasons for a fence that are everyday; any other one should be looked at."""

_log = logging.getLogger(__name__)


class Membership:
    """One leader's nodes."""

    def __init__(
        self,
        replica: Replica,
        nodes: StreamPort,
        fences: Fences,
        lane: Lane,
        marks: Marks,
        passage: Passage,
        clock: Clock,
        draw: Callable[[int], bytes],
        timing: Timing,
        tasks: Tasks,
        epoch: int,
    ) -> None:
        self._replica = replica
        self._nodes = nodes
        self._fences = fences
        self._lane = lane
        self._marks = marks
        self._passage = passage
        self._clock = clock
        self._draw = draw
        self._tasks = tasks
        self._epoch = epoch
        self._timeout_ns = timing.node_timeout_ms * MS
        self._quiet_ns = 3 * timing.heartbeat_ms * MS
        self._silence = Silence(clock.elapsed_ns())
        self._joins: OrderedDict[str, OrderedDict[str, asyncio.Task[JoinAnswer]]] = OrderedDict()
        self._fencing: dict[str, asyncio.Task[None]] = {}
        self.fenced: Counter[str] = Counter()
        """Incarnations that this leader fenced, by reason, for metrics."""

    # ------------------------------------------------------------ joining

    async def join(self, slot: str, ask: JoinAsk) -> JoinAnswer:
        """Let a new incarnation in. Raises NotLeading, ValueError for an ask that is not well-formed."""
        if not 0 < len(ask.nonce) <= MAX_TEXT or len(ask.version) > MAX_TEXT:
            raise ValueError(f"nonce and version have at most {MAX_TEXT} characters")
        known = self._joins.setdefault(slot, OrderedDict())
        self._joins.move_to_end(slot)
        task = known.get(ask.nonce)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.get_running_loop().create_task(self._join(slot, ask), name=f"join {slot}")
            task.add_done_callback(_retrieve)
            known[ask.nonce] = task
        while len(known) > MAX_NONCES:
            known.popitem(last=False)
        while len(self._joins) > MAX_SLOTS:
            self._joins.popitem(last=False)
        return await asyncio.shield(task)

    async def _join(self, slot: str, ask: JoinAsk) -> JoinAnswer:
        incarnation = incarnation_id(slot, self._draw(ID_BYTES))
        fence_subject = node_fence(slot, incarnation)
        fence_seq = await self._fences.write(self._nodes, fence_subject, FenceOpened(incarnation, self._epoch))

        def decide() -> tuple[ControlEvent, ...]:
            now_ns = self._clock.wall_ns()
            return (NodeJoined(slot, incarnation, fence_seq, now_ns, ask.pid, ask.version),)

        joined = await self._lane.turn(decide)
        earlier = self._earlier(slot, incarnation, fence_seq)
        await asyncio.gather(*(self.fence(name, "replaced") for name in earlier))
        _log.info("%s joined as %s at %d", slot, incarnation, joined.sequence)
        return JoinAnswer(
            incarnation=incarnation,
            fence_subject=fence_subject,
            fence_seq=fence_seq,
            log_subject=node_log(slot, incarnation),
            joined_seq=joined.sequence,
            epoch=self._epoch,
            now_ns=self._clock.wall_ns(),
        )

    def _earlier(self, slot: str, incarnation: str, fence_seq: int) -> list[str]:
        """Incarnations of the slot that were opened before; of two that join at once the later one stays."""
        opened = {name: log.opened_seq for name, log in self._replica.nodes.living.items() if log.slot == slot}
        joined = {
            node.incarnation: node.fence_seq
            for node in self._replica.state.nodes.values()
            if node.slot == slot and not self._is_fenced(node.incarnation)
        }
        return sorted(name for name, seq in (opened | joined).items() if seq < fence_seq and name != incarnation)

    # ------------------------------------------------------------ fencing

    async def fence(self, incarnation: str, reason: str) -> None:
        """End an incarnation; returns once the fold has passed its fence. Harmless to repeat."""
        if self._is_fenced(incarnation):
            return
        task = self._fencing.get(incarnation)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fence(incarnation, reason), name=f"fence {incarnation}")
            self._fencing[incarnation] = task
            task.add_done_callback(_retrieve)
            task.add_done_callback(lambda _: self._fencing.pop(incarnation, None))
        await asyncio.shield(task)

    async def _fence(self, incarnation: str, reason: str) -> None:
        slot = self._slot_of(incarnation)
        if slot is None:
            return
        _log.log(_LEVELS.get(reason, logging.WARNING), "fencing %s: %s", incarnation, reason)
        self.fenced[reason] += 1
        subject = node_fence(slot, incarnation)
        seq = await self._fences.write(self._nodes, subject, Fenced(incarnation, reason, self._epoch))
        await self._passage.passed(seq)

    def _slot_of(self, incarnation: str) -> str | None:
        log = self._replica.nodes.living.get(incarnation)
        node = self._replica.state.nodes.get(incarnation)
        return log.slot if log is not None else node.slot if node is not None else None

    def _is_fenced(self, incarnation: str) -> bool:
        """Whether the fold has passed its fence (not merely: has not seen it opened yet)."""
        if incarnation in self._replica.nodes.living:
            return False
        node = self._replica.state.nodes.get(incarnation)
        return node is None or node.fence_seq <= self._replica.nodes.seq

    def record_fences(self) -> None:
        """Record in the control log what the node logs say and it does not: after a takeover, or other's fences."""
        for node in self._replica.state.nodes.values():
            if not node.fenced_seq and self._is_fenced(node.incarnation):
                self._tasks.once(self._record(node.incarnation, "taken over"), f"record fence {node.incarnation}")

    async def _record(self, incarnation: str, reason: str) -> None:
        def decide() -> tuple[ControlEvent, ...]:
            node = self._replica.state.nodes.get(incarnation)
            if node is None or node.fenced_seq or not self._is_fenced(incarnation):
                return ()
            return (NodeFenced(node.slot, incarnation, reason, self._replica.nodes.seq),)

        await self._lane.turn(decide)

    # ------------------------------------------------------------ what the log shows

    def folded(self, folded: Folded) -> None:
        """The fold has passed a message of a node's log, or its fence."""
        if folded.breaks:
            _log.error("the log of %s makes no sense at sequence %d: it is not believed", folded.actor, folded.seq)
            self._tasks.once(self.fence(folded.actor, "log broken"), f"fence {folded.actor}")
            return
        for event in folded.events:
            if isinstance(event, Fenced):
                self._silence.gone(folded.actor)
                self._tasks.once(self._record(folded.actor, event.reason), f"record fence {folded.actor}")
                return
            if isinstance(event, NodeStopped):
                self._tasks.once(self.fence(folded.actor, "stopped"), f"fence {folded.actor}")
        self._silence.heard(folded.actor, self._clock.elapsed_ns())

    def silent_ns(self) -> Mapping[str, int]:
        """How long ago each living incarnation was heard."""
        now_ns = self._clock.elapsed_ns()
        return {name: self._silence.age_ns(name, now_ns) for name in self._replica.nodes.living}

    async def watch(self) -> None:
        """Fence who stays silent for `node_timeout`. Runs for ever."""
        tick_ns = self._timeout_ns // TICKS
        while True:
            due_ns = self._clock.elapsed_ns() + tick_ns
            await asyncio.sleep(tick_ns / 1e9)
            if self._clock.elapsed_ns() - due_ns > tick_ns:
                self._silence.excuse(self._clock.elapsed_ns())  # this process stood still
            await self._look(tick_ns)

    async def _look(self, tick_ns: int) -> None:
        living = self._replica.nodes.living
        if not self._silence.over(living, self._quiet_ns, self._clock.elapsed_ns()):
            return
        began_ns = self._clock.elapsed_ns()
        await self._marks.pass_both()
        now_ns = self._clock.elapsed_ns()
        if now_ns - began_ns > tick_ns:
            self._silence.excuse(now_ns)  # the log stood still, or our fold did
            return
        for name in self._silence.over(tuple(living), self._timeout_ns, now_ns):
            await self.fence(name, "silent")


def _retrieve(task: "asyncio.Task[JoinAnswer] | asyncio.Task[None]") -> None:
    """Whoever waits gets its exception; if nobody does any more, it is not a defect."""
    if not task.cancelled():
        task.exception()
