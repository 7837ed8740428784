"""A governor over memory bus and stream, in virtual time, against a scripted control plane."""

import asyncio
import functools
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sim.loop import run_virtual
from support.scripted_control import ScriptedControl

from dataplane.adapters.port import Outcome
from dataplane.governor import STALE, Admission, Governor, Wanted
from events.log.faults import ACK_LOST, LOST, SOUND, PublishFate
from schemas.accounts import Cap
from schemas.amounts import Amounts
from schemas.policy import Record
from schemas.refusals import Refusal
from schemas.settings import Timing

TOKEN = "rfk_live"
DIGEST = hashlib.sha256(TOKEN.encode()).digest()
DAY = "key:vk_1:usd:day:1763596800"
SLOW = 3600.0


class Faults:
    """Stream faults of one node: the next publishes' fates, then `rest` for all others."""

    def __init__(self) -> None:
        self.next: list[PublishFate] = []
        self.rest = SOUND
        self.published = 0

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        self.published += 1
        return self.next.pop(0) if self.next else self.rest

    def delivery_delay_s(self, sequence: int) -> float:
        return 0.0


class BusFaults:
    """`lose(sender, receiver, subject)` says which messages vanish."""

    def __init__(self) -> None:
        self.lose: Callable[[str, str, str], bool] = lambda *_: False

    def deliveries_s(self, sender: str, receiver: str, subject: str) -> tuple[float, ...]:
        return () if self.lose(sender, receiver, subject) else (0.001,)


class Rig:
    """One control plane and one node `n1`."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.bus_faults = BusFaults()
        self.faults = Faults()
        self.control = ScriptedControl(self.bus_faults)
        self.timing = timing or Timing()
        self.random = random.Random(1)
        self.governor = self.make("n1")
        self.requests = 0

    def make(self, slot: str) -> Governor:
        port = self.control.port(self.faults)
        bus = self.control.bus.client(slot)
        clock = self.control.clock
        return Governor(bus, port, clock, slot=slot, timing=self.timing, draw=self.random.randbytes)

    async def start(self, *caps: Cap, **key: Any) -> None:
        control = self.control
        await control.start()
        records: list[Record] = [control.key(tokens=(DIGEST.hex(),), **key), control.agent(owner="finance")]
        control.record(*records, *([control.caps("key", "vk_1", *caps)] if caps else []))
        await self.governor.start()
        await until(lambda: self.governor.ready)

    async def stop(self) -> None:
        await self.governor.close()
        await self.control.stop()
        assert not self.governor.defect.done(), f"task {self.governor.defect.result()} failed"

    async def wanted(
        self, usd: int = 0, *, stream: bool = False, tokens: int = 0, token: str = TOKEN, idempotency: str = ""
    ) -> Wanted | Refusal:
        found = self.governor.find_key([token])
        if isinstance(found, Refusal):
            return found
        caller = await self.governor.caller(found[0], [])
        if isinstance(caller, Refusal):
            return caller
        bound = Amounts(usd=usd, requests=1, tokens=tokens)
        path, segments = "/v1/charges", ("v1", "charges")
        call = ("stripe", "charges.create", "POST", path, segments)
        return Wanted(caller, found[1], *call, bound, stream=stream, idempotency=idempotency)

    async def admit(
        self, usd: int = 0, *, stream: bool = False, tokens: int = 0, idempotency: str = ""
    ) -> Admission | Refusal:
        wanted = await self.wanted(usd, stream=stream, tokens=tokens, idempotency=idempotency)
        if isinstance(wanted, Refusal):
            return wanted
        self.requests += 1
        return await self.governor.admit(wanted, f"req_{self.requests}")

    async def admitted(
        self, usd: int = 0, *, stream: bool = False, tokens: int = 0, idempotency: str = ""
    ) -> Admission:
        admission = await self.admit(usd, stream=stream, tokens=tokens, idempotency=idempotency)
        assert isinstance(admission, Admission), admission
        return admission

    def settle(self, admission: Admission, usd: int, tokens: int = 0) -> None:
        self.governor.settle(admission, Outcome("settled", Amounts(usd=usd, requests=1, tokens=tokens)))

    async def dispatched(self, usd: int = 0, *, stream: bool = False, idempotency: str = "") -> Admission:
        admission = await self.admitted(usd, stream=stream, idempotency=idempotency)
        assert self.governor.check_dispatch(admission) is None
        return admission

    async def dispatched_tokens(self, tokens: int) -> Admission:
        admission = await self.admitted(tokens=tokens)
        assert self.governor.check_dispatch(admission) is None
        return admission

    async def rejoined(self, count: int) -> None:
        await until(lambda: len(self.control.joined) >= count and self.governor.ready)


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run() -> None:
        run_virtual(test())

    return run


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait, in virtual time, until it holds."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)


def start(awaitable: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(awaitable)


def code(value: object) -> str:
    """The refusal's code; "" for anything else."""
    return value.code if isinstance(value, Refusal) else ""


__all__ = [
    "ACK_LOST",
    "DAY",
    "LOST",
    "STALE",
    "TOKEN",
    "Awaitable",
    "Faults",
    "Rig",
    "code",
    "start",
    "until",
    "virtual",
]
