"""The clients of a story: payments, streams, refunds, and the lives of vendors' objects, each call on some node."""

import asyncio
import math
from itertools import count
from random import Random
from typing import Any

from sim.cluster import Cluster
from sim.people import Key, People
from sim.traffic import Call, Record
from sim.trim import Trim
from sim.vendor import Plan

LIVES = 0.12
"""Share of the calls that begin an object's life."""


class Clients:
    """`records`: every call that was ever sent; `tasks`: the lives under way."""

    def __init__(self, cluster: Cluster, people: People, trim: Trim) -> None:
        self._cluster = cluster
        self._people = people
        self._trim = trim
        self.records: list[Record] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def run(self, client: int) -> None:
        """Send calls, whatever becomes of them, until it is cancelled."""
        for number in count():
            item = f"call.{client}.{number}"
            random = self._trim.random(item)
            await asyncio.sleep(random.expovariate(random.choice((8, 20, 60))))
            if not self._trim.plays(item) or not self._people.keys:
                continue
            # One draw, however many keys there are just now.
            key = self._people.keys[int(random.random() * len(self._people.keys))]
            if random.random() < LIVES:
                self.tasks.append(asyncio.create_task(self._life(random, key, item), name=item))
            else:
                self._send(random, self._payment(random, key), item)

    def _send(self, random: Random, call: Call, item: str) -> Record:
        node = random.choice(self._cluster.nodes)
        self._cluster.world.observer.note(f"ITEM {item}: {call.bound} {call.plan} at {node.name}")
        record = node.send(call)
        self.records.append(record)
        return record

    def _payment(self, random: Random, key: Key) -> Call:
        bound = random.randrange(1, 26)
        moves = random.choice((bound, bound, random.randrange(0, bound + 1)))
        if random.random() < 0.02:
            moves = bound + random.randrange(1, 4)  # the vendor charges more than it could
        stream = random.random() < 0.2
        plan = Plan(
            moves,
            meter="refund" if random.random() < 0.1 else "usd",
            acts_s=random.choice((0.002, 0.01, 0.05, 0.3)) if random.random() > 0.03 else math.inf,
            answers_s=random.choice((0.002, 0.01, 0.1, 0.5)) if random.random() > 0.03 else math.inf,
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
            identity=self._people.identity(random, key),
        )

    # ------------------------------------------------------------ objects

    async def _life(self, random: Random, key: Key, item: str) -> None:
        """Authorise, again until an answer comes; then raise, lower, look, capture, cancel, some of it at once."""
        ref, amount = f"vendor/-/pi_{item}", random.randrange(5, 26)
        identity = self._people.identity(random, key)
        calls, end = 0, ""
        while end not in {"sent", "cap_exhausted", "key_spent"} and calls < 4:
            if calls:
                await asyncio.sleep(random.uniform(0.01, 0.5))
            calls += 1
            lost = random.random() < 0.2
            plan = Plan(amount, ref=ref, acts_s=random.choice((0.01, 0.1)), answers_s=math.inf if lost else 0.01)
            made = self._send(random, Call(key.token, amount, plan, identity=identity, idempotency=ref), item)
            end = await _end(made)
        if end != "sent":
            return
        for _ in range(random.choice((1, 1, 2, 3))):
            together = [self._next(random, key, identity, ref, amount) for _ in range(random.choice((1, 1, 2, 3)))]
            for record in [self._send(random, call, item) for call in together]:
                await _end(record)
            if random.random() < 0.5:
                await asyncio.sleep(random.uniform(0, 0.3))

    @staticmethod
    def _next(random: Random, key: Key, identity: str, ref: str, amount: int) -> Call:
        what = random.choice(("raise", "lower", "read", "capture", "cancel"))
        moves = {"raise": amount + random.randrange(1, 20), "cancel": 0}.get(what, random.randrange(1, amount + 1))
        plan = Plan(
            0 if what == "read" else moves,
            ref=ref,
            acts_s=random.choice((0.002, 0.01, 0.1)),
            answers_s=random.choice((0.002, 0.02, 0.2)),
            last=what in {"capture", "cancel"},
            reads=what == "read",
        )
        return Call(key.token, 0, plan, identity=identity)


async def _end(record: Record) -> str:
    while not record.end:
        await asyncio.sleep(0.02)
    return record.end
