"""The barrier: a tightening change is confirmed only when no node can act on the old policy any more.

Completion is a predicate of the fold (controlplane.barrier_view), so a repeated command, or another leader, comes to
the same answer; what runs here only hurries it along: it pushes the change again to who has not applied it, and
fences who stays silent (rules B1 to B3, docs/PROTOCOL.md).

A node is fenced only for its own silence. It must have had `barrier_timeout` during which it could have answered:
the log was writable, our fold current (a mark passes promptly at the end), and this process was not paused. Else the
time begins anew, with another push.
"""

import asyncio
from collections.abc import Awaitable, Callable

from controlplane.barrier_times import BarrierTimes
from controlplane.barrier_view import BarrierView
from controlplane.errors import BarrierOpen
from controlplane.lowered import Lowered
from controlplane.marks import Marks
from events.clock import Clock
from events.state.replica import Replica
from events.tasks import Tasks
from schemas.settings import MS, Timing

PUSHES = 4
"""In one barrier_timeout: a lost push costs a quarter of it."""

MAX_WAIT_S = 10.0
"""Whoever waits for a barrier is told that it is still open by then; its command may be repeated."""


class Barrier:
    """One leader's barriers. `push(seq)` sends what came after `seq` to all nodes; `fence` ends an incarnation;
    `is_loading` tells whether an incarnation is visibly loading its first snapshot.
    """

    def __init__(
        self,
        replica: Replica,
        view: BarrierView,
        lowered: Lowered,
        marks: Marks,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        *,
        push: Callable[[int], None],
        fence: Callable[[str, str], Awaitable[None]],
        is_loading: Callable[[str], bool],
    ) -> None:
        self._replica = replica
        self._view = view
        self._lowered = lowered
        self._marks = marks
        self._clock = clock
        self._timeout_ns = timing.barrier_timeout_ms * MS
        self._patience_ns = timing.node_timeout_ms * MS
        self._tasks = tasks
        self._push = push
        self._fence = fence
        self._is_loading = is_loading
        self._open: dict[int, int] = {}
        """Barriers that are being hurried along: sequence -> since when the nodes could have answered."""
        self._changed = asyncio.Event()
        self._driving = False
        self._push_ns = 0
        self.times = BarrierTimes()

    @property
    def open(self) -> int:
        """How many barriers are not complete yet."""
        return len(self._open)

    def complete(self, seq: int) -> bool:
        """Whether nothing acts any more on what came before `seq` (B3), nor can spend above a lowered cap (G8)."""
        return self._view.standing(seq, self._clock.elapsed_ns()).clear and self._lowered.clear(seq)

    def begin(self, seq: int) -> None:
        """A tightening change was recorded (or found recorded) at `seq`: see to it that it becomes complete."""
        if seq in self._open:
            return
        if self.complete(seq):
            self.times.at_once()
            return
        self._open[seq] = self._clock.elapsed_ns()
        self.times.begun(seq, self._clock.elapsed_ns())
        if not self._driving:
            self._driving = True
            self._push_ns = self._clock.elapsed_ns() + self._timeout_ns // PUSHES  # the feed has just sent it
            self._tasks.once(self._drive(), "barrier")

    async def wait(self, seq: int) -> None:
        """Return once the barrier for `seq` is complete. Raises BarrierOpen after MAX_WAIT_S."""
        self.begin(seq)
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                while not self.complete(seq):
                    await self._changes()
        except TimeoutError:
            self.times.overdue += 1
            raise BarrierOpen from None

    async def spread(self, seq: int) -> None:
        """Wait until all living nodes act on `seq`, but not for long, and fence nobody for it.

        For changes that only loosen: a key that was issued works at once when its answer arrives.
        """
        deadline_ns = self._clock.elapsed_ns() + self._timeout_ns
        while self._view.standing(seq, self._clock.elapsed_ns()).unapplied:
            left_ns = deadline_ns - self._clock.elapsed_ns()
            if left_ns <= 0 or not await self._changes(left_ns):
                return

    def progressed(self) -> None:
        """The folds have moved on."""
        self._changed.set()
        newest = self._lowered.newest_change
        if newest and not self._view.standing(newest, self._clock.elapsed_ns()).unapplied:
            self._lowered.confirmed(newest)

    async def _changes(self, timeout_ns: int | None = None) -> bool:
        """Wait for the folds to move on, or for a fence to become old enough. False: the time is over."""
        self._changed.clear()
        timeout_ns = self._timeout_ns // PUSHES if timeout_ns is None else timeout_ns
        try:
            async with asyncio.timeout(timeout_ns / 1e9):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _drive(self) -> None:
        """Hurry along until none is open."""
        try:
            while self._open:
                self._close_complete()
                overdue = self._overdue()
                if self._blocking(overdue):
                    await self._judge(overdue)
                elif self._open:
                    await self._encourage()
        finally:
            self._driving = False

    def _close_complete(self) -> None:
        """Newest first: when one is complete on all nodes, so are those before it."""
        now_ns = self._clock.elapsed_ns()
        for seq in sorted(self._open, reverse=True):
            if self._view.standing(seq, now_ns).clear:
                done = [older for older in self._open if older <= seq and self._lowered.clear(older)]
                for older in done:
                    del self._open[older]
                    self.times.ended(older, now_ns)
                if done:
                    self._changed.set()
                return

    def _overdue(self) -> list[int]:
        now_ns = self._clock.elapsed_ns()
        return [seq for seq, since_ns in self._open.items() if now_ns - since_ns >= self._timeout_ns]

    def _blocking(self, overdue: list[int]) -> set[str]:
        """Living incarnations that had their time and stand in the way of any of these barriers."""
        if not overdue:
            return set()
        newest = max(overdue)
        standing = self._view.standing(newest, self._clock.elapsed_ns())
        names = {*standing.unapplied, *self._lowered.holders(newest)}
        return {name for name in names if not self._may_still_load(name, min(self._open[seq] for seq in overdue))}

    async def _encourage(self) -> None:
        """Push to who has not applied it; wait for news, the next push, a judgement, or an age of a fence."""
        now_ns = self._clock.elapsed_ns()
        standing = self._view.standing(max(self._open), now_ns)
        if standing.unapplied and now_ns >= self._push_ns:
            self._push(self._view.lowest_applied())
            self._push_ns = now_ns + self._timeout_ns // PUSHES
        due_ns = now_ns + self._timeout_ns // PUSHES
        coming = [since_ns + self._timeout_ns for since_ns in self._open.values()]
        for at_ns in (*coming, standing.ripens_ns or 0, self._push_ns):
            if at_ns > now_ns:
                due_ns = min(due_ns, at_ns)
        await self._changes(due_ns - now_ns)
        if self._clock.elapsed_ns() - due_ns > self._timeout_ns // 2:
            self._begin_anew()  # this process stood still: nobody may have been asked

    async def _judge(self, overdue: list[int]) -> None:
        """Their time is over: prove that the fold is current, and fence who has stayed silent."""
        began_ns = self._clock.elapsed_ns()
        await self._marks.pass_both()
        if self._clock.elapsed_ns() - began_ns > self._timeout_ns:
            self._begin_anew()  # the log stood still: nobody could have answered
            return
        silent = self._blocking([seq for seq in overdue if seq in self._open])
        await asyncio.gather(*(self._fence(name, "barrier") for name in sorted(silent)))

    def _may_still_load(self, incarnation: str, since_ns: int) -> bool:
        """A node that has never applied anything serves nothing; while it visibly loads it gets more time."""
        log = self._replica.nodes.living.get(incarnation)
        if log is None or log.applied or not self._is_loading(log.slot):
            return False
        return self._clock.elapsed_ns() - since_ns < self._patience_ns

    def _begin_anew(self) -> None:
        now_ns = self._clock.elapsed_ns()
        self._open = dict.fromkeys(self._open, now_ns)
