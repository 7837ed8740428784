"""The operator of a story: commands, one after the other, sent until they are carried out."""

import asyncio
from itertools import count
from random import Random

from sim.cluster import Cluster
from sim.people import Key, People, caps
from sim.trim import Trim

from controlplane.errors import CommandRefused
from schemas.api import Usd

COMMANDS = (
    "revoke",
    "issue",
    "issue",
    "suspend",
    "resume",
    "caps",
    "caps",
    "agent",
    "owner",
    "patch",
    "reconcile",
)


class Operator:
    def __init__(self, cluster: Cluster, people: People, trim: Trim) -> None:
        self._cluster = cluster
        self._people = people
        self._trim = trim

    async def run(self, for_s: float) -> None:
        """Command for so long; then resume whatever is only suspended, for the reckoning."""
        world = self._cluster.world
        until_ns = world.now_ns() + round(for_s * 1e9)
        a_second = self._trim.random("operator").choice((3, 3, 12))
        for number in count():
            item = f"command.{number}"
            random = self._trim.random(item)
            await asyncio.sleep(random.expovariate(a_second))
            if world.now_ns() >= until_ns:
                break
            if self._people.keys and self._trim.plays(item):
                await self._try(random, item)
        for key in self._people.keys:
            if not key.revoked:
                await self._resume(key)
        for agent in self._people.agents:
            await self._cluster.resume_agent(agent)

    async def _try(self, random: Random, item: str) -> None:
        what = random.choice(COMMANDS)
        self._cluster.world.observer.note(f"ITEM {item}: {what}")
        try:
            await self._command(random, what)
        except CommandRefused as error:
            self._cluster.world.observer.note(f"command refused: {error.refusal}")

    async def _resume(self, key: Key) -> None:
        try:
            await self._cluster.resume(key.id)
        except CommandRefused as error:
            self._cluster.world.observer.note(f"command refused: {error.refusal}")

    async def _command(self, random: Random, what: str) -> None:
        cluster, keys = self._cluster, self._people.keys
        key = random.choice(keys[-2:] if random.random() < 0.5 else keys)
        match what:
            case "revoke":
                key.revoked = True
                await cluster.revoke(key.token if random.random() < 0.5 else key.id, key.id)
            case "issue":
                await self._people.issue(random)
            case "suspend":
                await cluster.suspend(key.id)
            case "resume":
                await self._resume(key)
            case "caps":
                kind, account = random.choice((("agent", key.agent), ("team", "red"), ("org", "default")))
                await cluster.set_caps(kind, account, **caps(random, 60, 500))
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
        vendor = self._cluster.world.vendor
        unknown = [
            request.id
            for request in self._cluster.world.observer.books.requests.values()
            if request.unknown and not request.ended and request.id not in vendor.under_way
        ]
        if unknown:
            request_id = random.choice(unknown)
            await self._cluster.reconcile(request_id, vendor.moved.get(request_id, 0))
