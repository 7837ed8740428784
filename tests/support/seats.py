"""Several control planes in one virtual world: the real seats, over logs and bus in memory, in processes that can be
paused and killed.
"""

import asyncio
from collections.abc import Callable

from sim.loop import Process
from support.control_rig import Rig, process

from controlplane.checkpoints import MemoryCheckpoints
from controlplane.following import Logs
from controlplane.seat import Seat
from events.log.faults import StreamFaults


class Chair:
    """One control plane's machine. `fail` is the exception that ended its seat, if one did."""

    def __init__(
        self,
        rig: Rig,
        name: str,
        faults: StreamFaults | None = None,
        url: str = "",
        checkpoints: MemoryCheckpoints | None = None,
    ) -> None:
        self.rig = rig
        self.name = name
        self.process: Process = process(name)
        self.client = rig.bus.client(name)
        self.checkpoints = checkpoints or MemoryCheckpoints()
        self.seat = Seat(
            Logs(rig.control.port(faults), rig.nodes.port(faults)),
            self.client,
            rig.clock,
            rig.random.randbytes,
            rig.timing,
            self.checkpoints,
            url=url or f"http://{name}",
        )
        self.task = self.process.run(self.seat.run(), "seat")

    @property
    def leads(self) -> bool:
        """Whether it believes so."""
        return self.process.alive and self.seat.leader is not None and self.seat.leader.readiness() is None

    @property
    def stands_by(self) -> bool:
        """Whether it follows a leader that it knows."""
        return self.process.alive and self.seat.role == "standby" and self.seat.readiness() is None

    def kill(self) -> None:
        """kill -9: nothing of it runs any more, and the server sees its connection closed."""
        self.process.kill()
        for subscription in list(self.rig.bus._subscriptions):
            if subscription.owner == self.name:
                self.rig.bus.remove(subscription)

    async def end(self) -> None:
        """SIGTERM."""
        if self.process.alive:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await self.process.run(self.seat.close())
            self.process.kill()


async def chairs(rig: Rig, count: int) -> list[Chair]:
    """Started together; returns when one leads and the others stand by."""
    found = [Chair(rig, f"c{number + 1}") for number in range(count)]
    await until(lambda: sum(one.leads for one in found) == 1 and sum(one.stands_by for one in found) == count - 1)
    return sorted(found, key=lambda one: not one.leads)


async def until(condition: Callable[[], bool], patience_s: float = 30.0) -> float:
    """Wait in virtual time; returns how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < patience_s, "it did not happen"
        await asyncio.sleep(0.005)
    return loop.time() - began
