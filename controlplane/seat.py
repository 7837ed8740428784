"""A control plane's place among others: it follows, leads, and follows again, as long as its process lives.

| state | what it does | next |
|---|---|---|
| loading | restores its checkpoint, folds both logs to their ends | following |
| following | folds both logs as they are written, listens for the leader, answers reads | taking over |
| taking over | fences, folds the rest (controlplane.takeover) | leading; following, if another was quicker |
| leading | `leader` is set; everything that a leader does | following, once deposed |

Losing the leadership is ordinary, and the process goes on: its replica is sound, its HTTP connections stay open, and
no start-up lies between it and the next takeover. Whatever else ends a leadership ends the process (`LeadershipEnded`):
a fold that failed, or a defect, leaves a state that nobody should lead with, and its supervisor starts it anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NoReturn, TypeVar

from controlplane.api.ports import NodeStatus
from controlplane.checkpoints import CheckpointStore, Restored, restore
from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from controlplane.errors import LogUnavailable, NotLeading
from controlplane.following import Following, Logs
from controlplane.leader import Leader, lead
from controlplane.presence import Presence
from controlplane.standby import LeaderWatch
from events.clock import Clock
from events.log.port import LogUnavailable as StreamUnavailable
from events.messaging.port import Bus
from events.state.control import ControlState
from events.state.replica import Replica
from events.tasks import until_first
from events.types import By
from schemas.settings import MS, Timing

RETRY_S = 0.5
"""Between two tries to read streams that do not answer."""

Role = Literal["leader", "standby"]
Duty = Callable[[Leader], Awaitable[None]]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class LeadershipEnded(Exception):
    """A leadership ended by something that is no takeover. The message says what; start the process anew."""


async def _nothing(_: Leader) -> None:
    """No duty."""


class Seat:
    """`run` it until it raises or is cancelled, then `close` it. `url`: where other control planes reach this one.

    `first(leader)` is done before a leadership shows (the first operator), `meanwhile(leader)` as long as it lasts.
    `on_loaded()` is called once, when the logs have been folded for the first time.
    """

    def __init__(
        self,
        logs: Logs,
        bus: Bus,
        clock: Clock,
        draw: Callable[[int], bytes],
        timing: Timing,
        checkpoints: CheckpointStore,
        *,
        version: str = "",
        url: str = "",
        first: Duty = _nothing,
        meanwhile: Duty | None = None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._logs = logs
        self._bus = bus
        self._clock = clock
        self._draw = draw
        self._timing = timing
        self._checkpoints = checkpoints
        self._version = version
        self._url = url
        self._first = first
        self._meanwhile = meanwhile
        self._on_loaded = on_loaded
        self._watch = LeaderWatch(bus, clock, timing, draw)
        self._following = Following(logs, Restored(Replica()), checkpoints, clock)
        self._loaded = False
        self.leader: Leader | None = None
        """The leadership, while there is one."""
        self.takeovers = 0
        """Leaderships of this process, for metrics."""

    # ------------------------------------------------------------ what the API and metrics see

    @property
    def replica(self) -> Replica:
        return self._following.replica

    @property
    def state(self) -> ControlState:
        return self.replica.state

    @property
    def budget(self) -> Figures:
        return self.replica.budget

    @property
    def role(self) -> Role:
        return "standby" if self.leader is None else "leader"

    @property
    def elsewhere(self) -> Presence | None:
        """The leader, if it is another control plane and lives."""
        return self._watch.leader if self.leader is None else None

    @property
    def here(self) -> Presence | None:
        """This process's leadership, while it has one."""
        return self.leader.presence if self.leader is not None else None

    @property
    def sequence(self) -> int:
        """Control log folded."""
        return self.replica.control_seq

    def control_time_ns(self) -> int:
        """The wall clock that windows and expiries follow; a standby has its machine's."""
        return self.leader.control_time_ns() if self.leader is not None else self._clock.wall_ns()

    def current(self) -> bool:
        """Whether `state` and `budget` show the present, so that reads may be answered from them."""
        return self.leader is not None or (self._loaded and self._following.current())

    def readiness(self) -> str | None:
        """Why this control plane cannot do its part now; None if it can."""
        if self.leader is not None:
            return self.leader.readiness()
        if not self._loaded:
            return "the logs are being folded"
        if not self._following.current():
            return "standby: the logs do not answer, or their fold lags"
        if self.elsewhere is None:
            return "standby: no leader is known"
        if self._url and self.elsewhere.url == self._url:
            return "standby: the leader names this control plane's own address as its own; set advertise_url in both"
        return None

    def node_statuses(self) -> Mapping[str, NodeStatus]:
        """What the fold of the node logs says, by incarnation."""
        if self.leader is not None:
            return self.leader.node_statuses()
        now_ns, silence = self._clock.elapsed_ns(), self._following.silence
        return {
            name: NodeStatus(applied=log.applied, silent_ms=silence.age_ns(name, now_ns) // MS, stopped=log.stopped)
            for name, log in self.replica.nodes.living.items()
        }

    async def folded(self, sequence: int, timeout_s: float) -> bool:
        """Wait until the control log is folded through `sequence` here. False: not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._following.folded.passed(sequence)
        except TimeoutError:
            return self.replica.control_seq >= sequence
        return True

    async def execute(
        self, decide: Callable[[ControlState, Figures, Moment], Decision[T] | CommandRefusal], by: By
    ) -> T:
        """Carry a command out, if this is the leader. Raises as `Leader.execute`; NotLeading at a standby."""
        if self.leader is None:
            raise NotLeading("this control plane stands by")
        return await self.leader.execute(decide, by)

    # ------------------------------------------------------------ life

    async def run(self, *, at_once: bool = False) -> NoReturn:
        """Follow and lead in turn, for ever. `at_once`: take over first, whoever leads.

        Raises LeadershipEnded; Unsafe, LogTrimmed, CorruptLog, CodecError and OSError for what cannot be folded.
        """
        await self._load()
        fresh = True
        while True:
            silent_epoch = None if at_once else await self._stand_by(fresh=fresh)
            fresh = at_once = False
            leader = await self._take_over(silent_epoch)
            if leader is not None:
                await self._preside(leader)

    async def close(self) -> None:
        """Hand over if this one leads, and keep a checkpoint. HTTP calls under way should have been answered before."""
        leader, self.leader = self.leader, None
        if leader is not None:
            await leader.close()
        elif self._loaded:
            await self._following.close()
            await self._following.recorder.save()

    async def _load(self) -> None:
        while not self._loaded:
            try:
                restored = await restore(self._checkpoints, *self._logs)
                self._following = Following(self._logs, restored, self._checkpoints, self._clock)
                await self._following.to_ends()
                self._loaded = True
            except StreamUnavailable as error:
                await self._following.close()
                _log.warning("the logs do not answer: %s", error)
                await asyncio.sleep(RETRY_S)
        self._following.on_fence = self._watch.fenced
        self._on_loaded()
        _log.info("both logs are folded: control %d, nodes %d", self.replica.control_seq, self.replica.nodes.seq)

    async def _stand_by(self, *, fresh: bool) -> int:
        """Follow until the leader's time is over; returns its epoch."""
        over = self._watch.until_over(self.replica.fence_seq, fresh=fresh)
        epoch = await until_first(over, self._follow())
        _log.info("the leader since %d is silent or gone", epoch)
        return epoch

    async def _follow(self) -> NoReturn:
        await self._following.run()
        raise AssertionError("following never ends by itself")

    async def _take_over(self, silent_epoch: int | None) -> Leader | None:
        """None: another one was quicker, or the logs do not answer."""
        began_ns = self._clock.elapsed_ns()
        try:
            leader = await lead(
                self._logs, self._following, self._bus, self._clock, self._draw, self._timing,
                self._version, self._url, silent_epoch,
            )  # fmt: skip
        except (NotLeading, StreamUnavailable) as error:
            _log.info("no takeover: %s", error)
            return None
        try:
            await self._begin(leader)
        except BaseException:
            await leader.close(checkpoint=False)
            raise
        self.takeovers += 1
        _log.info("took over in %d ms", (self._clock.elapsed_ns() - began_ns) // MS)
        return leader

    async def _begin(self, leader: Leader) -> None:
        """What comes first. A log that does not answer in time is asked again; a leadership that is over is noticed."""
        while not leader.ended.done():
            try:
                await self._first(leader)
            except LogUnavailable:
                _log.warning("the control log takes nothing yet")
            except NotLeading:
                return
            else:
                return

    async def _preside(self, leader: Leader) -> None:
        """Lead until deposed. Raises LeadershipEnded for any other end."""
        self.leader = leader
        duties: list[asyncio.Future[None]] = []
        if self._meanwhile is not None:
            duties.append(asyncio.ensure_future(self._meanwhile(leader)))
        try:
            ended: list[asyncio.Future[Any]] = [leader.ended, *duties]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for duty in duties:
                duty.cancel()
            ends = await asyncio.gather(*duties, return_exceptions=True)
        if not leader.ended.done():
            raise LeadershipEnded(f"what a leader has to do ended: {ends!r}")
        if not leader.deposed:
            raise LeadershipEnded(leader.ended.result())
        _log.info("%s is deposed, and stands by", leader.name)
        self.leader = None
        await leader.close(checkpoint=False)
