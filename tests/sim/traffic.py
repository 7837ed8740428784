"""A request's way through a node, as the proxy drives the governor, and what became of it.

The steps and their order are the proxy's (docs/ARCHITECTURE.md); HTTP, adapters and connections are left out, and what
the vendor will do is part of the request. Whatever the driver does towards the vendor or the client it tells the
observer in the same step.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.books import METERS
from sim.observer import Observer
from sim.vendor import Answer, Plan, Vendor

from dataplane.adapters.port import Outcome
from dataplane.core.access import Caller, allow
from dataplane.core.repeats import repeat_digest
from dataplane.governor import AGAIN, STALE, Admission, Governor, Wanted, again
from events.types import ObjectExposure
from schemas import ids
from schemas.amounts import Amounts
from schemas.refusals import Refusal

UPSTREAM = "vendor"
SEGMENTS = ("v1", "pay")
MAX_ADMISSIONS = 3
"""How often a request is admitted anew after a fence, before its client is told to try again."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client sends, and what will become of it.

    `bound`: in the meter of `plan`; unless it is about an object (`plan.ref`), whose bound is the difference.
    `connects_s`: from admission to the first byte. `patience_s`: until the vendor's answer counts as lost.
    `resends`: the first connection turns out dead before the vendor has read anything. `idempotency`: its key, for a
    call that makes an object (`plan.ref`) and may be repeated.
    """

    token: str
    bound: int
    plan: Plan
    stream: bool = False
    identity: str = ""
    connects_s: float = 0.0
    patience_s: float = 1.0
    tokens: int = 0
    resends: bool = False
    idempotency: str = ""


@dataclass(slots=True)
class Record:
    """What became of a call. `end`: "" while it is under way, `sent`, `cut`, `unknown`, or a refusal's code."""

    call: Call
    arrived_ns: int
    node: str = ""
    key: str = ""
    end: str = ""
    ended_ns: int = 0
    request_ids: list[str] = field(default_factory=list)
    died: bool = False


class Traffic:
    """Drives calls through the governor of one process."""

    def __init__(
        self,
        governor: Governor,
        vendor: Vendor,
        observer: Observer,
        now_ns: Callable[[], int],
        draw: Callable[[int], bytes],
    ) -> None:
        self._governor = governor
        self._vendor = vendor
        self._observer = observer
        self._now_ns = now_ns
        self._draw = draw

    async def run(self, record: Record) -> None:
        """The whole way of one call. Runs inside the node's process."""
        end = await self._way(record)
        record.end = end if isinstance(end, str) else end.code
        record.ended_ns = self._now_ns()
        self._observer.note(f"END {record.request_ids} at {record.node}: {record.end}")

    async def _way(self, record: Record) -> str | Refusal:
        governor, call = self._governor, record.call
        found = governor.find_key((call.token,))
        if isinstance(found, Refusal):
            return found
        key, digest = found
        record.key = key.id
        caller = await governor.caller(key, (call.identity,) if call.identity else ())
        if isinstance(caller, Refusal):
            return caller
        if (refusal := allow(caller, UPSTREAM, "POST", SEGMENTS)) is not None:
            return refusal
        bound = call.bound
        if call.plan.ref and not call.idempotency:
            answer = await governor.object(call.plan.ref)
            if isinstance(answer, Refusal):
                return answer
            bound = max(0, call.plan.moves - (answer.counted_usd_nanos or 0))
        wanted = self._wanted(call, caller, digest, bound)
        for _ in range(MAX_ADMISSIONS):
            end = await self._once(record, wanted)
            if isinstance(end, str) or not again(end):
                return end
        return AGAIN

    async def _once(self, record: Record, wanted: Wanted) -> str | Refusal:
        """Admit, send, settle. AGAIN: it was released, through no fault of its own."""
        request_id = ids.request_id(self._draw(ids.ID_BYTES))
        record.request_ids.append(request_id)
        admission = await self._governor.admit(wanted, request_id)
        if isinstance(admission, Refusal):
            return self._told(record, admission, wanted)
        record.request_ids[-1] = admission.request_id
        try:
            if record.call.connects_s:
                await asyncio.sleep(record.call.connects_s)
            refusal = await self._may_send(admission)
        except asyncio.CancelledError:
            self._governor.release(admission, "client_gone")
            raise
        if refusal is not None:
            return refusal
        return await self._sent(record, admission)

    async def _may_send(self, admission: Admission) -> Refusal | None:
        """Rule A3. The caller sends in the step in which this returns None."""
        while (refusal := self._governor.check_dispatch(admission)) is STALE:
            refusal = await self._governor.revalidate(admission)
            if refusal is not None:
                return refusal
        return refusal

    async def _sent(self, record: Record, admission: Admission) -> str | Refusal:
        call = record.call
        if call.resends:
            lost = Plan(0, acts_s=float("inf"))
            self._vendor.call(admission.request_id, record.key, lost, call.idempotency)
            await asyncio.sleep(call.connects_s)
            if (refusal := await self._may_send(admission)) is not None:
                self._governor.settle(admission, Outcome("unknown", error="connection"))
                return "unknown" if again(refusal) else refusal
        answering = self._vendor.call(admission.request_id, record.key, call.plan, call.idempotency)
        cut: list[Refusal] = []
        admission.on_cut = cut.append
        if admission.refusal is not None:
            cut.append(admission.refusal)
        try:
            async with asyncio.timeout(call.patience_s):
                answer = await answering
        except TimeoutError:
            self._governor.settle(admission, Outcome("unknown", error="timeout"), latency_us=1)
            return "unknown"
        relayed = not call.stream or await self._relay(record, admission, cut)
        outcome = self._outcome(call, answer)
        if outcome.replayed:
            outcome = await self._as_of_now(admission, outcome)
        self._governor.settle(admission, outcome, status=200, latency_us=1)
        return "sent" if relayed else "cut"

    async def _as_of_now(self, admission: Admission, outcome: Outcome) -> Outcome:
        """As dataplane.relay does: a replayed answer shows its object as it was then (rule S1)."""
        assert outcome.object is not None
        known = await self._governor.object(outcome.object.ref, admission)
        if isinstance(known, Refusal):
            return outcome.without_object(replayed=False)
        counted = known.counted_usd_nanos
        if counted is None or (known.earlier_unknown and outcome.object.exposure_nanos > counted):
            return outcome
        return outcome.without_object(replayed=True)

    async def _relay(self, record: Record, admission: Admission, cut: list[Refusal]) -> bool:
        """A stream's chunks, one by one. False: it was cut."""
        for _ in range(record.call.plan.chunks):
            await asyncio.sleep(record.call.plan.chunk_s)
            if cut or self._governor.check_relay(admission) is not None:
                return False
            self._observer.relayed(admission.request_id)
        return True

    def _told(self, record: Record, refusal: Refusal, wanted: Wanted) -> Refusal:
        """Judge a cap refusal with the bound that was asked for."""
        line = refusal.details.get("line", "")
        if line:
            amount = wanted.bound.of(line.split(":")[2])
            self._observer.refused(record.request_ids[-1], line, amount, record.arrived_ns, record.node)
        elif refusal.code in {"cap_exhausted", "key_spent"}:
            self._observer.blame(f"P2: a cap's refusal names no line: {refusal}")
        return refusal

    @staticmethod
    def _wanted(call: Call, caller: Caller, digest: bytes, bound: int) -> Wanted:
        return Wanted(
            caller=caller,
            digest=digest,
            upstream=UPSTREAM,
            operation="pay",
            method="POST",
            path="/v1/pay",
            segments=SEGMENTS,
            bound=amounts(call, bound),
            stream=call.stream,
            idempotency=repeat_digest(UPSTREAM, "", caller.key.id, call.idempotency),
        )

    @staticmethod
    def _outcome(call: Call, answer: Answer) -> Outcome:
        if answer.exposure is not None:
            thing = ObjectExposure(call.plan.ref, answer.exposure, final=answer.final)
            return Outcome("settled", Amounts(requests=1), thing, replayed=answer.replayed)
        return Outcome("settled", amounts(call, answer.moved))


def amounts(call: Call, amount: int) -> Amounts:
    """A request that takes `amount` of its plan's meter."""
    values = dict.fromkeys(METERS, 0) | {"requests": 1, "tokens": call.tokens} | {call.plan.meter: amount}
    return Amounts(**values)
