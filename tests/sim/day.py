"""A day's logs, by the real code: traffic, operators and faults in every hour, windows that turn between them.

A second or so of each hour is played, then every machine's wall clock goes on by an hour, with requests under way and
leases lent. Over the day nodes die, are fenced and join anew, leaders take over from each other, and hours, days and
months turn, in several zones.
"""

import asyncio
import logging
from random import Random
from typing import NamedTuple

from sim.chaos import CLIMATES, Chaos
from sim.clients import Clients
from sim.cluster import Cluster
from sim.loop import run_virtual
from sim.operators import Operator
from sim.people import People
from sim.reckoning import Probe, reckon, until_folded
from sim.trim import Trim
from sim.world import LogTap, World

from events.log.port import Stored

HOURS = 27
"""More than a day, wherever one is."""

PLAYED_S = 0.9
"""Of each hour."""

HOUR_NS = 3600 * 10**9

DAWN_NS = 1_764_480_300 * 10**9
"""2025-11-30 05:25 UTC: the next midnight ends a month."""

ZONES = {"agent:bot0": "Asia/Kathmandu", "agent:bot1": "America/New_York", "team:red": "UTC", "org:default": "UTC"}
CLIENTS = 3
WEATHERS = ("all", "kills", "fences", "takeovers", "disks", "calm")


class Day(NamedTuple):
    """Both logs, and the canonical bytes of what the leader at their end had folded, as they came."""

    control: list[Stored]
    nodes: list[Stored]
    folded: bytes
    violations: list[str]
    counts: dict[str, int]


def play_a_day(seed: int) -> Day:
    """In virtual time, some seconds of real time."""

    async def main() -> Day:
        return await _Day(seed).run()

    day: Day = run_virtual(main())
    return day


class _Day:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed, wall_ns=DAWN_NS)
        self.world.observer.books.zones = ZONES
        self.cluster = Cluster(self.world, nodes=3, controls=2)
        self.people = People(self.cluster, Trim(seed), agents=2)
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> Day:
        tap = LogTap(self.world.observer.note)
        root = logging.getLogger()
        level = root.level
        root.addHandler(tap)
        root.setLevel(logging.INFO)
        try:
            await self.cluster.start()
            await self.people.set_up()
            # One operator all day: the observer is to know who stopped what last.
            operator = Operator(self.cluster, self.people, Trim(self.seed))
            self.tasks.append(asyncio.create_task(operator.run(HOURS * PLAYED_S)))
            for hour in range(HOURS):
                await self._hour(hour)
                for machine in self.cluster.machines:
                    machine.clock.step(HOUR_NS)
            await self._evening()
        finally:
            root.removeHandler(tap)
            root.setLevel(level)
        return await self._told([*self.world.errors, *tap.errors])

    async def _hour(self, hour: int) -> None:
        """What clients draw is the hour's own; what they began goes on into the next."""
        trim = Trim(self.seed * 1000 + hour)
        weather = WEATHERS[Random(f"weather {trim.seed}").randrange(len(WEATHERS))]
        chaos = Chaos(self.cluster, CLIMATES[weather], trim)
        clients = Clients(self.cluster, self.people, trim)
        running = [asyncio.create_task(clients.run(hour * CLIENTS + number)) for number in range(CLIENTS)]
        chaos.start()
        await asyncio.sleep(PLAYED_S)
        for client in running:
            client.cancel()
        await chaos.stop()
        self.world.observer.counts["faults"] += chaos.faults
        self.tasks += clients.tasks

    async def _evening(self) -> None:
        """Everything ends, and all money is where the logs say."""
        async with asyncio.timeout(120):
            await asyncio.gather(*self.tasks)
            while any(not record.end for node in self.cluster.nodes for record in node.records):
                await asyncio.sleep(0.05)
        await self.cluster.until_serving()
        living = [key for key in self.people.keys if not key.revoked]
        await reckon(self.cluster, [Probe(key.id, key.token, key.probing, key.identity_of_probe) for key in living[:6]])

    async def _told(self, errors: list[str]) -> Day:
        await until_folded(self.cluster)
        leading = self.cluster.leading
        assert leading is not None
        assert leading.leader is not None
        control, nodes = (
            list(stream.between(0, stream.state().last_sequence)) for stream in (self.world.control, self.world.nodes)
        )
        observer = self.world.observer
        return Day(
            control, nodes, leading.leader.replica.dump(), [*observer.violations, *errors], dict(observer.counts)
        )
