"""The leading control plane: everything that belongs to one leadership, wired, and the door for commands.

A leadership begins when a takeover is complete and ends for good when somebody else has fenced this one, when a log
cannot be folded, or by a defect. `ended` then tells why. That somebody else leads is ordinary (`deposed`): the replica
is sound, and the process stands by with it. After anything else the process ends and is started anew.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from controlplane.api.ports import NodeStatus
from controlplane.barrier import Barrier
from controlplane.barrier_view import BarrierView
from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from controlplane.control_clock import MARK_NS
from controlplane.errors import CommandRefused, LogUnavailable, NotLeading
from controlplane.feed import Feed
from controlplane.fences import Fences
from controlplane.fold import NodeFold
from controlplane.following import Following, Logs
from controlplane.lane import Done, Lane
from controlplane.ledger import Ledger
from controlplane.marks import Marks, Passage
from controlplane.membership import Membership
from controlplane.presence import Herald, Presence
from controlplane.projector import changed_ids
from controlplane.rates import Rates
from controlplane.rpc import Rpc
from controlplane.slot_volumes import SlotVolumes
from controlplane.suspender import Suspender
from controlplane.takeover import TakenOver, take_over
from events.clock import Clock
from events.log.port import LogTrimmed, PayloadTooLarge, Stored
from events.log.writer import SoleWriterLog
from events.messaging.port import Bus
from events.state.budget import Budget
from events.state.control import ControlState
from events.state.replica import Folded
from events.state.tightening import tightens
from events.subjects import CONTROL_FENCE
from events.tasks import Tasks
from events.types import By, ControlEvent, Fenced, LeaderStarted, Marked, NodeJoined
from schemas.settings import MS, Timing

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Leader:
    """One leadership. `start` it, use it until `ended` is done, `close` it.

    `state` and `budget` are read between awaits only: they change in place.
    """

    def __init__(
        self,
        taken: TakenOver,
        logs: Logs,
        bus: Bus,
        clock: Clock,
        draw: Callable[[int], bytes],
        timing: Timing,
        version: str = "",
        url: str = "",
    ) -> None:
        self.replica = taken.replica
        self.epoch = taken.epoch
        self.name = taken.name
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.deposed = False
        self.on_exhausted: Callable[[str], None] = lambda _line: None
        self.presence = Presence(taken.epoch, taken.name, url, draw(16).hex())
        self._taken = taken
        self._logs = logs
        self._clock = clock
        self._draw = draw
        self._timing = timing
        self._version = version
        self._leads = False
        self._tasks = Tasks(self._on_defect, ordinary=(NotLeading,))
        self._herald = Herald(bus, self.presence)
        passage = Passage()
        self._lane = Lane(taken.log, taken.encoder, self._fold_control)
        self._marks = Marks(self._lane, logs.nodes, passage, taken.name, taken.epoch, clock.wall_ns)
        self.feed = Feed(taken.replica, bus, clock, taken.epoch, timing.feed_heartbeat_ms)
        self._suspender = Suspender(self.replica, self.execute, self._tasks)
        self.ledger = Ledger(taken.replica, self._lane, self._marks, bus, clock, timing, self._tasks, self._exhausted)
        fences = Fences(taken.name, draw, clock.wall_ns)
        self.membership = Membership(
            taken.replica, logs.nodes, fences, self._lane, self._marks, passage, clock, draw, timing, self._tasks,
            taken.epoch,
        )  # fmt: skip
        self._view = BarrierView(taken.replica, takeover_ns=taken.since_ns, proof_ttl_ns=timing.proof_ttl_ms * MS)
        self.rates = Rates(taken.replica, clock, taken.epoch)
        self._rpc = Rpc(
            taken.replica, self.record, self.feed, self.ledger, self.membership, self._marks, self.rates, bus, clock
        )
        self.barrier = Barrier(
            taken.replica,
            self._view,
            self.ledger.core.lowered,
            self._marks,
            clock,
            timing,
            self._tasks,
            push=self.feed.push_from,
            fence=self.membership.fence,
            is_loading=self._rpc.is_loading,
        )
        self.recorder = taken.recorder
        volumes = SlotVolumes(clock.elapsed_ns)
        self._fold = NodeFold(
            taken.replica, taken.nodes, passage, self._folded_node, self._folded_nodes, self.recorder, volumes
        )

    # ------------------------------------------------------------ what the API and the tests see

    @property
    def state(self) -> ControlState:
        return self.replica.state

    @property
    def budget(self) -> Budget:
        return self.replica.budget

    def readiness(self) -> str | None:
        """Why commands cannot be carried out now; None if they can."""
        if not self._leads:
            return "another control plane leads, or this one is starting"
        if self._taken.log.stalled_ns() > self._timing.append_timeout_ms * MS:
            return f"the control log takes no appends ({self._taken.log.trouble})"
        return None

    def now_ns(self) -> int:
        """The elapsed clock of this leadership."""
        return self._clock.elapsed_ns()

    def control_time_ns(self) -> int:
        """The wall clock that windows and expiries follow: it does not go back (controlplane.control_clock)."""
        return self._clock.wall_ns()

    @property
    def log(self) -> SoleWriterLog[ControlEvent]:
        """Its log, for metrics and readiness."""
        return self._taken.log

    def _exhausted(self, line: str) -> None:
        """A request did not fit into this line."""
        self.on_exhausted(line)
        self._suspender.suspend(line)

    def close_budget(self, full: bool) -> None:  # noqa: FBT001 - the fact is the argument
        """The logs are too full to admit more, or no longer."""
        self.ledger.close_budget(full)
        self.feed.say_log_full(full)

    def node_statuses(self) -> Mapping[str, NodeStatus]:
        """What the fold of the node logs says, by incarnation."""
        living = self.replica.nodes.living
        silent = self.membership.silent_ns()
        return {
            name: NodeStatus(applied=log.applied, silent_ms=silent[name] // MS, stopped=log.stopped)
            for name, log in living.items()
        }

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Record `LeaderStarted`, and begin to serve. Raises NotLeading if somebody else has fenced meanwhile."""
        for run, name in (
            (self._fold.run(), "fold of the node logs"),
            (self._marks.run(), "marks"),
            (self.feed.run(), "feed"),
        ):
            self._tasks.forever(run, name)
        await self._herald.start()
        await self._lane.turn(lambda: (LeaderStarted(self.epoch, self._version),))
        self._leads = True
        self.ledger.core.lowered.resume(self._view.lowest_applied())
        self.membership.record_fences()
        for run, name in (
            (self.ledger.run(), "ledger"),
            (self.membership.watch(), "membership"),
            (self.recorder.run(), "checkpoints"),
            (self._watch_fence(), "fence"),
            (self._mark_time(), "time mark"),
        ):
            self._tasks.forever(run, name)
        await self._rpc.start()

    async def _mark_time(self) -> None:
        """Whoever leads next begins no earlier than the newest time in the log. Runs for ever."""
        while True:
            age_ns = self._clock.wall_ns() - self.replica.at_ns
            if age_ns >= MARK_NS:
                await self._lane.turn(lambda: (Marked(),))
            else:
                await asyncio.sleep((MARK_NS - age_ns) / 1e9 + 0.01)

    async def _watch_fence(self) -> None:
        """Raises NotLeading once somebody has taken over. A leader with nothing to append would not notice, and would
        go on to answer nodes and to keep standbys waiting.
        """
        follower = self._logs.control.read(after=self.epoch, subject_filter=CONTROL_FENCE, accept_trimmed=True)
        try:
            await follower.next_batch(1)
        finally:
            await follower.aclose()
        raise NotLeading("another control plane has taken over")

    async def close(self, *, checkpoint: bool = True) -> None:
        """Stop serving, say so, keep a last checkpoint. What others wait for here, they ask of the next leader."""
        led = self._leads
        self._end("closed")
        await self._rpc.stop()
        await self._herald.stop()
        await self._tasks.close()
        self.ledger.end()
        await self._taken.nodes.aclose()
        await self._taken.log.close(timeout_s=1.0)
        if led:
            await self.feed.leave()
        if checkpoint:
            await self.recorder.save()

    def _on_defect(self, task: str, error: BaseException | None) -> None:
        self.deposed = self.deposed or (isinstance(error, NotLeading) and not self.ended.done())
        reason = "another control plane has taken over" if isinstance(error, NotLeading) else f"{task}: {error!r}"
        if isinstance(error, LogTrimmed):
            reason = f"{task}: {error}. Restore the stream that belongs to this data directory."
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._leads = False
        if not self.ended.done():
            self.ended.set_result(reason)

    # ------------------------------------------------------------ commands

    async def execute(
        self, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal], by: By
    ) -> T:
        """Carry a command out: decide, record, fold, tell the nodes, wait as the change demands, answer.

        Raises CommandRefused, LogUnavailable (recorded or not, nobody knows), BarrierOpen (recorded, and some
        node may still act on the old policy), NotLeading. Every command may be repeated.
        """
        decision, recorded, tightening = await self._record(decide, by)
        if tightening:
            await self.barrier.wait(recorded)
        elif decision.barrier_seq:
            await self.barrier.wait(decision.barrier_seq)
        elif changed_ids(decision.events):
            await self.barrier.spread(recorded)
        return decision.answer

    async def record(
        self, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal], by: By
    ) -> T:
        """Decide, record and fold, without waiting for the nodes: for what a node itself asked for."""
        return (await self._record(decide, by))[0].answer

    async def _record(
        self, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal], by: By
    ) -> tuple[Decision[T], int, bool]:
        """Returns the decision, the sequence of its last event, and whether it tightens.

        What records nothing (a refusal, a change that is there already) is proven by a mark: a leader that does not
        know yet that another one has taken over would answer from a state that is over.
        """
        if not self._leads:
            raise NotLeading("this control plane does not lead")
        made: list[tuple[Decision[T] | CommandRefusal, bool]] = []

        def turn() -> Sequence[ControlEvent]:
            young = self._view.young_fence(self._clock.elapsed_ns())
            verdict = decide(self.state, self.budget, Moment(self._clock.wall_ns(), self._draw, by, young))
            events = () if isinstance(verdict, CommandRefusal) else verdict.events
            made.append((verdict, any(tightens(self.state, event) for event in events)))
            return events or (Marked(),)

        while True:
            done = await self._within_patience(self._lane.turn(turn))
            verdict, tightening = made.pop()
            if not isinstance(verdict, CommandRefusal) and verdict.events:
                return verdict, done.sequence, tightening
            if not done.proves:
                continue  # the mark was stored by an earlier sending, which says nothing about now (L4)
            if isinstance(verdict, CommandRefusal):
                raise CommandRefused(verdict)
            return verdict, 0, False

    async def _within_patience(self, turn: Coroutine[Any, Any, Done]) -> Done:
        """The turn goes on if the time is over: an append is never abandoned."""
        try:
            async with asyncio.timeout(self._timing.admit_timeout_ms / 1000):
                return await turn
        except TimeoutError:
            raise LogUnavailable from None
        except PayloadTooLarge as error:
            raise CommandRefused(_too_large(error)) from None

    # ------------------------------------------------------------ folding

    def _fold_control(self, message: Stored) -> None:
        """An append of ours is stored: fold it, and tell everybody whom it concerns."""
        try:
            events = self.replica.apply_control(message)
        except Exception as error:
            self._on_defect("fold of the control log", error)  # whoever asked for it cannot know what else is broken
            raise
        self.recorder.control_folded(message)
        for event in events:
            if isinstance(event, NodeJoined):
                self._view.joined(self.state.nodes[event.incarnation])
        self.ledger.control_folded(message.sequence, events)
        self.feed.project(message.sequence, events)
        self.barrier.progressed()

    def _folded_node(self, folded: Folded) -> None:
        self.membership.folded(folded)
        for event in folded.events:
            if isinstance(event, Fenced):
                self._view.fenced(folded.actor, self._clock.elapsed_ns())
                self.ledger.fenced(folded.actor)
                self.rates.gone(folded.actor)

    def _folded_nodes(self) -> None:
        self.ledger.nodes_folded()
        self.barrier.progressed()


def _too_large(error: PayloadTooLarge) -> CommandRefusal:
    return CommandRefusal(413, "too_large", f"the change is larger than one log message: {error}")


async def lead(
    logs: Logs,
    following: Following,
    bus: Bus,
    clock: Clock,
    draw: Callable[[int], bytes],
    timing: Timing,
    version: str = "",
    url: str = "",
    silent_epoch: int | None = None,
) -> Leader:
    """Take over and serve. Raises as `take_over`. `url`: where other control planes reach this one's API."""
    taken = await take_over(logs, following, clock, draw, timing, silent_epoch)
    leader = Leader(taken, logs, bus, taken.clock, draw, timing, version, url)
    try:
        await leader.start()
    except BaseException:
        await leader.close(checkpoint=False)
        raise
    return leader
