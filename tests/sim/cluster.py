"""Nodes and control planes in one world, and an operator who repeats commands until they are carried out."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sim.control import Answered, SimControl
from sim.node import SimNode
from sim.world import World

from controlplane.commands import agents
from controlplane.commands.budgets import remove_budget, set_budget
from controlplane.commands.key_changes import change
from controlplane.commands.key_stops import resume, revoke, suspend
from controlplane.commands.keys import IssuedKey, KeyRules, issue
from controlplane.commands.requests import reconcile
from controlplane.errors import BarrierOpen, LogUnavailable, NotLeading
from events.types import By
from schemas.api import AgentPut, BudgetPut, KeyIssue, KeyPatch
from schemas.settings import Defaults

RULES = KeyRules(frozenset({"vendor"}), Defaults())
COMMAND_PATIENCE_S = 12.0
"""The leader itself gives up after ten seconds."""


class NoAnswer(AssertionError):
    """A command was not carried out for longer than any fault lasts."""


class Cluster:
    """`nodes` n1.., `controls` c1..; made inside a running virtual loop."""

    def __init__(self, world: World, nodes: int, controls: int) -> None:
        self.world = world
        self.nodes = [SimNode(world, f"n{number + 1}") for number in range(nodes)]
        self.controls = [SimControl(world, f"c{number + 1}") for number in range(controls)]
        self.controls[0].alone = controls == 1
        self._operations = 0

    @property
    def machines(self) -> Sequence[SimNode | SimControl]:
        return (*self.controls, *self.nodes)

    async def start(self) -> None:
        """Start everything, and wait until the nodes serve."""
        self.controls[0].start(at_once=True)
        for machine in self.machines[1:]:
            machine.start()
        await self.until_serving()

    async def until_serving(self, patience_s: float = 30.0) -> None:
        """Until some control plane leads, and every node that runs admits requests."""
        deadline_ns = self.world.now_ns() + round(patience_s * 1e9)
        while not self.serving:
            if self.world.now_ns() > deadline_ns:
                raise NoAnswer(f"no service: {[(node.name, node.ready) for node in self.nodes]}")
            await asyncio.sleep(0.01)

    @property
    def serving(self) -> bool:
        return self.leading is not None and all(node.ready for node in self.nodes if node.running)

    @property
    def leading(self) -> SimControl | None:
        """The control plane of the newest epoch that believes to lead."""
        found = [control for control in self.controls if control.leads]
        return max(found, key=lambda control: control.leader.epoch if control.leader else 0, default=None)

    @staticmethod
    def restart(machine: SimNode | SimControl) -> None:
        """Whatever runs there is killed; a new process starts."""
        machine.kill()
        machine.start()

    @staticmethod
    def usurp(control: SimControl) -> None:
        """A new process there takes over, whoever leads."""
        control.kill()
        control.start(at_once=True)

    # ------------------------------------------------------------ commands

    def by(self, what: str) -> By:
        """Each operation has a name of its own, by which the observer finds its events."""
        self._operations += 1
        return By(operator="op_sim", name="sim", reason=f"{what}-{self._operations}")

    async def command(self, decide: Any, by: By, answered: Answered, patience_s: float = 60.0) -> Any:
        """Ask one control plane after the other until one has carried it out. Raises CommandRefused."""
        deadline_ns = self.world.now_ns() + round(patience_s * 1e9)
        while self.world.now_ns() < deadline_ns:
            for control in sorted(self.controls, key=lambda control: not control.leads):
                try:
                    return await control.execute(decide, by, answered, COMMAND_PATIENCE_S)
                except (NotLeading, LogUnavailable, BarrierOpen, TimeoutError) as error:
                    self.world.observer.note(f"{by.reason} at {control.name}: {error!r}")
            await asyncio.sleep(0.05)
        raise NoAnswer(f"{by.reason} was not carried out within {patience_s:g} s")

    async def issue(self, **fields: Any) -> IssuedKey:
        """A new key; see schemas.api.KeyIssue."""
        by = self.by("issue")
        key: IssuedKey = await self.command(
            issue(KeyIssue(**fields), RULES), by, lambda _: self.world.observer.confirmed(by.reason)
        )
        return key

    async def revoke(self, reference: str, key_id: str = "") -> None:
        """DELETE a key; returns with its 204."""
        by, stops = self.by("revoke"), (f"key:{key_id or reference}",)
        await self.command(revoke(reference), by, lambda _: self.world.observer.confirmed(by.reason, stops))

    async def suspend(self, key_id: str) -> None:
        by, stops = self.by("suspend"), (f"key:{key_id}",)
        await self.command(suspend(key_id), by, lambda _: self.world.observer.confirmed(by.reason, stops))

    async def resume(self, key_id: str) -> None:
        by = self.by("resume")
        await self.command(resume(key_id), by, lambda _: self.world.observer.confirmed(by.reason))

    async def set_caps(self, kind: str, account_id: str, **caps: Any) -> None:
        """PUT a budget; see schemas.api.BudgetPut. Its windows turn in the account's zone."""
        by, account = self.by("caps"), f"{kind}:{account_id}"
        caps.setdefault("time_zone", self.world.observer.zone(account))
        await self.command(
            set_budget(kind, account_id, BudgetPut(**caps)),
            by,
            lambda _: self.world.observer.confirmed(by.reason, caps=account),
        )

    async def lift_caps(self, kind: str, account_id: str) -> None:
        by, account = self.by("lift"), f"{kind}:{account_id}"
        await self.command(
            remove_budget(kind, account_id), by, lambda _: self.world.observer.confirmed(by.reason, caps=account)
        )

    async def change_key(self, key_id: str, **fields: Any) -> None:
        """PATCH a key; see schemas.api.KeyPatch."""
        by, account = self.by("patch"), f"key:{key_id}"
        await self.command(
            change(key_id, KeyPatch(**fields), RULES),
            by,
            lambda _: self.world.observer.confirmed(by.reason, caps=account),
        )

    async def put_agent(self, name: str, owner: str) -> None:
        by = self.by("agent")
        await self.command(
            agents.put(name, AgentPut(owner=owner or None)), by, lambda _: self.world.observer.confirmed(by.reason)
        )

    async def suspend_agent(self, name: str) -> None:
        by, stops = self.by("suspend"), (f"agent:{name}",)
        await self.command(agents.suspend(name), by, lambda _: self.world.observer.confirmed(by.reason, stops))

    async def resume_agent(self, name: str) -> None:
        by = self.by("resume")
        await self.command(agents.resume(name), by, lambda _: self.world.observer.confirmed(by.reason))

    async def reconcile(self, request_id: str, actual: int) -> None:
        """Settle a request of unknown outcome by the vendor's own books."""
        by = self.by("reconcile")
        await self.command(reconcile(request_id, actual), by, lambda _: self.world.observer.confirmed(by.reason))
