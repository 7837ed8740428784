"""Scripted scenes: a small cluster in calm weather, in which a script says what happens to which message."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sim.cluster import Cluster
from sim.epochs import NOON, Epoch, begin_ns
from sim.loop import run_virtual
from sim.traffic import Call
from sim.vendor import Plan
from sim.world import LogTap, World

from controlplane.commands.keys import IssuedKey
from controlplane.leader import Leader
from events.log.faults import LOST, PublishFate
from schemas.api import Usd

Act = Callable[[Cluster], Awaitable[None]]

TICK_S = 0.0005


@dataclass(frozen=True, slots=True)
class When:
    """A scene's time: it begins so long before an instant, and these accounts' windows turn in that zone."""

    epoch: Epoch = NOON
    before_s: float = 0.0
    accounts: tuple[str, ...] = ()


ANY_TIME = When()


class Rehearsal(NamedTuple):
    """`failed`: an expectation of the scene itself that was not met."""

    cluster: Cluster
    failed: AssertionError | None


def play(act: Act, *, nodes: int = 2, controls: int = 1, seed: int = 1, when: When = ANY_TIME) -> Cluster:
    """Play a scene to its end, in virtual time; fails on any violation that the observer has seen."""
    cluster, failed = rehearse(act, nodes=nodes, controls=controls, seed=seed, when=when)
    if failed is not None:
        raise failed
    assert cluster.world.observer.violations == []
    assert cluster.world.errors == []
    return cluster


def rehearse(act: Act, *, nodes: int = 2, controls: int = 1, seed: int = 1, when: When = ANY_TIME) -> Rehearsal:
    """Play a scene as far as it goes; what it and the observer have to say is left to the caller."""

    async def main() -> Rehearsal:
        world = World(seed, wall_ns=begin_ns(when.epoch, when.before_s))
        world.observer.books.zones = dict.fromkeys(when.accounts, when.epoch.zone)
        tap = LogTap(world.observer.note)
        root = logging.getLogger()
        level = root.level
        root.addHandler(tap)
        root.setLevel(logging.INFO)
        cluster = Cluster(world, nodes, controls)
        try:
            await cluster.start()
            await act(cluster)
        except AssertionError as error:
            return Rehearsal(cluster, error)
        finally:
            root.removeHandler(tap)
            root.setLevel(level)
        return Rehearsal(cluster, None)

    rehearsal: Rehearsal = run_virtual(main())
    return rehearsal


async def until(world: World, what: Callable[[], Any], patience_s: float = 10.0) -> None:
    """Until something is so."""
    deadline_ns = world.now_ns() + round(patience_s * 1e9)
    while not what():
        assert world.now_ns() < deadline_ns, "it never happens"
        await asyncio.sleep(TICK_S)


async def a_key(cluster: Cluster, cap: int = 100, agent: str = "bot") -> IssuedKey:
    """A key with a total cap of so many units."""
    return await cluster.issue(agent=agent, total_usd_cap=Usd(cap))


def pay(key: IssuedKey, bound: int, moves: int | None = None, **fields: Any) -> Call:
    """A payment of at most `bound`; by default it moves all of it. `acts_s` is the vendor's time."""
    acts_s = fields.pop("acts_s", 0.005)
    plan = Plan(bound if moves is None else moves, acts_s=acts_s, answers_s=0.001)
    return Call(key.token, bound, plan, **fields)


def chat(key: IssuedKey, chunks: int, chunk_s: float = 0.05) -> Call:
    """A stream of so many chunks, which costs 10 units."""
    plan = Plan(10, acts_s=0.002, answers_s=0.001, chunks=chunks, chunk_s=chunk_s)
    return Call(key.token, 10, plan, stream=True)


class Appends:
    """A script for the appends of one process; `fate` None leaves them to the weather. `sent` counts them by id."""

    def __init__(self, world: World, process: str) -> None:
        self.sent: dict[str, int] = {}
        self.fate: PublishFate | None = None
        self.once: PublishFate | None = None
        self._process = process
        world.network.publish_scripts.append(self._decide)

    def _decide(self, process: str, _: str, msg_id: str) -> PublishFate | None:
        if process != self._process:
            return None
        self.sent[msg_id] = self.sent.get(msg_id, 0) + 1
        once, self.once = self.once, None
        return once or self.fate

    def lose_answers(self) -> None:
        """They are stored, and nobody hears of it."""
        self.fate = PublishFate((0.001,), math.inf)

    def lose(self) -> None:
        self.fate = LOST

    def delay_first(self, by_s: float) -> None:
        """The next one lands late, and its answer is lost; what follows is lost altogether."""
        self.once = PublishFate((by_s,), math.inf)
        self.fate = LOST

    def work(self) -> None:
        self.once = self.fate = None


class Messages:
    """A script for the bus messages from one process to another; a delay of infinity loses them."""

    def __init__(self, world: World, sender: str, receiver: str) -> None:
        self.delay_s: float | None = None
        self._ends = (sender, receiver)
        world.network.bus_scripts.append(self._decide)

    def _decide(self, sender: str, receiver: str, _: str) -> tuple[float, ...] | None:
        if (sender, receiver) != self._ends or self.delay_s is None:
            return None
        return () if self.delay_s == math.inf else (self.delay_s,)

    def lose(self) -> None:
        self.delay_s = math.inf

    def work(self) -> None:
        self.delay_s = None


def fence_ns(cluster: Cluster, slot: str) -> int:
    """When the first incarnation of a slot was fenced; 0: it was not."""
    fenced = cluster.world.observer.fenced
    return next((at for name, at in fenced.items() if name.startswith(f"{slot}-")), 0)


def leader_of(cluster: Cluster) -> Leader:
    leading = cluster.leading
    assert leading is not None
    assert leading.leader is not None
    return leading.leader


def total_of(key: IssuedKey) -> str:
    """The line of a key's total cap."""
    return f"key:{key.id}:usd:total:0"
