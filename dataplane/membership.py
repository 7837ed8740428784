"""Joining and joining again: one incarnation after the other, as long as the node runs (rule F3, docs/PROTOCOL.md).

To join is to ask the control plane for a new incarnation: a log subject and a fence beside it. The answer to a nonce is
always the same, so a lost answer costs nothing. A fence, whoever set it, ends the incarnation at once and starts the
next; a node that is fenced again right away waits a little longer each time, so that it does not fill the log with
joins while something else is wrong.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dataplane.control import ControlPlane, Unanswered
from dataplane.inflight import Incarnation
from dataplane.leases import LeaseDesk
from events.clock import Clock
from events.codec import encode_batch
from events.log.port import AppendPort, FenceExpectation
from events.log.stats import AppendStats
from events.log.writer import SoleWriterLog, WriterSettings
from events.tasks import Tasks
from events.types import Heartbeat, LeaseReturned, NodeEvent, NodeStarted
from schemas.rpc import JoinAnswer, JoinAsk
from schemas.settings import Timing

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S: Final = 1.0
PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0

LASTED_NS: Final = 5_000_000_000
"""An incarnation that lived this long was no failure: the next one starts without a pause."""


class Membership:
    """The node's current incarnation. `on_joined` and `on_over` are called in the step in which it happens."""

    def __init__(
        self,
        slot: str,
        port: AppendPort,
        control: ControlPlane,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        draw: Callable[[int], bytes],
        *,
        version: str,
        pid: int,
        post: Callable[[Sequence[NodeEvent]], None],
        observe: Callable[[int], None],
        on_joined: Callable[[Incarnation, JoinAnswer], None],
        on_over: Callable[[Incarnation], None],
    ) -> None:
        self._slot = slot
        self._port = port
        self._control = control
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._draw = draw
        self._version = version
        self._pid = pid
        self._post = post
        self._observe = observe
        self._on_joined = on_joined
        self._on_over = on_over
        self._ended = asyncio.Event()
        self.current: Incarnation | None = None
        self.joins = 0
        self.stats = AppendStats()

    async def run(self) -> None:
        """Join, and join again whenever the incarnation is over. Runs for ever."""
        pause_s = 0.0
        while True:
            if pause_s:
                await asyncio.sleep(pause_s)
            self._begin(await self._join())
            since_ns = self._clock.elapsed_ns()
            await self._ended.wait()
            lasted = self._clock.elapsed_ns() - since_ns > LASTED_NS
            pause_s = 0.0 if lasted else min(PAUSE_MAX_S, 2 * pause_s or PAUSE_S / 2)

    def end(self, incarnation: Incarnation, why: str) -> None:
        """The incarnation is over: nothing is admitted, dispatched or relayed on its proof any more."""
        if incarnation.over:
            return
        incarnation.over = True
        incarnation.desk.end()
        if self.current is incarnation:
            self.current = None
        _log.warning("incarnation %s is over: %s", incarnation.id, why)
        self._on_over(incarnation)
        self._tasks.once(_close(incarnation.log), f"close log of {incarnation.id}")
        self._ended.set()

    async def _join(self) -> JoinAnswer:
        ask = JoinAsk(nonce=self._draw(16).hex(), pid=self._pid, version=self._version)
        pause_s = PAUSE_S
        while True:
            try:
                return await self._control.join(ask, JOIN_TIMEOUT_S)
            except Unanswered as reason:
                _log.info("joining is not answered: %s", reason)
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    def _begin(self, answer: JoinAnswer) -> None:
        name = answer.incarnation
        holder: list[Incarnation] = []  # the log and the desk report the end of what holds them

        def over(why: str) -> None:
            self.end(holder[0], why)

        log = SoleWriterLog[NodeEvent](
            self._port,
            subject=answer.log_subject,
            fence=FenceExpectation(answer.fence_subject, answer.fence_seq),
            incarnation=name,
            encode=partial(self._encode, name),
            clock_ns=self._clock.elapsed_ns,
            settings=WriterSettings(ack_timeout_s=self._timing.append_timeout_ms / 1000),
            on_fenced=partial(over, "its log is fenced"),
            on_unconfirmed=partial(over, "its log could not be confirmed for minutes"),
            id_salt=self._draw(8).hex(),
            stats=self.stats,
        )
        desk = LeaseDesk(
            name,
            self._control,
            self._clock,
            self._timing,
            self._tasks,
            give_back=partial(self._give_back, name),
            on_fenced=partial(over, "the ledger says so"),
            observe=self._observe,
        )
        incarnation = Incarnation(name, log, desk, answer.joined_seq)
        holder.append(incarnation)
        self._ended.clear()
        self.joins += 1
        log.append((NodeStarted(self._slot, self._clock.wall_ns(), self._pid, self._version),), essential=True)
        log.start()
        log.heartbeat(self._timing.heartbeat_ms / 1000, Heartbeat)
        self.current = incarnation
        _log.info("joined as %s", name)
        self._on_joined(incarnation, answer)

    def _encode(self, name: str, n: int, events: Sequence[NodeEvent]) -> bytes:
        return encode_batch(name, n, self._clock.wall_ns(), events)

    def _give_back(self, name: str, returned: dict[str, int]) -> None:
        if self.current is not None and self.current.id == name:
            self._post((LeaseReturned(returned),))


async def _close(log: SoleWriterLog[NodeEvent]) -> None:
    await log.close(timeout_s=0.0)
