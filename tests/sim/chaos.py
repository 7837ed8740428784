"""What goes wrong: pauses, kills, partitions, deafness, false fences, takeovers, storms, full or failing disks, clocks
that are set, as the seed has it.

Every fault is repaired after a while; `stop` repairs everything at once. A kill or a pause strikes either at a moment,
or at one of the next steps of the process, that is, at an arbitrary await of its code.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from sim.cluster import Cluster
from sim.control import SimControl
from sim.network import CALM, Weather
from sim.node import SimNode
from sim.trim import Trim
from sim.world import Machine

from events.codec import encode_batch
from events.log.port import UNBOUNDED, AppendUncertain
from events.subjects import CONTROL_STREAM, NODES_STREAM, node_fence
from events.types import Fenced

STORM = Weather(
    late_share=0.03,
    bus_loss=0.1,
    bus_double=0.05,
    publish_loss=0.05,
    publish_double=0.05,
    ack_loss=0.08,
    delivery_late_share=0.03,
)
GOSSIP = Weather(bus_late_share=0.15, bus_loss=0.15, bus_double=0.25)
"""What is said over the bus comes late, twice or never; the logs work."""
LAG = Weather(delivery_late_share=0.1)
"""Folds see late what is stored."""
RAIN = Weather(late_share=0.005, bus_loss=0.02, bus_double=0.02, publish_loss=0.01, ack_loss=0.01)


@dataclass(frozen=True, slots=True)
class Climate:
    """`weights`: how often each fault comes, relative to the others. `every_s`: the mean time between two of them."""

    weather: Weather = CALM
    every_s: float = 1.0
    weights: tuple[tuple[str, int], ...] = ()


CLIMATES: dict[str, Climate] = {
    "calm": Climate(),
    "rain": Climate(RAIN, 1.0, (("storm", 1),)),
    "gossip": Climate(GOSSIP),
    "lag": Climate(LAG, 1.0, (("slow_control", 4), ("takeover", 1))),
    "pauses": Climate(CALM, 0.5, (("pause", 4), ("pause_control", 2), ("storm", 1))),
    "kills": Climate(RAIN, 0.7, (("kill", 4), ("kill_control", 2), ("drain", 2), ("checkpoint", 2))),
    "cuts": Climate(CALM, 0.5, (("cut", 3), ("deaf", 2), ("fade", 4), ("unacked", 2), ("mute", 1), ("cut_control", 2))),
    "fences": Climate(CALM, 0.4, (("fence", 5), ("takeover", 1), ("storm", 1))),
    "takeovers": Climate(RAIN, 0.7, (("takeover", 4), ("pause_control", 3), ("kill_control", 2))),
    "disks": Climate(
        RAIN, 0.5, (("full", 3), ("refuse", 3), ("disk", 3), ("checkpoint", 4), ("kill_control", 2), ("storm", 1))
    ),
    "clocks": Climate(
        RAIN, 0.4, (("step", 4), ("step_control", 4), ("takeover", 2), ("pause_control", 1), ("kill", 1))
    ),
    "all": Climate(
        RAIN,
        0.4,
        (
            ("pause", 3),
            ("pause_control", 2),
            ("kill", 2),
            ("kill_control", 1),
            ("cut", 2),
            ("cut_control", 1),
            ("deaf", 1),
            ("fade", 2),
            ("unacked", 1),
            ("mute", 1),
            ("fence", 2),
            ("takeover", 1),
            ("drain", 1),
            ("checkpoint", 1),
            ("storm", 2),
            ("full", 1),
            ("refuse", 1),
            ("disk", 1),
            ("step", 1),
            ("step_control", 1),
        ),
    ),
}

STEPS_S = (-3600, 3600, -3600, 3600, -60, 60, -1, 1, -86400, 86400)
"""By how much wall clocks are set."""


class Chaos:
    """Breaks a cluster until it is stopped."""

    def __init__(self, cluster: Cluster, climate: Climate, trim: Trim) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._climate = climate
        self._trim = trim
        self._random = Random()
        self._repairs: list[asyncio.Task[None]] = []
        self._running: asyncio.Task[None] | None = None
        self.faults = 0

    def start(self) -> None:
        self._weather = self._climate.weather if self._trim.plays("weather") else CALM
        self._world.network.weather = self._weather
        if self._climate.weights:
            self._running = asyncio.create_task(self._run(), name="chaos")

    async def stop(self) -> None:
        """Nothing goes wrong any more: everybody lives, runs, and reaches everybody. Raises what ended it before."""
        for task in (*self._repairs, *((self._running,) if self._running else ())):
            if task.done():
                task.result()
            task.cancel()
        self._world.network.weather = CALM
        self._world.network.heal()
        for stream in (self._world.control, self._world.nodes):
            stream.max_bytes = UNBOUNDED
        for control in self._cluster.controls:
            control.checkpoints.broken = False
        for machine in self._cluster.machines:
            if machine.process is not None:
                machine.process.disarm()
            machine.resume()
            if not machine.alive or (isinstance(machine, SimNode) and machine.leaving):
                self._cluster.restart(machine)
        self._world.observer.note("CHAOS ENDS")
        await asyncio.sleep(0)

    async def _run(self) -> None:
        names = [name for name, _ in self._climate.weights]
        weights = [weight for _, weight in self._climate.weights]
        for number in count():
            random = self._random = self._trim.random(f"fault.{number}")
            await asyncio.sleep(random.expovariate(1 / self._climate.every_s))
            if self._trim.plays(f"fault.{number}"):
                fault = random.choices(names, weights)[0]
                self._world.observer.note(f"ITEM fault.{number}: {fault}")
                self._strike(fault)
                self.faults += 1
                self._world.observer.counts[f"fault {fault}"] += 1

    def _strike(self, fault: str) -> None:
        random, cluster = self._random, self._cluster
        machines: Sequence[SimNode | SimControl] = cluster.controls if fault.endswith("_control") else cluster.nodes
        machine = random.choice(machines)
        for_s = random.choice((0.05, 0.2, 0.45, 0.9, 2.0, 4.0)) * random.uniform(0.7, 1.3)
        match fault.removesuffix("_control"):
            case "pause":
                self._at_some_step(machine, machine.pause, machine.resume, for_s)
            case "kill":
                self._at_some_step(machine, machine.kill, lambda: cluster.restart(machine), for_s)
            case "cut" | "deaf" | "unacked" | "mute" as how:
                self._isolate(machine, how, for_s)
            case "fade":
                # Deaf first, so that a barrier fences it, then mute, so that it does not learn of that.
                self._isolate(machine, "deaf", for_s)
                self._repair(random.uniform(0.3, 0.6), lambda: self._isolate(machine, "mute", for_s))
            case "slow":
                self._world.observer.note(f"SLOW {machine.name}")
                self._world.network.slow[machine.name] = random.uniform(0.1, 0.7)
                self._repair(for_s, lambda: self._world.network.mend(machine.name))
            case "drain":
                node = random.choice([node for node in cluster.nodes if node.alive] or cluster.nodes)
                node.drain()
                self._repair(for_s, lambda: cluster.restart(node))
            case "checkpoint":
                for control in cluster.controls:
                    control.checkpoint()
            case "fence":
                self._false_fence(random.choice(cluster.nodes).incarnation)
            case "takeover":
                cluster.usurp(random.choice(cluster.controls))
            case "full":
                stream = random.choice((self._world.control, self._world.nodes))
                stream.max_bytes = stream.state().size_bytes + random.choice((0, 500, 20_000))
                self._repair(for_s, lambda: setattr(stream, "max_bytes", UNBOUNDED))
            case "refuse":
                name = random.choice((CONTROL_STREAM, NODES_STREAM))
                self._world.network.refusing.add(name)
                self._repair(for_s, lambda: self._world.network.refusing.discard(name))
            case "disk":
                self._break_disk(random.choice(cluster.controls), for_s)
            case "step":
                machine.clock.step(random.choice(STEPS_S) * 1_000_000_000 + random.randrange(-(10**9), 10**9))
            case _:
                self._world.network.weather = STORM
                self._repair(for_s, self._calm_down)

    def _at_some_step(
        self, machine: Machine, strike: Callable[[], None], repair: Callable[[], None], for_s: float
    ) -> None:
        """Now, or just before one of the next steps of the process."""

        def strike_and_repair() -> None:
            strike()
            self._repair(for_s, repair)

        if machine.process is None or self._random.random() < 0.3:
            strike_and_repair()
        else:
            machine.process.fuse(self._random.randrange(1, 60), strike_and_repair)

    def _isolate(self, machine: Machine, how: str, for_s: float) -> None:
        network = self._world.network
        self._world.observer.note(f"{how.upper()} {machine.name}")
        getattr(network, how).add(machine.name)
        self._repair(for_s, lambda: network.mend(machine.name))

    def _false_fence(self, incarnation: str) -> None:
        """Somebody fences a healthy node, as a control plane that is wrong about it would."""
        if not incarnation:
            return
        slot = incarnation.split("-", maxsplit=1)[0]
        self._world.observer.note(f"FALSE FENCE {incarnation}")
        payload = encode_batch("somebody", 0, self._world.wall_ns(), (Fenced(incarnation, "false"),))
        with contextlib.suppress(AppendUncertain):  # nobody fences where nothing can be stored
            self._world.nodes.store(node_fence(slot, incarnation), payload, None, None)

    def _break_disk(self, control: SimControl, for_s: float) -> None:
        """It takes no checkpoint for a while; or it has lost the end of the last one, and the power with it."""
        if self._random.random() < 0.5:
            control.checkpoints.broken = True
            self._repair(for_s, lambda: setattr(control.checkpoints, "broken", False))
        else:
            control.checkpoints.tear(self._random.random())
            control.kill()
            self._repair(for_s, lambda: self._cluster.restart(control))

    def _calm_down(self) -> None:
        self._world.network.weather = self._weather

    def _repair(self, after_s: float, repair: Callable[[], None]) -> None:
        async def later() -> None:
            await asyncio.sleep(after_s)
            repair()

        self._repairs.append(asyncio.create_task(later(), name="repair"))
