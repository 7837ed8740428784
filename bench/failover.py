"""How long nobody leads: the active of two control planes is killed, or stands still, again and again."""

import asyncio
import contextlib
import os
import signal
import time

import aiohttp
from support.stack import Stack, running_stack

from bench.run import Run

KILLS = 10
PAUSES = 5
NAMES = ("control", "control-2")
PATIENCE_S = 60.0
LOOK_S = 0.01


async def run(run: Run) -> list[str]:
    """Markdown lines: from the signal to the first write that the other one has answered."""
    with running_stack(run.scratch / "failover", workers=1, arguments=("--controls", "2")) as stack:
        pair = Pair(stack)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {stack.token}"}) as pair.session:
            killed = [await pair.strike(signal.SIGKILL) for _ in range(KILLS)]
            paused = [await pair.strike(signal.SIGSTOP) for _ in range(PAUSES)]
    run.add("failover", "kill -9", "away_ms", killed)
    run.add("failover", "SIGSTOP", "away_ms", paused)
    return [
        "## Failover of the control plane: from the signal to the first write answered by the other one",
        "",
        "| | rounds | best ms | median ms | worst ms |",
        "|---|---|---|---|---|",
        _row("kill -9", killed),
        _row("SIGSTOP", paused),
        "",
    ]


class Pair:
    """Two control planes of one gateway."""

    session: aiohttp.ClientSession

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._urls = stack.urls["controls"].split(",")

    async def strike(self, number: signal.Signals) -> float:
        """Send the signal to the active one; returns the milliseconds until the other one does its work."""
        active, other = await self._roles()
        pid = self._stack.ready_pids()[NAMES[active]]
        began = time.perf_counter()
        os.kill(pid, number)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._writes(other):  # noqa: ASYNC110 - another process's state
                    await asyncio.sleep(LOOK_S)
            return (time.perf_counter() - began) * 1000
        finally:
            if number == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)

    async def _writes(self, number: int) -> bool:
        body = {"agent": "failover", "vendor": "stripe", "total_usd_cap": "1"}
        async with self.session.post(f"{self._urls[number]}/v1/keys", json=body) as answer:
            return answer.status == 201

    async def _roles(self) -> tuple[int, int]:
        """Which is active and which stands by, once both say so."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                roles = [await self._role(url) for url in self._urls]
                if sorted(roles) == ["leader", "standby"] and len(self._stack.ready_pids().keys() & {*NAMES}) == 2:
                    return roles.index("leader"), roles.index("standby")
                await asyncio.sleep(LOOK_S)

    async def _role(self, url: str) -> str:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return str((await answer.json())["role"])
        return ""


def _row(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"| {name} | {len(ordered)} | {ordered[0]:.0f} | {middle:.0f} | {ordered[-1]:.0f} |"
