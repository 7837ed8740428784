"""Agents, keys and budgets of a story: who there is, and how they are made."""

from dataclasses import dataclass
from random import Random
from typing import Any

from sim.cluster import Cluster
from sim.trim import Trim

from controlplane.errors import CommandRefused
from schemas.api import Span, Usd

EXPIRES_IN = Span(30 * 86_400)
"""Longer than any clock is set forward by."""


@dataclass(slots=True)
class Key:
    """`declared`: it is shared, and each call names its agent."""

    id: str
    token: str
    agent: str
    declared: bool
    revoked: bool = False

    @property
    def probing(self) -> str:
        """The agent that the reckoning speaks for."""
        return "bot0" if self.declared else self.agent

    @property
    def identity_of_probe(self) -> str:
        return "name=bot0" if self.declared else ""


class People:
    """`keys` grows in the course of the story."""

    def __init__(self, cluster: Cluster, trim: Trim, agents: int) -> None:
        self._cluster = cluster
        self._trim = trim
        self.agents = [f"bot{number}" for number in range(agents)]
        self.keys: list[Key] = []

    async def set_up(self) -> None:
        for agent in self.agents:
            await self._cluster.put_agent(agent, self._trim.random(agent).choice(("", "red", "blue")))
            await self._cap("agent", agent, 0.5, 60, 400)
        await self._cap("team", "red", 0.4, 100, 500)
        await self._cap("org", "default", 0.3, 200, 600)
        for number in range(self._trim.random("keys").choice((1, 2, 3, 4))):
            if number == 0 or self._trim.plays(f"key.{number}"):
                await self.issue(self._trim.random(f"key.{number}"))

    async def _cap(self, kind: str, account: str, share: float, least: int, most: int) -> None:
        item = f"cap.{kind}:{account}"
        random = self._trim.random(item)
        if random.random() < share and self._trim.plays(item):
            await self._cluster.set_caps(kind, account, **caps(random, least, most))

    async def issue(self, random: Random) -> None:
        limits = caps(random, 40, 300)
        if random.random() < 0.1:
            limits["max_uses"] = random.randrange(3, 20)
        if random.random() < 0.1:
            limits["on_exhausted"] = "suspend"
        agent = random.choice(self.agents)
        # Some keys are shared: each call declares its agent, and may bring a new one.
        declared = random.random() < 0.15
        whose: dict[str, Any] = {"identity": "declared", "allow_unknown_agents": True} if declared else {"agent": agent}
        try:
            issued = await self._cluster.issue(**whose, **limits, expires_in=EXPIRES_IN)
        except CommandRefused:
            return  # its agent is suspended just now
        self.keys.append(Key(issued.id, issued.token, agent, declared))

    def identity(self, random: Random, key: Key) -> str:
        """Which agent a call with the key names."""
        name = random.choice((*self.agents, "guest1", "guest2"))
        return f"name={name}" if key.declared else ""


def caps(random: Random, least: int, most: int) -> dict[str, Any]:
    """Caps of an account; a unit is a nano-dollar. Some have several windows, which turn at different times."""
    windows = ("total_usd_cap", "hourly_usd_cap", "daily_usd_cap", "monthly_usd_cap")
    chosen = random.choices(windows, (3, 3, 3, 1), k=random.choice((1, 1, 1, 2)))
    amounts: dict[str, Any] = {window: Usd(random.randrange(least, most)) for window in chosen}
    if random.random() < 0.15:
        amounts["per_request_usd_cap"] = Usd(random.randrange(10, 26))
    if random.random() < 0.15:
        amounts["hourly_request_cap"] = random.randrange(5, 40)
    if random.random() < 0.15:
        amounts["refund_daily_usd_cap"] = Usd(random.randrange(20, 100))
    return amounts
