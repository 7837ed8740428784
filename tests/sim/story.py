"""One seed's run: a configuration, clients, operators and faults, all drawn from the seed; then the reckoning.

| phase | what happens |
|---|---|
| setting up | agents, keys and budgets are made, in fair weather |
| the story | clients call, operators command, chaos strikes, for some seconds |
| the end | faults cease; every request and every command must end within a bound |
| the reckoning | all money is where the logs say: probes, figures, leases, replay (sim.reckoning) |
"""

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sim.chaos import CLIMATES, Chaos
from sim.cluster import Cluster, NoAnswer
from sim.reckoning import Probe, reckon
from sim.traffic import Call, Record
from sim.vendor import Plan
from sim.world import START_WALL_NS, LogTap, World

from controlplane.errors import CommandRefused
from schemas.api import Usd

STORY_S = 4.0
QUIET_S = 25.0
"""Within this time after the last fault everything has ended: a command may have been told to repeat itself after ten
seconds, and an unacknowledged append is sent again every second."""

HOUR_NS = 3600 * 1_000_000_000


@dataclass(slots=True)
class Result:
    """`violations`: of promises, of bounds in time, and defects that the code itself reported."""

    seed: int
    climate: str
    violations: list[str]
    counts: dict[str, int]
    trace: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Key:
    id: str
    token: str
    agent: str
    declared: bool
    revoked: bool = False


class Story:
    """Drawn from `seed`; `climate` overrides the seed's own."""

    def __init__(self, seed: int, climate: str = "") -> None:
        self.seed = seed
        self.random = Random(f"story {seed}")
        names = list(CLIMATES)
        self.climate = climate or names[self.random.randrange(len(names) * 2) % len(names)]
        starts_late = self.random.random() < 0.25
        # Some stories see the hour turn in their middle.
        wall_ns = START_WALL_NS + (HOUR_NS - 3_000_000_000 if starts_late else 0)
        self.world = World(seed, wall_ns=wall_ns, replicas=self.random.random() < 0.7)
        nodes = self.random.choice((1, 2, 2, 3, 3, 4))
        self.cluster = Cluster(self.world, nodes, self.random.choice((1, 2, 2)))
        self.keys: list[_Key] = []
        self.agents = [f"bot{number}" for number in range(self.random.choice((1, 2, 3)))]
        self.records: list[Record] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._objects = 0
        self._answered: dict[str, str] = {}

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
        finally:
            root.removeHandler(tap)
            root.setLevel(level)
        world = self.world
        violations = [*world.observer.violations, *(f"reported: {text}" for text in (*world.errors, *tap.errors))]
        violations += [f"crashed: {error}" for machine in self.cluster.machines for error in machine.crashes()]
        ends: dict[str, int] = {}
        for record in self.records:
            ends[record.end or "open"] = ends.get(record.end or "open", 0) + 1
        counts = dict(sorted(world.observer.counts.items()))
        return Result(self.seed, self.climate, violations, counts, list(world.observer.trace), ends)

    async def _tell(self) -> None:
        cluster, world = self.cluster, self.world
        await cluster.start()
        await self._set_up()
        chaos = Chaos(cluster, CLIMATES[self.climate], Random(f"chaos {self.seed}"))
        chaos.start()
        clients = [self._spawn(self._client(Random(f"client {self.seed} {n}")), f"client {n}") for n in range(3)]
        operator = self._spawn(self._operator(Random(f"operator {self.seed}")), "operator")
        await asyncio.sleep(STORY_S)
        for client in clients:
            client.cancel()
        await chaos.stop()
        world.observer.counts["faults"] = chaos.faults
        await self._until_quiet(operator)
        await cluster.until_serving()
        probes = [
            Probe(key.id, key.token, "bot0" if key.declared else key.agent, "name=bot0" if key.declared else "")
            for key in self.keys
            if not key.revoked
        ]
        await reckon(cluster, probes)
        world.observer.check_objects(self._answered, world.vendor.exposures())
        self._check_calm()

    def _check_calm(self) -> None:
        """While nothing goes wrong, no request is refused for anything but a policy or a cap."""
        for record in self.records if self.climate == "calm" else ():
            if record.end in {"budget_unavailable", "policy_unavailable", "unknown_key", "connection", "stream_cut"}:
                self.world.observer.blame(f"P2: in calm weather {record.request_ids} ended with {record.end}")

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.append(task)
        return task

    async def _until_quiet(self, operator: asyncio.Task[None]) -> None:
        """Every request and every command ends."""
        deadline_ns = self.world.now_ns() + round(QUIET_S * 1e9)
        while True:
            open_ = [record for record in self.records if not record.end]
            if not open_ and all(task.done() for task in self._tasks):
                break
            if self.world.now_ns() > deadline_ns:
                self.world.observer.blame(f"stuck: {len(open_)} requests, operator {operator.done()}: {open_[:2]}")
                return
            await asyncio.sleep(0.05)
        if (error := operator.exception()) is not None:
            raise error

    # ------------------------------------------------------------ setting up

    async def _set_up(self) -> None:
        cluster, random = self.cluster, self.random
        for agent in self.agents:
            await cluster.put_agent(agent, random.choice(("", "red", "blue")))
            if random.random() < 0.5:
                await cluster.set_caps("agent", agent, **self._caps(random, 60, 400))
        if random.random() < 0.4:
            await cluster.set_caps("team", "red", **self._caps(random, 100, 500))
        if random.random() < 0.3:
            await cluster.set_caps("org", "default", **self._caps(random, 200, 600))
        for _ in range(random.choice((1, 2, 3, 4))):
            await self._issue(random)

    @staticmethod
    def _caps(random: Random, least: int, most: int) -> dict[str, Any]:
        """Caps of an account; a unit is a nano-dollar."""
        caps: dict[str, Any] = {
            random.choice(("total_usd_cap", "hourly_usd_cap", "daily_usd_cap")): Usd(random.randrange(least, most))
        }
        if random.random() < 0.15:
            caps["per_request_usd_cap"] = Usd(random.randrange(10, 26))
        if random.random() < 0.15:
            caps["hourly_request_cap"] = random.randrange(5, 40)
        if random.random() < 0.15:
            caps["refund_daily_usd_cap"] = Usd(random.randrange(20, 100))
        return caps

    async def _issue(self, random: Random) -> None:
        caps = self._caps(random, 40, 300)
        if random.random() < 0.1:
            caps["max_uses"] = random.randrange(3, 20)
        if random.random() < 0.1:
            caps["on_exhausted"] = "suspend"
        agent = random.choice(self.agents)
        # Some keys are shared: each call declares its agent, and may bring a new one.
        declared = random.random() < 0.15
        whose: dict[str, Any] = {"identity": "declared", "allow_unknown_agents": True} if declared else {"agent": agent}
        try:
            issued = await self.cluster.issue(**whose, **caps)
        except CommandRefused:
            return  # its agent is suspended just now
        self.keys.append(_Key(issued.id, issued.token, agent, declared))

    # ------------------------------------------------------------ clients

    async def _client(self, random: Random) -> None:
        """Sends calls, whatever becomes of them. Some belong to an object's life, one step after the other."""
        while True:
            await asyncio.sleep(random.expovariate(random.choice((8, 20, 60))))
            key = random.choice(self.keys)
            if random.random() < 0.1:
                self._spawn(self._object_life(random, key), "object")
            else:
                self._send(random, self._call(random, key))

    def _send(self, random: Random, call: Call) -> Record:
        record = random.choice(self.cluster.nodes).send(call)
        self.records.append(record)
        return record

    def _call(self, random: Random, key: _Key) -> Call:
        bound = random.randrange(1, 26)
        moves = random.choice((bound, bound, random.randrange(0, bound + 1)))
        if random.random() < 0.02:
            moves = bound + random.randrange(1, 4)  # the vendor charges more than it could
        stream = random.random() < 0.2
        plan = Plan(
            moves,
            meter="refund" if random.random() < 0.1 else "usd",
            acts_s=random.choice((0.002, 0.01, 0.05, 0.3)) if random.random() > 0.03 else float("inf"),
            answers_s=random.choice((0.002, 0.01, 0.1, 0.5)) if random.random() > 0.03 else float("inf"),
            chunks=random.randrange(1, 12) if stream else 0,
            chunk_s=random.choice((0.02, 0.1, 0.25)),
            declined=random.random() < 0.05,
        )
        return Call(
            key.token,
            bound,
            plan,
            stream=stream,
            connects_s=random.choice((0.0, 0.0, 0.001, 0.05, 0.2, 0.5)),
            tokens=random.choice((0, 100)),
            resends=random.random() < 0.05,
            identity=self._identity(random, key),
        )

    def _identity(self, random: Random, key: _Key) -> str:
        if not key.declared:
            return ""
        return f"name={random.choice((*self.agents, 'guest1', 'guest2'))}"

    async def _object_life(self, random: Random, key: _Key) -> None:
        """Authorise, again until an answer comes, then capture less, or cancel: each call on some node."""
        self._objects += 1
        ref, amount, identity = f"vendor/-/pi_{self._objects}", random.randrange(5, 26), self._identity(random, key)
        calls, end = 0, ""
        while end not in {"sent", "cap_exhausted", "key_spent"} and calls < 4:
            if calls:
                await asyncio.sleep(random.uniform(0.01, 0.5))
            calls += 1
            lost = random.random() < 0.2
            plan = Plan(amount, ref=ref, acts_s=random.choice((0.01, 0.1)), answers_s=math.inf if lost else 0.01)
            end = (await self._step(random, Call(key.token, amount, plan, identity=identity, idempotency=ref))).end
        if end != "sent":
            return
        # Captured in part, cancelled, or its amount raised before that.
        exposure = random.choice((amount, random.randrange(1, amount + 1), 0, amount + random.randrange(1, 20)))
        last = await self._step(random, Call(key.token, 0, Plan(exposure, ref=ref), identity=identity))
        if (calls, last.end) == (1, "sent"):
            self._answered[ref] = last.request_ids[-1]

    async def _step(self, random: Random, call: Call) -> Record:
        record = self._send(random, call)
        while not record.end:
            await asyncio.sleep(0.02)
        return record

    # ------------------------------------------------------------ operators

    async def _operator(self, random: Random) -> None:
        """Commands, one after the other, until the story ends."""
        until_ns = self.world.now_ns() + round(STORY_S * 1e9)
        a_second = random.choice((3, 3, 12))
        while self.world.now_ns() < until_ns:
            await asyncio.sleep(random.expovariate(a_second))
            try:
                await self._command(random)
            except CommandRefused as error:
                self.world.observer.note(f"command refused: {error.refusal}")
        for key in self.keys:
            # What was only suspended takes part in the reckoning.
            if not key.revoked:
                await self._resume(key)
        for agent in self.agents:
            await self.cluster.resume_agent(agent)

    async def _resume(self, key: _Key) -> None:
        try:
            await self.cluster.resume(key.id)
        except CommandRefused as error:
            self.world.observer.note(f"command refused: {error.refusal}")

    async def _command(self, random: Random) -> None:
        cluster, key = self.cluster, random.choice(self.keys[-2:] if random.random() < 0.5 else self.keys)
        match random.choice(
            ("revoke", "issue", "issue", "suspend", "resume", "caps", "caps", "agent", "owner", "patch", "reconcile")
        ):
            case "revoke":
                key.revoked = True
                await cluster.revoke(key.token if random.random() < 0.5 else key.id, key.id)
            case "issue":
                await self._issue(random)
            case "suspend":
                await cluster.suspend(key.id)
            case "resume":
                await self._resume(key)
            case "caps":
                kind, account = random.choice((("agent", key.agent), ("team", "red"), ("org", "default")))
                await cluster.set_caps(kind, account, **self._caps(random, 60, 500))
            case "agent":
                await cluster.suspend_agent(key.agent)
                await asyncio.sleep(random.uniform(0, 0.3))
                await cluster.resume_agent(key.agent)
            case "owner":
                await cluster.put_agent(key.agent, random.choice(("", "red", "blue")))
            case "patch":
                await cluster.change_key(key.id, total_usd_cap=Usd(random.randrange(40, 300)))
            case _:
                await self._reconcile(random)

    async def _reconcile(self, random: Random) -> None:
        # The operator looks into the vendor's books first, where what is still under way does not show.
        under_way = self.world.vendor.under_way
        unknown = [
            request.id
            for request in self.world.observer.books.requests.values()
            if request.unknown and not request.ended and request.id not in under_way
        ]
        if unknown:
            request_id = random.choice(unknown)
            await self.cluster.reconcile(request_id, self.world.vendor.moved.get(request_id, 0))
