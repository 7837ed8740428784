"""What agents and operators do during a storm: charges, streams, keys near their caps, keys that are revoked.

| who | does |
|---|---|
| ample | charges, far from any cap; must never see a refusal for its cap |
| tight | charges near its cap, which operators raise and lower |
| mates | two keys that share an agent's daily cap |
| doomed | issued, used, revoked while it is used; then another |
| stream | streamed chat completions |

A call that got no answer, or a 5xx of ours, is sometimes tried again under the same idempotency key.
"""

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from chaos.cluster import Cluster
from support.load import connector

TIMEOUT = aiohttp.ClientTimeout(total=40)
OPERATOR_TIMEOUT = aiohttp.ClientTimeout(total=15)
SERVING_S = 120.0
IN_A_ROW = 60
AMPLE_CAP = "1000000.00"
TIGHT_CAP_CENTS = 1_500
MATES_CAP_CENTS = 6_000
STREAM_CAP = "500.00"
MATES = "agent:chaos-mates"
CHAT = {
    "model": "gpt-5-mini", "stream": True, "max_completion_tokens": 120,
    "messages": [{"role": "user", "content": "Tell me about the sea."}],
}  # fmt: skip


@dataclass
class Call:
    """One try of one call. Times: CLOCK_MONOTONIC nanoseconds, as the vendor's log has them. `cents`: 0 for a chat."""

    key: str
    name: str
    cents: int
    began_ns: int
    status: int = 0
    refusal: str = ""
    request_id: str = ""
    ended_ns: int = 0


@dataclass
class Key:
    """A key of the test. `capped`: whether a refusal for its cap may be right. Its DELETE began and was answered."""

    id: str
    token: str
    role: str
    capped: bool = False
    revoking_ns: int = 0
    revoked_ns: int = 0


@dataclass
class Traffic:
    """Everything that was done, for the reckoning. `answered`: when changes of a cap (account, window) were confirmed,
    in nanoseconds of the wall clock, as the logs have them.
    """

    calls: list[Call] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    revocations: int = 0
    answered: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def confirmed(self, account: str, window: str) -> None:
        self.answered[account, window].append(time.time_ns())

    def outcomes(self) -> Counter[str]:
        return Counter(f"{self.keys[call.key].role} {call.refusal or call.status}" for call in self.calls)


class Operators:
    """Commands to whichever control plane answers, until one has."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._session = session
        self._numbers = itertools.count(1)

    async def do(self, method: str, path: str, body: Any = None) -> Any:
        """Raises OperatorRefused for a 4xx. Everything else is tried again, under one idempotency key."""
        headers = {
            "Authorization": f"Bearer {self._cluster.stack.token}",
            "Idempotency-Key": f"chaos-{next(self._numbers)}",
        }
        for url in itertools.cycle(self._cluster.controls):
            try:
                async with self._session.request(
                    method, url + path, json=body, headers=headers, timeout=OPERATOR_TIMEOUT
                ) as answer:
                    if answer.status < 300:
                        return await answer.json() if answer.status != 204 else None
                    if answer.status < 500 and answer.status != 409:
                        raise OperatorRefused(f"{method} {path}: {answer.status} {await answer.text()}")
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(0.1)
        raise AssertionError  # the cycle never ends

    async def issue(self, role: str, **fields: Any) -> Key:
        issued = await self.do("POST", "/v1/keys", {"agent": f"chaos-{role}", **fields})
        return Key(issued["id"], issued["token"], role)


class OperatorRefused(Exception):
    """A command was refused, which no fault explains."""


class Load:
    """Clients and operators at work, between `start` and `stop`. `rng` decides amounts and pauses."""

    def __init__(self, cluster: Cluster, seed: int, scale: float = 1.0) -> None:
        self._cluster = cluster
        self._rng = random.Random(f"load {seed}")
        self._pause_s = 0.05 / scale
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1)
        self.traffic = Traffic()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=connector(100), timeout=TIMEOUT)
        self._control = aiohttp.ClientSession(connector=connector(20))
        self.operators = Operators(self._cluster, self._control)
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._session.close()
        await self._control.close()

    async def stop(self) -> None:
        """Begin nothing more; returns when everything under way has ended. Raises what a client or operator raised."""
        self._stopped.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def until_serving(self) -> None:
        """The keys that are far from their caps are served again, many times in a row: the faults are over."""
        deadline = time.monotonic() + SERVING_S
        while True:
            sound = [call for call in self.traffic.calls if self.traffic.keys[call.key].role in {"ample", "stream"}]
            if len(sound) >= IN_A_ROW and all(call.status == 200 for call in sound[-IN_A_ROW:]):
                return
            assert time.monotonic() < deadline, self.traffic.outcomes()
            await asyncio.sleep(0.1)

    async def _begin(self) -> None:
        ample = await self._key("ample", vendor="stripe", total_usd_cap=AMPLE_CAP)
        tight = [await self._key("tight", vendor="stripe", total_usd_cap=_dollars(TIGHT_CAP_CENTS)) for _ in range(2)]
        mates = [await self._key("mates", vendor="stripe", total_usd_cap=AMPLE_CAP) for _ in range(2)]
        await self.operators.do(
            "PUT", "/v1/budgets/agent/chaos-mates", {"daily_usd_cap": _dollars(MATES_CAP_CENTS)}
        )  # fmt: skip
        self.traffic.confirmed(MATES, "day")
        streams = [await self._key("stream", vendor="openai", total_usd_cap=STREAM_CAP) for _ in range(2)]
        for key in (*tight, *mates):
            key.capped = True
        for key in (ample, ample, ample, *tight, *tight, *mates):
            self._go(self._charge(key))
        for key in streams:
            self._go(self._chat(key))
        self._go(self._doom("stripe", self._charge))
        self._go(self._doom("openai", self._chat))
        self._go(self._change_caps([key.id for key in tight]))

    async def _key(self, role: str, **fields: Any) -> Key:
        key = await self.operators.issue(role, **fields)
        self.traffic.keys[key.id] = key
        self.traffic.confirmed(f"key:{key.id}", "total")
        return key

    def _go(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    # ------------------------------------------------------------ agents

    async def _charge(self, key: Key, until: Callable[[], bool] = lambda: False) -> None:
        while not self._stopped.is_set() and not until():
            name, cents = f"c{next(self._numbers)}", self._rng.randint(1, 90)
            call = await self._pay(key, name, cents)
            if not call.refusal and call.status != 200 and self._rng.random() < 0.7:
                await self._nap(0.3)
                await self._pay(key, name, cents)  # the same call again: the vendor answers it once
            await self._nap(self._pause_s if call.status == 200 else 4 * self._pause_s)

    async def _pay(self, key: Key, name: str, cents: int) -> Call:
        form = {"amount": str(cents), "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
        headers = {"Idempotency-Key": name}
        url = f"{self._cluster.stack.stripe}/v1/payment_intents"
        return await self._call(Call(key.id, name, cents, time.monotonic_ns()), key, url, headers, data=form)

    async def _chat(self, key: Key, until: Callable[[], bool] = lambda: False) -> None:
        while not self._stopped.is_set() and not until():
            call = Call(key.id, f"s{next(self._numbers)}", 0, time.monotonic_ns())
            await self._call(call, key, f"{self._cluster.stack.openai}/chat/completions", {}, json=CHAT)
            await self._nap(4 * self._pause_s)

    async def _call(self, call: Call, key: Key, url: str, headers: dict[str, str], **body: Any) -> Call:
        headers = {"Authorization": f"Bearer {key.token}", "X-Demo-Marker": f"{key.id} {call.name}", **headers}
        try:
            async with self._session.post(url, headers=headers, **body) as answer:
                call.status = answer.status
                call.refusal = answer.headers.get("X-Ringfence-Refusal", "")
                call.request_id = answer.headers.get("X-Ringfence-Request-Id", "")
                await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            call.status = call.status if call.refusal else 0
        call.ended_ns = time.monotonic_ns()
        self.traffic.calls.append(call)
        return call

    # ------------------------------------------------------------ operators

    async def _doom(self, vendor: str, use: Callable[..., Any]) -> None:
        """Keys that are revoked while two clients use them, and a while longer."""
        while not self._stopped.is_set():
            key = await self._key("doomed", vendor=vendor, total_usd_cap="200.00")
            over = asyncio.Event()
            clients = [asyncio.create_task(use(key, over.is_set)) for _ in range(2)]
            await self._nap(self._rng.uniform(0.5, 4.0))
            key.revoking_ns = time.monotonic_ns()
            await self.operators.do("DELETE", f"/v1/keys/{key.id}")
            key.revoked_ns = time.monotonic_ns()
            self.traffic.revocations += 1
            await self._nap(1.0)
            over.set()
            await asyncio.gather(*clients)

    async def _change_caps(self, keys: list[str]) -> None:
        """Mostly up, so that there is something to spend; now and then below what is spent."""
        caps = dict.fromkeys(keys, TIGHT_CAP_CENTS)
        mates = MATES_CAP_CENTS
        while not self._stopped.is_set():
            await self._nap(self._rng.uniform(1.0, 3.0))
            key = self._rng.choice(keys)
            caps[key] += self._rng.choice((400, 700, 1_000, -300))
            await self.operators.do("PATCH", f"/v1/keys/{key}", {"total_usd_cap": _dollars(caps[key])})
            self.traffic.confirmed(f"key:{key}", "total")
            if self._rng.random() < 0.5:
                mates += self._rng.choice((600, 900, -200))
                await self.operators.do("PUT", "/v1/budgets/agent/chaos-mates", {"daily_usd_cap": _dollars(mates)})
                self.traffic.confirmed(MATES, "day")

    async def _nap(self, length_s: float) -> None:
        try:
            async with asyncio.timeout(length_s):
                await self._stopped.wait()
        except TimeoutError:
            return


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
