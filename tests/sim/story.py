"""One seed's run: a configuration, clients, operators and faults, all drawn from the seed; then the reckoning.

| phase | what happens |
|---|---|
| setting up | agents, keys and budgets are made, in fair weather |
| the story | clients call, operators command, chaos strikes, for some seconds; windows may turn |
| the end | faults cease; every request and every command must end within a bound |
| the reckoning | all money is where the logs say: probes, figures, leases, objects, replay (sim.reckoning) |
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sim.chaos import CLIMATES, Chaos
from sim.clients import Clients
from sim.cluster import Cluster, NoAnswer
from sim.epochs import epoch_of, zone_of
from sim.operators import Operator
from sim.people import People
from sim.reckoning import Probe, reckon
from sim.trim import Trim
from sim.world import LogTap, World

LENGTHS_S = (1.2, 2.0, 3.2)
"""Of stories."""

QUIET_S = 25.0
"""Within this time after the last fault everything has ended: a command may have been told to repeat itself after ten
seconds, and an unacknowledged append is sent again every second."""

CLIENTS = 3
TURNING_SHARE = 0.45
"""Of the stories that see a window turn."""

CALM_ENDS = {"budget_unavailable", "policy_unavailable", "unknown_key", "connection", "stream_cut"}
"""What no request may end with while nothing goes wrong."""


@dataclass(slots=True)
class Result:
    """`violations`: of promises, of bounds in time, and defects that the code itself reported. `items`: see sim.trim."""

    seed: int
    climate: str
    violations: list[str]
    counts: dict[str, int]
    trace: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)


class Story:
    """Drawn from `seed`; `climate` overrides the seed's own; of its items only `only` are played, if it is given."""

    def __init__(self, seed: int, climate: str = "", only: frozenset[str] | None = None) -> None:
        self.seed = seed
        self.trim = Trim(seed, only)
        random = Random(f"story {seed}")
        names = list(CLIMATES)
        drawn = names[random.randrange(len(names) * 2) % len(names)]
        self.climate = climate or drawn
        epoch, begin_ns = epoch_of(random, TURNING_SHARE)
        self.story_s = random.choice(LENGTHS_S)
        self.world = World(seed, wall_ns=begin_ns, replicas=random.random() < 0.7)
        nodes, controls = random.choice((1, 2, 2, 3, 3, 4)), random.choice((1, 2, 2, 3))
        self.cluster = Cluster(self.world, nodes, controls if self.trim.plays("standby") else 1)
        self.people = People(self.cluster, self.trim, agents=random.choice((1, 2, 3)))
        self.world.observer.books.zones = {
            account: zone_of(account, epoch, self.trim)
            for account in (*(f"agent:{name}" for name in self.people.agents), "team:red", "org:default")
        }
        if self.climate == "clocks":
            for machine in self.cluster.machines:
                machine.clock.step(random.choice((-3600, 0, 0, 3600)) * 10**9)
        self.world.observer.note(f"EPOCH {epoch}")
        self.clients = Clients(self.cluster, self.people, self.trim)
        self._tasks: list[asyncio.Task[Any]] = []

    async def run(self) -> Result:
        tap = LogTap(self.world.observer.note)
        root = logging.getLogger()
        level = root.level
        root.addHandler(tap)
        root.setLevel(logging.INFO)
        try:
            await self._tell()
        except NoAnswer as error:
            self.world.observer.blame(f"stuck: {error}")
        except Exception as error:
            self.world.observer.blame(f"crashed: {error!r}")  # one seed's verdict must not end those of the others
        finally:
            root.removeHandler(tap)
            root.setLevel(level)
        world = self.world
        violations = [*world.observer.violations, *(f"reported: {text}" for text in (*world.errors, *tap.errors))]
        violations += [f"crashed: {error}" for machine in self.cluster.machines for error in machine.crashes()]
        ends: dict[str, int] = {}
        for record in self.clients.records:
            ends[record.end or "open"] = ends.get(record.end or "open", 0) + 1
        counts = dict(sorted(world.observer.counts.items()))
        trace, items = list(world.observer.trace), list(self.trim.items)
        return Result(self.seed, self.climate, violations, counts, trace, ends, items)

    async def _tell(self) -> None:
        cluster, world = self.cluster, self.world
        await cluster.start()
        await self.people.set_up()
        chaos = Chaos(cluster, CLIMATES[self.climate], self.trim)
        chaos.start()
        clients = [self._spawn(self.clients.run(number), f"client {number}") for number in range(CLIENTS)]
        operator = self._spawn(Operator(cluster, self.people, self.trim).run(self.story_s), "operator")
        await asyncio.sleep(self.story_s)
        for client in clients:
            client.cancel()
        await chaos.stop()
        world.observer.counts["faults"] = chaos.faults
        await self._until_quiet(operator)
        await cluster.until_serving()
        living = [key for key in self.people.keys if not key.revoked]
        await reckon(cluster, [Probe(key.id, key.token, key.probing, key.identity_of_probe) for key in living])
        world.observer.check_vendor()
        self._check_calm()

    def _check_calm(self) -> None:
        """While nothing goes wrong, no request is refused for anything but a policy or a cap."""
        for record in self.clients.records if self.climate == "calm" else ():
            if record.end in CALM_ENDS:
                self.world.observer.blame(f"P2: in calm weather {record.request_ids} ended with {record.end}")

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.append(task)
        return task

    async def _until_quiet(self, operator: asyncio.Task[None]) -> None:
        """Every request and every command ends."""
        deadline_ns = self.world.now_ns() + round(QUIET_S * 1e9)
        tasks = (*self._tasks, *self.clients.tasks)
        while True:
            open_ = [record for record in self.clients.records if not record.end]
            if not open_ and all(task.done() for task in tasks):
                break
            if self.world.now_ns() > deadline_ns:
                self.world.observer.blame(f"stuck: {len(open_)} requests, operator {operator.done()}: {open_[:2]}")
                return
            await asyncio.sleep(0.05)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.world.observer.blame(f"{'stuck' if isinstance(error, NoAnswer) else 'crashed'}: {error!r}")
