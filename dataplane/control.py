"""Questions to the leading control plane, typed. Nothing here is ever certain to be answered.

An unanswered question is the ordinary case of a failover, so it is a value of the caller's life (`Unanswered`), not a
defect: every question may be asked again, because every answer is the same for a repeat (schemas.rpc).
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec

from events import subjects
from events.messaging.port import Bus, BusError, BusUnavailable
from schemas.policy import FeedDelta
from schemas.rpc import (
    CatchupAsk,
    JoinAnswer,
    JoinAsk,
    LeaseAnswer,
    LeaseAsk,
    ObjectAnswer,
    ObjectAsk,
    RatesAnswer,
    RatesAsk,
    RegisterAnswer,
    RegisterAsk,
    RpcError,
    SnapshotAsk,
    SnapshotChunk,
    UsageAnswer,
    UsageAsk,
)

T = TypeVar("T")

_ERROR_PREFIX = b'{"error":"rpc_error"'

FORGOTTEN_S = 10.0
"""A question that got no answer says nothing about now after so long without another one."""


class Unanswered(Exception):
    """No answer in time, or one that says to ask again. `early`: known before the time was over."""

    def __init__(self, why: str, *, early: bool) -> None:
        super().__init__(why)
        self.early = early


class ControlPlane:
    """Asks under one slot's name. `timeout_s` of each method is how long that single try may take."""

    def __init__(self, bus: Bus, slot: str) -> None:
        self._bus = bus
        self._slot = slot
        self.failures: Counter[str] = Counter()
        """Questions without an answer, by method, for metrics."""
        self._silent_since_s: float | None = None
        self._failed_s = 0.0
        self._encoder = msgspec.json.Encoder()
        self._errors = msgspec.json.Decoder(RpcError)
        self._join = msgspec.json.Decoder(JoinAnswer)
        self._snapshot = msgspec.json.Decoder(SnapshotChunk)
        self._delta = msgspec.json.Decoder(FeedDelta)
        self._lease = msgspec.json.Decoder(LeaseAnswer)
        self._object = msgspec.json.Decoder(ObjectAnswer)
        self._register = msgspec.json.Decoder(RegisterAnswer)
        self._usage = msgspec.json.Decoder(UsageAnswer)
        self._rates = msgspec.json.Decoder(RatesAnswer)

    @property
    def connected(self) -> bool:
        """Whether a question would leave now."""
        return self._bus.connected

    def silent_s(self) -> float:
        """For how long one question after the other got no answer; 0 if the newest did, or none was asked lately."""
        if self._silent_since_s is None or asyncio.get_running_loop().time() - self._failed_s > FORGOTTEN_S:
            return 0.0
        return self._failed_s - self._silent_since_s

    async def join(self, ask: JoinAsk, timeout_s: float) -> JoinAnswer:
        """A new incarnation. Raises Unanswered, as all of these do."""
        return await self._call("join", ask, self._join.decode, timeout_s)

    async def snapshot(self, cursor: str, timeout_s: float) -> SnapshotChunk:
        return await self._call("snapshot", SnapshotAsk(cursor), self._snapshot.decode, timeout_s)

    async def catchup(self, after_seq: int, timeout_s: float) -> FeedDelta:
        return await self._call("catchup", CatchupAsk(after_seq), self._delta.decode, timeout_s)

    async def lease(self, ask: LeaseAsk, timeout_s: float) -> LeaseAnswer:
        return await self._call("ask", ask, self._lease.decode, timeout_s)

    async def object(self, ask: ObjectAsk, timeout_s: float) -> ObjectAnswer:
        return await self._call("object", ask, self._object.decode, timeout_s)

    async def register(self, ask: RegisterAsk, timeout_s: float) -> RegisterAnswer:
        return await self._call("register", ask, self._register.decode, timeout_s)

    async def usage(self, key: str, timeout_s: float) -> UsageAnswer:
        return await self._call("usage", UsageAsk(key), self._usage.decode, timeout_s)

    async def rates(self, ask: RatesAsk, timeout_s: float) -> RatesAnswer:
        return await self._call("rates", ask, self._rates.decode, timeout_s)

    async def _call(self, method: str, ask: msgspec.Struct, decode: Callable[[bytes], T], timeout_s: float) -> T:
        try:
            payload = await self._bus.request(subjects.rpc(self._slot, method), self._encoder.encode(ask), timeout_s)
        except BusUnavailable as error:
            self._failed(method)
            raise Unanswered(f"{method}: {error}", early=True) from None
        except BusError as error:
            self._failed(method)
            raise Unanswered(f"{method}: {error}", early=False) from None
        self._silent_since_s = None
        try:
            if payload.startswith(_ERROR_PREFIX):
                self.failures[method] += 1
                refusal = self._errors.decode(payload)
                raise Unanswered(f"{method}: {refusal.code}: {refusal.message}", early=True)
            return decode(payload)
        except msgspec.DecodeError as error:
            raise Unanswered(f"{method}: the answer cannot be read: {error}", early=True) from None

    def _failed(self, method: str) -> None:
        self.failures[method] += 1
        now_s = asyncio.get_running_loop().time()
        if self._silent_since_s is None or now_s - self._failed_s > FORGOTTEN_S:
            self._silent_since_s = now_s
        self._failed_s = now_s
