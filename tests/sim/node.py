"""A node's machine: the real governor, and the calls that clients send to it."""

import asyncio

from sim.traffic import Call, Record, Traffic
from sim.world import Machine, World

from dataplane.governor import Governor


class SimNode(Machine):
    """`records`: every call that was ever sent here, answered or not."""

    def __init__(self, world: World, slot: str) -> None:
        super().__init__(world, slot)
        self.records: list[Record] = []
        self.governor: Governor | None = None
        self.clock = world.clock()
        self._traffic: Traffic | None = None
        self.leaving = False

    def start(self) -> None:
        """Start the process; it joins by itself."""
        self.governor = self._traffic = None
        self.leaving = False
        self.boot(self._main)

    async def _main(self) -> None:
        world = self.world
        _, nodes, bus = world.ports(self.name)
        governor = Governor(
            bus,
            nodes,
            self.clock,
            slot=self.name,
            timing=world.timing,
            draw=world.draw,
            version="sim",
            pid=self.generation,
        )
        self._traffic = Traffic(governor, world.vendor, world.observer, world.now_ns, world.draw)
        self.governor = governor
        await governor.start()
        defect = await governor.defect
        world.errors.append(f"{self.name}: task {defect} failed")

    def drain(self) -> None:
        """SIGTERM: it ends what is open, says goodbye, and is gone."""
        governor = self.governor
        if not self.running or governor is None:
            return
        self.world.observer.note(f"DRAIN {self.name}")
        self.leaving = True

        async def leave() -> None:
            await governor.drain()
            self.kill()

        self.do(leave())

    @property
    def ready(self) -> bool:
        return self.running and self.governor is not None and self.governor.ready

    @property
    def incarnation(self) -> str:
        """The current incarnation's id; empty between two."""
        if self.governor is None or self.governor.node.incarnation is None:
            return ""
        return self.governor.node.incarnation.id

    def send(self, call: Call) -> Record:
        """A client's request arrives. If the process is dead, or does not listen yet, the client is told so at once."""
        record = Record(call, self.world.now_ns(), self.name)
        self.records.append(record)
        if not self.alive or self._traffic is None:
            record.end, record.ended_ns = "connection", self.world.now_ns()
            return record
        assert self.process is not None
        self.process.run(self._traffic.run(record), "request")
        return record

    def kill(self) -> None:
        """As every kill; clients see their connections break."""
        was_alive = self.alive
        super().kill()
        if was_alive:
            for record in self.records:
                if not record.end:
                    record.end, record.ended_ns, record.died = "connection", self.world.now_ns(), True

    async def call(self, call: Call, patience_s: float = 10.0) -> str:
        """Send a call and wait for its end, which is returned; `open` if there is none in time."""
        record = self.send(call)
        deadline_ns = self.world.now_ns() + round(patience_s * 1e9)
        while not record.end and self.world.now_ns() < deadline_ns:
            await asyncio.sleep(0.001)
        return record.end or "open"
