"""The lane: one decision at a time, on a state that has folded everything appended before.

A turn calls its decision, appends what it returns, folds it, and only then lets the next one decide. So no decision
is ever made on a state that an append in flight is about to change, and none that is acted upon was not recorded.
Turns are not shared between deciders; each decider (the ledger above all) puts what arrives meanwhile into its next.

A turn outlives whoever asked for it: an append is never abandoned (rule L3, docs/PROTOCOL.md).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from controlplane.errors import NotLeading
from events.codec import encode_batch
from events.log.port import LogError, PayloadTooLarge, Stored
from events.log.writer import Appended, Fenced, LogClosed, SoleWriterLog
from events.subjects import CONTROL_LOG
from events.types import ControlEvent

MAX_EVENTS = 500
"""In one message. Longer decisions (a revocation of thousands of keys) take several, in order; a crash between them
leaves the rest undone, and the repeated command does it."""


class Done(NamedTuple):
    """A turn's end. `sequence` is that of its last message, 0 if there was nothing to append.

    `proves`: the append was acknowledged as new, so this control plane led when it was sent (rule A1).
    """

    sequence: int
    proves: bool


class Encoder:
    """Encodes batches of one leader's log, and remembers the newest: what is folded is what was sent."""

    def __init__(self, leader: str, wall_ns: Callable[[], int]) -> None:
        self._leader = leader
        self._wall_ns = wall_ns
        self.payload = b""
        self.at_ns = 0

    def __call__(self, n: int, events: Sequence[ControlEvent]) -> bytes:
        self.at_ns = self._wall_ns()
        self.payload = encode_batch(self._leader, n, self.at_ns, events)
        return self.payload


class Lane:
    """Belongs to one leader. `fold` takes each message as the log holds it."""

    def __init__(self, log: SoleWriterLog[ControlEvent], encoder: Encoder, fold: Callable[[Stored], None]) -> None:
        self._log = log
        self._encoder = encoder
        self._fold = fold
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Done]] = set()
        self.under_way: Sequence[ControlEvent] = ()
        """What is being appended: the log may hold it already, the fold does not."""

    async def turn(self, decide: Callable[[], Sequence[ControlEvent]]) -> Done:
        """Run one turn. Raises what `decide` raises, NotLeading, PayloadTooLarge.

        If the caller is cancelled the turn goes on.
        """
        task = asyncio.get_running_loop().create_task(self._run(decide), name="control lane turn")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _run(self, decide: Callable[[], Sequence[ControlEvent]]) -> Done:
        async with self._turn:
            events = decide()
            appended: Appended | None = None
            for begin in range(0, len(events), MAX_EVENTS):
                self.under_way = events[begin:]
                appended = await self._append(events[begin : begin + MAX_EVENTS])
            self.under_way = ()
            return Done(0, proves=False) if appended is None else Done(appended.sequence, not appended.duplicate)

    async def _append(self, events: Sequence[ControlEvent]) -> Appended:
        try:
            appended = await self._log.append_nowait(events, essential=True)
        except PayloadTooLarge:
            raise
        except (Fenced, LogClosed) as end:
            raise NotLeading(str(end)) from None
        except LogError as error:
            raise NotLeading(f"the control log takes nothing: {error}") from None
        self._fold(Stored(appended.sequence, CONTROL_LOG, self._encoder.payload, self._encoder.at_ns))
        return appended

    def _ended(self, task: asyncio.Task[Done]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; if nobody does any more, it is not a defect
