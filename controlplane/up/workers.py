"""The proxies of one machine: a listening socket each, which outlives them, and one slot to spare.

Each worker's socket is made here and handed to its process (`--listen-fd`), so what connects while a process is being
replaced waits to be accepted and is not refused. The kernel spreads connections over the sockets (SO_REUSEPORT).

A rolling restart takes one worker after another: its successor starts on the same socket with the slot that is spare,
and once it admits requests the one before gets SIGTERM, serves what is connected to it, and ends. Its slot is the
next one's. Two processes never have one slot: the second would fence the first.

| while | happens | then |
|---|---|---|
| a successor starts | it does not become ready | it is stopped, the one before goes on; the restart ends there |
| a worker runs | it dies | it starts again on its socket, which keeps what is waiting |
| a worker is restarted | it dies again and again | it gets a new socket, so that nobody waits on the old one |
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.up.child import Child, ChildFailed
from controlplane.up.ports import PortReservation

HOPELESS = 2
"""So many starts in a row that failed: what waits on the socket is let go, to try another worker."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One listening socket, and the process that serves it."""

    listener: PortReservation
    slot: str
    child: Child


class Workers:
    """`make_child(slot, listen_fd, on_down)` makes a process, not started yet; `say` takes a line of progress."""

    def __init__(
        self,
        host: str,
        slots: tuple[str, ...],
        make_child: Callable[[str, Callable[[], int], Callable[[int], None]], Child],
        say: Callable[[str], None],
    ) -> None:
        self._host = host
        self._slots = slots[:-1]
        self._spare = slots[-1]
        self._make_child = make_child
        self._say = say
        self._workers: list[Worker] = []
        self._coming: Child | None = None
        self.port = 0

    @property
    def running(self) -> dict[str, Child]:
        """By slot."""
        return {worker.slot: worker.child for worker in self._workers}

    async def start(self, port: int, timeout_s: float) -> None:
        """Start all, on one port (0: any free one). Raises PortTaken, ChildFailed."""
        for number, slot in enumerate(self._slots):
            listener = PortReservation(self._host, self.port or port, shared=number > 0)
            self.port = listener.port
            self._workers.append(Worker(listener, slot, self._child(slot, listener)))
        await asyncio.gather(*(worker.child.start(timeout_s) for worker in self._workers))

    async def roll(self, start_s: float, stop_s: float) -> None:
        """Replace all processes, one after another. Raises ChildFailed: the rest goes on as it is."""
        for index, worker in enumerate(self._workers):
            self._say(f"restarting proxies: {index + 1} of {len(self._workers)}")
            await self._replace(index, worker, start_s, stop_s)
        self._say("all proxies were restarted")

    async def stop(self, timeout_s: float) -> None:
        """Stop all at once: nobody follows, so new requests are refused."""
        children = [worker.child for worker in self._workers]
        if self._coming is not None:
            children.append(self._coming)
        await asyncio.gather(*(child.stop(timeout_s, signal.SIGINT) for child in children))
        for worker in self._workers:
            worker.listener.close()

    async def _replace(self, index: int, worker: Worker, start_s: float, stop_s: float) -> None:
        successor = Worker(worker.listener, self._spare, self._child(self._spare, worker.listener))
        self._coming = successor.child
        try:
            await successor.child.start(start_s)
        except ChildFailed:
            await successor.child.stop(stop_s, signal.SIGINT)
            self._coming = None
            raise
        self._workers[index], self._coming = successor, worker.child
        await worker.child.stop(stop_s)
        self._spare, self._coming = worker.slot, None

    def _child(self, slot: str, listener: PortReservation) -> Child:
        def on_down(failures: int) -> None:
            if failures > HOPELESS:
                listener.renew()

        return self._make_child(slot, listener.fileno, on_down)
