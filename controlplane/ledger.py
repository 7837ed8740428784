"""The ledger's shell: asks come in, appends and recalls go out, answers follow (rules G1 to G8, docs/PROTOCOL.md).

All decisions are `controlplane.ledger_core`'s. One task turns them into I/O: it looks whenever something happened,
sends what is to be sent, and takes a turn in the lane when something can be granted; what arrives meanwhile is in the
next look. Marks run beside it, because an ask that can be granted need not wait for one that may be refused.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from controlplane.lane import Lane
from controlplane.ledger_core import Answer, LedgerCore, exhausted_lines
from controlplane.ledger_survey import Instant
from controlplane.marks import Marks
from controlplane.recalls import RecallOrder
from events.clock import Clock
from events.messaging.port import Bus, BusTooLarge, BusUnavailable
from events.state.replica import Replica
from events.subjects import push
from events.tasks import Tasks
from events.types import BudgetSet, ControlEvent, LeaseGranted, RequestReconciled
from schemas.rpc import LeaseAnswer, LeaseAsk, Recall
from schemas.settings import Timing

LOOK_AT_LEAST_S = 1.0
"""An idle ledger looks this often, whatever it was told."""

MAX_REPLIES = 8
"""Of one ask: a node repeats it a few times while it waits, and listens to the newest."""

MOVES_FIGURES = (BudgetSet, RequestReconciled)
"""Control events that change what is settled, held or allowed on a line."""

Reply = Callable[[bytes], Awaitable[None]]
"""Sends one answer to whoever asked."""

_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class Ledger:
    """One leader's ledger. `suspend(line)` is called after a refusal, with the line that is exhausted."""

    def __init__(
        self,
        replica: Replica,
        lane: Lane,
        marks: Marks,
        bus: Bus,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        suspend: Callable[[str], None],
    ) -> None:
        self.core = LedgerCore(replica, timing)
        self._replica = replica
        self._lane = lane
        self._marks = marks
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._suspend = suspend
        self._wake = asyncio.Event()
        self._marking = False
        self._moves = 0
        self._replies: dict[str, dict[str, Reply]] = {}

    def now(self) -> Instant:
        return Instant(self._clock.elapsed_ns(), self._clock.wall_ns())

    # ------------------------------------------------------------ what happens

    async def ask(self, ask: LeaseAsk, reply_id: str, reply: Reply) -> None:
        """Take an ask; `reply` is used once, now or later. Raises ValueError if it is not well-formed."""
        answer = self.core.submit(ask, self.now())
        if answer is not None:
            await reply(_encoder.encode(answer))
            return
        replies = self._replies.setdefault(ask.ask_id, {})
        replies[reply_id] = reply
        if len(replies) > MAX_REPLIES:
            del replies[next(iter(replies))]
        self._wake.set()

    def control_folded(self, seq: int, events: Iterable[ControlEvent]) -> None:
        """The leader has folded events of its own log."""
        for event in events:
            if isinstance(event, MOVES_FIGURES):
                self._moves += 1
            if isinstance(event, BudgetSet):
                self.core.lowered.changed(event.account.kind, event.account.id, seq)
        self._take_overran()  # by an operator's figure
        if not all(isinstance(event, LeaseGranted) for event in events):
            self._wake.set()

    def nodes_folded(self) -> None:
        """The fold of the node logs has moved on."""
        if self._take_overran() or self.core.waiting or self.core.lowered.watching:
            self._wake.set()

    def _take_overran(self) -> bool:
        """Watch the accounts of requests that turned out to cost more than their bounds; whether there are any new."""
        overran = self._replica.budget.take_overran()
        if overran:
            self.core.lowered.overran(overran)
        return bool(overran)

    def close_budget(self, full: bool) -> None:  # noqa: FBT001 - the fact is the argument
        """Lend nothing, and let nobody wait for it, while the logs are too full (rule L6)."""
        if full != self.core.closed:
            self.core.closed = full
            self._wake.set()

    def fenced(self, incarnation: str) -> None:
        """The incarnation is over, as the fold shows."""
        self._send(self.core.drop(incarnation, self.now()))
        self._wake.set()

    # ------------------------------------------------------------ what is done

    async def run(self) -> None:
        """Look, send, grant. Raises NotLeading at the end."""
        again_ns: int | None = None
        while True:
            await self._pause(again_ns)
            look = self.core.look(self.now())
            again_ns = look.again_ns
            self._send(look.answers)
            await self._recall(look.recalls)
            if look.wants_mark and not self._marking:
                self._marking = True
                self._tasks.once(self._mark(), "ledger mark")
            if look.can_grant:
                await self._lane.turn(lambda: self.core.grants(self.now()))
                self._send(self.core.recorded(self.now()))
                self._wake.set()

    async def _pause(self, again_ns: int | None) -> None:
        pause_s = LOOK_AT_LEAST_S
        if again_ns is not None:
            pause_s = min(pause_s, max(0.0, (again_ns - self._clock.elapsed_ns()) / 1e9))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        self._wake.clear()

    async def _mark(self) -> None:
        """Judge all asks that have arrived by a mark that both folds have passed (rule G4).

        If the control log has moved a figure meanwhile, the two folds together show no single instant: the money that
        it freed may be what the node logs have spent since. Then another mark has to judge.
        """
        try:
            mark, moves = self.core.begin_mark(self.now()), self._moves
            await self._marks.pass_both()
            moved = self._moves != moves or any(isinstance(event, MOVES_FIGURES) for event in self._lane.under_way)
            refused = [] if moved else self.core.marked(mark, self.now())
        finally:
            self._marking = False
        self._send(refused)
        for line in exhausted_lines(refused):
            self._suspend(line)
        self._wake.set()

    async def _recall(self, orders: Iterable[RecallOrder]) -> None:
        leases = self._replica.budget.leases
        for incarnation, lines in orders:
            log = self._replica.nodes.living.get(incarnation)
            if log is None:
                continue
            granted = {line: leases.granted(incarnation, line) for line in lines}
            message = Recall(incarnation, granted, self._timing.tight_ms)
            with contextlib.suppress(BusUnavailable, BusTooLarge):  # it is repeated until the log shows the effect
                await self._bus.publish(push(log.slot), _encoder.encode(message))

    def _send(self, answers: Iterable[Answer]) -> None:
        """Answer, without waiting for the bus: a slow connection must not hold up decisions."""
        ready = [(reply, answer) for ask_id, answer in answers for reply in self._replies.pop(ask_id, {}).values()]
        if ready:
            self._tasks.once(_answer_all(ready), "ledger answers")

    def end(self) -> None:
        """This control plane no longer leads: whoever waits asks the next one."""
        self._replies.clear()


async def _answer_all(ready: list[tuple[Reply, LeaseAnswer]]) -> None:
    for reply, answer in ready:
        await reply(_encoder.encode(answer))
