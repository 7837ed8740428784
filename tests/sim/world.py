"""The world: streams, bus, network, vendor and observer, and the processes that live in it.

A *machine* is a place where one process after the other runs: node `n1`, control plane `c1`. Killing its process and
starting another gives a new governor or leader with nothing but what the logs hold, as on a real machine.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from sim.loop import Process, VirtualLoop
from sim.network import Network
from sim.observer import Observer
from sim.vendor import Vendor

from events.log.memory import MemoryPort, MemoryStream
from events.messaging.memory import MemoryBus, MemoryBusClient
from events.subjects import CONTROL_STREAM, NODES_STREAM
from schemas.settings import MS, Timing

START_WALL_NS = 1_763_640_000 * 1_000_000_000
"""2025-11-20 12:00:00 UTC."""


class SimClock:
    """A machine's two clocks: they run at the world's pace, from starts of their own."""

    def __init__(self, now_ns: Callable[[], int], booted_ns: int, wall_ns: int) -> None:
        self._now_ns = now_ns
        self._booted_ns = booted_ns
        self._wall_ns = wall_ns

    def wall_ns(self) -> int:
        return self._wall_ns + self._now_ns()

    def elapsed_ns(self) -> int:
        return self._booted_ns + self._now_ns()

    def step(self, by_ns: int) -> None:
        """Somebody, or a time server, sets the wall clock."""
        self._wall_ns += by_ns


class World:
    """Made inside a running virtual loop. `wall_ns`: the true UTC time at its start. `replicas`: the streams answer as
    replicated ones do.
    """

    def __init__(
        self, seed: int, timing: Timing | None = None, wall_ns: int = START_WALL_NS, *, replicas: bool = True
    ) -> None:
        running = asyncio.get_running_loop()
        assert isinstance(running, VirtualLoop)
        self.loop = running
        self.random = Random(seed)
        self.timing = timing or Timing()
        self.wall_start_ns = wall_ns
        self.network = Network(Random(seed + 1))
        self.bus = MemoryBus(self.network)
        self.control = MemoryStream(CONTROL_STREAM, now_ns=self.wall_ns, duplicate_before_fence=replicas)
        self.nodes = MemoryStream(NODES_STREAM, now_ns=self.wall_ns, duplicate_before_fence=replicas)
        self.observer = Observer(self.now_ns, self.timing.proof_ttl_ms * MS, self.timing.exhausted_ttl_ms * MS)
        self.observer.watch(self.control)
        self.observer.watch(self.nodes)
        self.vendor = Vendor(self.observer)
        self.errors: list[str] = []
        self.processes: list[Process] = []
        """The dead ones too: their tasks must not be collected."""
        self.loop.set_exception_handler(self._unhandled)

    def now_ns(self) -> int:
        """Time since the start, which nobody but the observer reads."""
        return self.loop.time_ns()

    def wall_ns(self) -> int:
        return self.wall_start_ns + self.now_ns()

    def draw(self, size: int) -> bytes:
        return self.random.randbytes(size)

    def clock(self, skew_ns: int = 0) -> SimClock:
        """A machine's clocks; its wall clock is wrong by `skew_ns`."""
        return SimClock(self.now_ns, self.random.randrange(10**15), self.wall_start_ns + skew_ns)

    def ports(self, name: str) -> tuple[MemoryPort, MemoryPort, MemoryBusClient]:
        """A process's ways to the control log, the node logs and the bus."""
        control = self.control.port(self.network.stream_way(name, self.control))
        nodes = self.nodes.port(self.network.stream_way(name, self.nodes))
        return control, nodes, self.bus.client(name)

    def hang_up(self, name: str) -> None:
        """The process behind a name is gone, and the server notices that its connection is closed."""
        for subscription in list(self.bus._subscriptions):
            if subscription.owner == name:
                self.bus.remove(subscription)
        for stream in (self.control, self.nodes):
            for follower in list(stream._followers):
                if getattr(follower._faults, "process", "") == name:
                    stream.detach(follower)

    def _unhandled(self, _: Any, context: dict[str, Any]) -> None:
        if "never retrieved" in context.get("message", "") and not all(process.alive for process in self.processes):
            return  # whoever was to read it is dead
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")


class Machine:
    """A named place for one process at a time. `generation` counts them."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.generation = 0
        self.process: Process | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def running(self) -> bool:
        """Alive and not paused."""
        return self.process is not None and self.process.alive and not self.process.paused

    def boot(self, main: Callable[[], Coroutine[Any, Any, None]]) -> Process:
        """Start a process here; `main` runs in it."""
        assert not self.alive
        self.generation += 1
        self.process = Process(f"{self.name}.{self.generation}", self.world.loop)
        self.world.processes.append(self.process)
        self.world.observer.note(f"START {self.process.name}")
        self.process.run(main(), "main")
        return self.process

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something in the process that lives here."""
        assert self.process is not None
        self.process.run(coroutine, "script")

    def kill(self) -> None:
        """kill -9, now."""
        if self.process is not None and self.process.alive:
            self.world.observer.note(f"KILL {self.process.name}")
            self.process.kill()
            self.world.hang_up(self.name)

    def pause(self) -> None:
        if self.running:
            assert self.process is not None
            self.world.observer.note(f"PAUSE {self.process.name}")
            self.process.pause()

    def resume(self) -> None:
        if self.alive:
            assert self.process is not None
            if self.process.paused:
                self.world.observer.note(f"RESUME {self.process.name}")
            self.process.resume()

    def crashes(self) -> list[str]:
        return [repr(error) for error in self.process.crashes] if self.process is not None else []


class LogTap(logging.Handler):
    """Keeps errors that the code under test logs: an unexpected end of a task, a lost event."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._note = note
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        self._note(f"{record.levelname} {text}")
        # That another control plane has taken over is an ordinary end of a leader's tasks.
        if record.levelno >= logging.CRITICAL and "NotLeading" not in text:
            self.errors.append(text)
