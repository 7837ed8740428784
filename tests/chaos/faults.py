"""What goes wrong, and when: a schedule that follows from its seed alone, and the hand that carries it out.

| kind | what happens to its targets | heals |
|---|---|---|
| kill | kill -9, several at one instant | their supervisor starts them again |
| restart | SIGTERM | the same |
| pause | SIGSTOP | SIGCONT |
| cut | connections to NATS (of a NATS server: to the others) are reset, new ones too | they pass again |
| silent | nothing passes between them and NATS, in both directions | what waited arrives, late |
| deaf | nothing passes from NATS to them (of a NATS server: one way of each link) | the same |
| mute | nothing passes from them to NATS (of a NATS server: the other way) | the same |
| slow | everything between them and NATS is late | it is in time again |
| full | a disk has no room left (of one NATS server, of the control planes, of the audit) | there is room; a NATS server, which gives up its store then, is started again |
| vendor | some calls to a vendor fail, before or after it has acted | none do |
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from chaos.cluster import Cluster

STREAM_PACE = {"vendor": "openai", "fault": {"chunk_ms": 15}}
"""In force throughout, so that streams last long enough to be cut."""

VENDOR_FAULTS: tuple[dict[str, Any], ...] = (
    {"fault": {"delay_ms": 700}, "percent": 30},
    {"fault": {"first_byte_delay_ms": 900}, "percent": 30},
    {"fault": {"status_before": 500}, "percent": 30},
    {"fault": {"status_after": 500}, "percent": 30},
    {"fault": {"drop": "before"}, "percent": 20},
    {"fault": {"drop": "after"}, "percent": 20},
    {"fault": {"first_byte_delay_ms": 6000}, "percent": 10},
    {"fault": {"drop_after_chunks": 3}, "percent": 30, "vendor": "openai"},
)

WEIGHTS = {
    "kill": 7, "pair": 3, "restart": 3, "pause": 6, "cut": 4, "silent": 3, "deaf": 3, "mute": 3, "slow": 2, "full": 1,
    "vendor": 5,
}  # fmt: skip
"""How often each is drawn. `pair`: a kill of two processes at one instant."""

PACE_S = 2.2
"""Between two faults, on average. Each may last longer, so several are in force at a time."""


@dataclass(frozen=True)
class Fault:
    """One fault. `at_s` counts from the storm's beginning."""

    at_s: float
    kind: str
    targets: tuple[str, ...]
    lasts_s: float = 0.0
    detail: Any = None

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        detail = f" {self.detail}" if self.detail else ""
        return f"{self.at_s:7.2f} s {self.kind} {', '.join(self.targets)}{lasts}{detail}"


def schedule(
    seed: int,
    duration_s: float,
    processes: Sequence[str],
    wired: Sequence[str],
    disks: Sequence[str],
    *,
    only: Sequence[str] = (),
    pace_s: float = PACE_S,
) -> list[Fault]:
    """The faults of a storm, of these kinds `only` (empty: all). The same arguments give the same faults."""
    rng = random.Random(f"faults {seed}")
    kinds = [kind for kind in only or WEIGHTS if kind != "full" or disks]
    bags = {kind: _Bag(rng, disks if kind == "full" else processes) for kind in kinds}
    found: list[Fault] = []
    at_s = 1.0
    while at_s < duration_s:
        kind = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        found.append(_draw(rng, at_s, kind, bags[kind], wired))
        at_s += rng.expovariate(1 / pace_s)
    return found


class _Bag:
    """Names in random order, each once before any comes again: a storm long enough leaves nobody out."""

    def __init__(self, rng: random.Random, names: Sequence[str]) -> None:
        self._rng = rng
        self._names = names
        self._left: list[str] = []

    def take(self, other_than: str = "") -> str:
        self._left = self._left or self._rng.sample(self._names, len(self._names))
        name = self._left.pop()
        return name if name != other_than else self.take()


def _draw(rng: random.Random, at_s: float, kind: str, bag: _Bag, wired: Sequence[str]) -> Fault:
    match kind:
        case "kill" | "restart":
            return Fault(at_s, kind, (bag.take(),))
        case "pair":
            first = bag.take()
            return Fault(at_s, "kill", (first, bag.take(first)))
        case "pause":
            return Fault(at_s, kind, (bag.take(),), _length(rng))
        case "full":
            return Fault(at_s, kind, (bag.take(),), rng.uniform(1.0, 3.0))
        case "vendor":
            return Fault(at_s, kind, ("vendors",), rng.uniform(1.0, 5.0), rng.choice(VENDOR_FAULTS))
        case "slow":
            targets = tuple(rng.sample(wired, rng.randint(1, 3)))
            return Fault(at_s, kind, targets, rng.uniform(1.0, 6.0), round(rng.uniform(0.01, 0.15), 3))
        case _:
            targets = tuple(rng.sample(wired, rng.choice((1, 1, 1, 2, len(wired)))))
            return Fault(at_s, kind, targets, _length(rng))


def _length(rng: random.Random) -> float:
    """0.2 to 8 s, short ones more often: those around the protocol's own times matter most."""
    return min(8.0, 0.2 + rng.expovariate(1 / 1.5))


@dataclass
class Storm:
    """Carries out a schedule. `said` tells what was done when."""

    cluster: Cluster
    faults: Sequence[Fault]
    said: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    """How many processes, disks and wires were struck, by kind of fault and of target."""
    _began_s: float = 0.0
    _vendor_rules: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, duration_s: float) -> None:
        """Until all faults have come and gone."""
        self._began_s = time.monotonic()
        names = set(self.cluster.processes())
        await self._order()
        try:
            async with asyncio.TaskGroup() as group:
                for fault in self.faults:
                    group.create_task(self._carry_out(fault), name=str(fault))
                group.create_task(asyncio.sleep(duration_s), name="the storm's length")
        finally:
            self.cluster.heal()
            self._vendor_rules.clear()
            await self._order()
        await self.cluster.all_back(names)

    def _say(self, text: str) -> None:
        self.said.append(f"{time.monotonic() - self._began_s:7.2f} s {text}")

    async def _carry_out(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._began_s + fault.at_s - time.monotonic()))
        heal = await self._begin(fault)
        self.struck.update(f"{fault.kind} {_sort(name)}" for name in fault.targets)
        self._say(f"{fault.kind} {', '.join(fault.targets)}" + ("" if heal else " (once)"))
        if heal is None:
            return
        await asyncio.sleep(fault.lasts_s)
        await heal()
        self._say(f"healed: {fault.kind} {', '.join(fault.targets)}")

    async def _begin(self, fault: Fault) -> Callable[[], Any] | None:
        """Do it; returns what undoes it."""
        cluster = self.cluster
        match fault.kind:
            case "kill":
                pids = cluster.processes()
                cluster.strike([pids[name] for name in fault.targets if name in pids])
                return None
            case "restart":
                cluster.terminate(fault.targets[0])
                return None
            case "pause":
                pid = cluster.pause(fault.targets[0])
                return _later(lambda: cluster.resume(pid)) if pid is not None else None
            case "full":
                await asyncio.to_thread(cluster.fill, fault.targets[0])
                return lambda: self._make_room(fault.targets[0])
            case "vendor":
                self._vendor_rules.append(fault.detail)
                await self._order()
                return lambda: self._no_longer(fault.detail)
            case _:
                return self._wires(fault)

    def _wires(self, fault: Fault) -> Callable[[], Any]:
        relays = [relay for name in fault.targets for relay in self.cluster.relays[name]]
        for relay in relays:
            match fault.kind:
                case "cut":
                    relay.cut()
                case "slow":
                    relay.slow(fault.detail)
                case kind:
                    relay.silence(up=kind != "deaf", down=kind != "mute")
        return _later(lambda: [relay.heal() for relay in relays])  # type: ignore[func-returns-value]  # for all of them

    async def _make_room(self, disk: str) -> None:
        self.cluster.empty(disk)
        if disk.startswith("nats"):
            self.cluster.terminate(disk)

    async def _no_longer(self, rule: dict[str, Any]) -> None:
        self._vendor_rules.remove(rule)
        await self._order()

    async def _order(self) -> None:
        """The faults of the vendors that are in force now; the first rule that matches counts."""
        url = f"{self.cluster.stack.vendor('stripe')}/_demo/faults"
        async with aiohttp.ClientSession() as session:
            answer = await session.post(url, json={"faults": [*self._vendor_rules, STREAM_PACE]})
            assert answer.status == 200, await answer.text()


def _sort(name: str) -> str:
    """What a process is, whichever of several."""
    return name.partition("-")[0]


def _later(undo: Callable[[], Any]) -> Callable[[], Any]:
    async def heal() -> None:
        undo()

    return heal
