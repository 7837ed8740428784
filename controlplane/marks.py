"""Marks: proof that both folds hold everything that was recorded before somebody asked (rule G4, docs/PROTOCOL.md).

A mark is one append to the control log, which shows that this control plane leads, and one message on the nodes'
mark subject, which the fold of the node logs must pass. Whoever asks while a mark is in flight waits for the next,
and all of them share it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from heapq import heappop, heappush

from controlplane.errors import NotLeading
from controlplane.lane import Lane
from events.codec import encode_batch
from events.log.port import AppendUncertain, StreamPort
from events.subjects import NODE_MARK
from events.types import LogMarked, Marked

PUBLISH_TIMEOUT_S = 0.5
"""An answer later than this is of no use; the mark is sent again."""

RETRY_PAUSE_S = 0.05


class Passage:
    """How far the fold of the node logs has come, for those who wait for a sequence."""

    def __init__(self) -> None:
        self.sequence = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def reached(self, sequence: int) -> None:
        """Everything through `sequence` is folded."""
        self.sequence = sequence
        while self._waiting and self._waiting[0][0] <= sequence:
            future = heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def passed(self, sequence: int) -> None:
        """Return once the fold holds `sequence`."""
        if sequence <= self.sequence:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heappush(self._waiting, (sequence, self._count, future))
        await future


class Marks:
    """One leader's marks."""

    def __init__(
        self, lane: Lane, nodes: StreamPort, passage: Passage, name: str, epoch: int, wall_ns: Callable[[], int]
    ) -> None:
        self._lane = lane
        self._nodes = nodes
        self._passage = passage
        self._name = name
        self._epoch = epoch
        self._wall_ns = wall_ns
        self._n = 0
        self._wanted: asyncio.Future[None] | None = None
        self._asked = asyncio.Event()

    async def pass_both(self) -> None:
        """Return once a mark that was begun after this call has been passed in both logs.

        Waits as long as it takes; put your own time-out around it.
        """
        if self._wanted is None:
            self._wanted = asyncio.get_running_loop().create_future()
            self._asked.set()
        await asyncio.shield(self._wanted)

    async def run(self) -> None:
        """Make marks when they are asked for. Raises NotLeading when this control plane no longer leads."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                await asyncio.gather(self._mark_control(), self._mark_nodes())
            except NotLeading as end:
                wanted.set_exception(end)
                wanted.exception()  # whoever waits gets it; if nobody does any more, it is not a defect
                raise
            wanted.set_result(None)

    async def _mark_control(self) -> None:
        while not (await self._lane.turn(lambda: (Marked(),))).proves:
            pass  # stored by an earlier sending: it says nothing about now

    async def _mark_nodes(self) -> None:
        await self._passage.passed(await mark_nodes(self._nodes, self._next(), self._name, self._wall_ns))

    def _next(self) -> LogMarked:
        self._n += 1
        return LogMarked(self._epoch, self._n)


async def mark_nodes(nodes: StreamPort, mark: LogMarked, name: str, wall_ns: Callable[[], int]) -> int:
    """Put a mark behind everything in the node logs; return its sequence. Tries until it is stored.

    Each try is a message of its own: it does not matter which of them the fold passes, if it is not older than
    the acknowledged one.
    """
    while True:
        payload = encode_batch(name, 0, wall_ns(), (mark,))
        with contextlib.suppress(AppendUncertain):
            ack = await nodes.publish(NODE_MARK, payload, msg_id=None, expect=None, timeout_s=PUBLISH_TIMEOUT_S)
            return ack.sequence
        await asyncio.sleep(RETRY_PAUSE_S)
