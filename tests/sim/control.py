"""A control plane's machine: the real standby, takeover and leader, and the commands that operators send to it."""

import asyncio
from collections.abc import Callable
from typing import Any

from sim.disks import Disk
from sim.world import Machine, World

from controlplane.errors import BarrierOpen, CommandRefused, LogUnavailable, NotLeading
from controlplane.following import Logs
from controlplane.leader import Leader
from controlplane.seat import LeadershipEnded, Seat
from events.types import By

RESTART_S = 0.2
"""A process that ended is started anew."""

Answered = Callable[[Any], None]
"""Called with a command's answer in the very step in which it is given."""


class SimControl(Machine):
    """Follows, leads, follows again; a process that ends is started anew, as a supervisor does."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.seat: Seat | None = None
        self.checkpoints = Disk()
        self.ends: list[str] = []
        self.alone = False
        self.clock = world.clock(skew_ns=world.random.randrange(-200, 200) * 1_000_000)
        self._at_once = False

    def start(self, *, at_once: bool = False) -> None:
        """Start a process. It takes over `at_once`, or when it hears no leader any more."""
        self.seat = None
        self._at_once = at_once or self.alone
        self.boot(self._main)

    def kill(self) -> None:
        super().kill()
        self.seat = None

    def checkpoint(self) -> None:
        """It keeps a checkpoint now, as it does now and then."""
        if self.running and self.leader is not None:
            self.do(self.leader.recorder.save())

    @property
    def leads(self) -> bool:
        """Whether it believes so, and can act on it."""
        return self.running and self.leader is not None and self.leader.readiness() is None

    def clock_ns(self) -> int:
        """Its wall clock, by which windows turn."""
        return self.clock.wall_ns()

    @property
    def leader(self) -> Leader | None:
        """Its leadership, if it has one."""
        return self.seat.leader if self.seat is not None else None

    async def _main(self) -> None:
        world = self.world
        control, nodes, bus = world.ports(self.name)
        while True:
            self.seat = seat = Seat(
                Logs(control, nodes), bus, self.clock, world.draw, world.timing, self.checkpoints,
                version="sim", first=self._begins,
            )  # fmt: skip
            try:
                await seat.run(at_once=self._at_once)
            except LeadershipEnded as end:
                world.observer.note(f"{self.name} ENDS: {end}")
                self.ends.append(str(end))
            self._at_once = self.alone
            await seat.close()
            await asyncio.sleep(RESTART_S)

    async def _begins(self, leader: Leader) -> None:
        self.world.observer.note(f"{self.name} LEADS as {leader.name}")

    async def execute(self, decide: Any, by: By, answered: Answered, patience_s: float) -> Any:
        """Carry a command out here. Raises what the leader raises; TimeoutError if there is no answer in time."""
        leader = self.leader
        if not self.alive or leader is None:
            raise NotLeading(f"{self.name} does not lead")
        end: asyncio.Future[Any] = self.world.loop.create_future()

        async def run() -> None:
            try:
                answer = await leader.execute(decide, by)
            except (CommandRefused, LogUnavailable, BarrierOpen, NotLeading) as error:
                if not end.done():
                    end.set_exception(error)
                return
            # From this step on whoever asked may rely on it, even if nobody listens any more.
            answered(answer)
            if not end.done():
                end.set_result(answer)

        assert self.process is not None
        self.process.run(run(), "command")
        async with asyncio.timeout(patience_s):
            return await end
