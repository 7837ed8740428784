"""Admission: rate, leases, intent, acknowledgement. Steps 6, 8 and 9 of a request's way (docs/ARCHITECTURE.md).

Between two awaits everything is decided anew: the policy, the caps, the windows and the incarnation may all have
changed while the request waited for leases. What is decided and what is appended are one step, so an intent is in the
log only if it was right under the policy of that very moment.

| what happens while it waits | then |
|---|---|
| its key, agent, endpoint or model is no longer allowed | refused with that reason |
| a window turns, or caps change | its needs are derived anew |
| the incarnation is fenced, for leases or for the intent | admitted again, under a new request id, by the next one |
| the intent is not acknowledged in time | released in the log, 503 `log_unavailable` |
"""

import asyncio
from typing import Final

from dataplane.core.access import Caller, flow_of, still_allowed
from dataplane.core.lines import check_single, needs
from dataplane.core.ratelimit import Take, Taken, TooFast, retry_after_s
from dataplane.ends import Ends
from dataplane.inflight import Admission, Incarnation, State, Wanted
from dataplane.leases import LeaseDesk, Obtained
from dataplane.membership import Membership
from dataplane.node import Node
from events.log.group import Appended
from events.log.port import LogError
from events.log.writer import Fenced, LogClosed
from events.types import RequestAdmitted, RequestRevalidated
from schemas import ids
from schemas.refusals import Refusal, refuse
from schemas.settings import MS

JOIN_POLL_S: Final = 0.005
"""While a re-join is under way, a request looks this often whether it is over; a fence costs milliseconds (F3)."""

TURNED_PAUSE_S: Final = 0.02
"""Between two asks when the ledger's clock says that the window is another one."""

MAX_INTENTS: Final = 3
"""Intents of one request that may be lost to fences and lowered caps, before it is told to try again."""

MAX_PROOFS: Final = 3
"""Appends that `revalidate` makes before it gives up."""

AGAIN: Final = refuse("log_unavailable", "this node lost its incarnation before the request was sent; try again")
"""The admission was released through no fault of the request: admit it again."""

CAPS_CHANGED: Final = refuse(
    "budget_unavailable", "caps changed before the request was sent, again and again; try again"
)
"""The same, because of a cap or an account that changed under it (G8)."""

STALE: Final = refuse("log_unavailable", "the node's proof is too old to send anything; try again")
"""The admission stands, but needs a fresh proof: `revalidate` it."""

_NO_ACK: Final = refuse("log_unavailable", "the intent was not acknowledged in time; nothing was sent")
_NO_LOG: Final = refuse("log_unavailable", "the event log takes nothing now; nothing was sent")
_NO_BUDGET: Final = refuse("budget_unavailable", "the budget could not be reserved in time; nothing was sent")


Held = tuple[LeaseDesk, dict[str, int]] | None
"""A reservation for which there is no intent yet."""

Verdict = tuple[Caller, dict[str, int], int]
"""The caller, its needs, and the elapsed time at which this was said."""


LEASE_WAITS: Final = 8
"""The ledger gives up after `lease_wait_ms`, or eight times that while money is on its way back (rule G6); giving up
here before it has answered would turn exact refusals into 503s on a busy machine."""


class TooLate(Exception):
    """The intent is not acknowledged, and the request has waited long enough."""


class Admitter:
    """Admits the requests of one node."""

    def __init__(self, node: Node, ends: Ends, membership: Membership) -> None:
        self._node = node
        self._ends = ends
        self._membership = membership
        self._lease_wait_ns = LEASE_WAITS * node.timing.lease_wait_ms * MS
        self._admit_timeout_ns = node.timing.admit_timeout_ms * MS

    async def admit(self, wanted: Wanted, request_id: str) -> Admission | Refusal:
        """Admit a request, or say why not. The admission's id may differ from `request_id` after a fence."""
        takes, taken = self._take_rate(wanted)
        if isinstance(taken, TooFast):
            taken = await self._node.rates.take(takes, taken)
            if isinstance(taken, TooFast):
                return _rate_limited(taken)
        deadline_ns = 0
        flow = flow_of(wanted.caller.key)
        refusal: Refusal = AGAIN
        for attempt in range(MAX_INTENTS):
            name = request_id if attempt == 0 else ids.request_id(self._node.draw(ids.ID_BYTES))
            admission = self._at_once(wanted, name, takes, taken)
            if admission is None:
                deadline_ns = deadline_ns or self._node.clock.elapsed_ns() + self._lease_wait_ns
                admission = await self._reserve(wanted, name, deadline_ns, takes, taken)
            if isinstance(admission, Refusal):
                self._ends.correct_rates(takes, taken, 0)
                return admission
            # Waiting for the log is the node's work; waiting for a lease, above, is not, and may take seconds.
            self._node.shedder.hold(flow)
            try:
                failed = await self._acknowledge(admission)
            finally:
                self._node.shedder.release(flow)
            if failed is None:
                return admission
            refusal = failed
            if not again(refusal):
                return refusal
        return refusal

    # ------------------------------------------------------------------ rate

    def _take_rate(self, wanted: Wanted) -> tuple[list[Take], list[Taken] | TooFast]:
        limits = wanted.caller.limits
        if not limits:
            return [], []
        node, bound = self._node, wanted.bound
        takes = [
            Take(limit.bucket, limit.per_minute, bound.tokens if limit.tokens else 1, tokens=limit.tokens)
            for limit in limits
        ]
        return takes, node.limits.take(takes, node.clock.elapsed_ns())

    # ------------------------------------------------------------------ leases and intent

    def _at_once(self, wanted: Wanted, name: str, takes: list[Take], taken: list[Taken]) -> Admission | Refusal | None:
        """What `_reserve` does where nothing must be waited for: far from every cap, always. None: wait."""
        incarnation = self._membership.current
        if incarnation is None or self._node.closed() is not None:
            return None
        verdict = self._judge(wanted)
        if isinstance(verdict, Refusal):
            return verdict
        caller, needed, now_ns = verdict
        if not incarnation.desk.try_now(needed):
            return None
        admission = Admission(name, wanted, caller, incarnation, needed, takes, taken)
        refusal = self._append_intent(admission, now_ns)
        if refusal is None:
            return admission
        if refusal is AGAIN:
            return None
        _give_up((incarnation.desk, needed))
        return refusal

    async def _reserve(
        self, wanted: Wanted, name: str, deadline_ns: int, takes: list[Take], taken: list[Taken]
    ) -> Admission | Refusal:
        """Reserve what the request needs under the policy of the moment, and queue its intent."""
        held: Held = None
        rounds = 0
        try:
            while True:
                verdict = await self._decide(wanted, deadline_ns)
                incarnation = self._membership.current
                if isinstance(verdict, Refusal) or incarnation is None:
                    _give_up(held)
                    held = None
                    if isinstance(verdict, Refusal):
                        return verdict
                    continue
                caller, needed, now_ns = verdict
                if held is not None and (held[0] is not incarnation.desk or held[1] != needed):
                    _give_up(held)
                    held = None
                if held is not None or incarnation.desk.try_now(needed):
                    held = (incarnation.desk, needed)
                    admission = Admission(name, wanted, caller, incarnation, needed, takes, taken)
                    refusal = self._append_intent(admission, now_ns)
                    if refusal is None:
                        return admission
                    if refusal is not AGAIN:
                        _give_up(held)
                        return refusal
                    continue
                rounds += 1
                ask_id = name if rounds == 1 else f"{name}-{rounds}"
                self._node.journal.flush()  # what has ended may make room for this one
                end = await incarnation.desk.obtain(ask_id, caller.key.id, needed, deadline_ns)
                if isinstance(end, Refusal):
                    return end
                if end is Obtained.RESERVED:
                    held = (incarnation.desk, needed)
                elif self._node.clock.elapsed_ns() >= deadline_ns:
                    return _NO_BUDGET
                elif end is Obtained.TURNED:
                    await asyncio.sleep(TURNED_PAUSE_S)
        except asyncio.CancelledError:
            _give_up(held)
            raise

    async def _decide(self, wanted: Wanted, deadline_ns: int) -> Verdict | Refusal:
        """What the policy of this moment says. Awaits only a re-join."""
        node = self._node
        while (closed := node.closed()) is not None:
            if not node.joining() or node.clock.elapsed_ns() >= deadline_ns:
                return closed
            await asyncio.sleep(JOIN_POLL_S)
        return self._judge(wanted)

    def _judge(self, wanted: Wanted) -> Verdict | Refusal:
        """What the policy of this moment says of a request."""
        node = self._node
        now_ns = node.clock.elapsed_ns()
        at_ns = node.feed.now_at(now_ns)
        call = (wanted.upstream, wanted.method, wanted.segments, wanted.model)
        caller, refusal = still_allowed(node.snapshot, wanted.caller, wanted.digest, at_ns, call)
        if refusal is not None:
            return refusal
        plan = node.plan(caller, at_ns)
        if (refusal := check_single(plan, wanted.bound)) is not None:
            return refusal
        return caller, needs(plan, wanted.bound), now_ns

    def _append_intent(self, admission: Admission, now_ns: int) -> Refusal | None:
        """Queue the intent, in the step in which it was judged. AGAIN: incarnation and reservation are over."""
        node, wanted, incarnation = self._node, admission.wanted, admission.incarnation
        admission.at_ns = node.feed.now_at(now_ns)
        admission.since_ns = now_ns
        admission.mark = incarnation.desk.mark
        event = RequestAdmitted(
            request_id=admission.request_id,
            at_ns=admission.at_ns,
            who=admission.caller.who,
            upstream=wanted.upstream,
            operation=wanted.operation,
            method=wanted.method,
            path=wanted.path,
            bound=wanted.bound,
            lines=tuple(admission.needs),
            model=wanted.model,
            client=wanted.client,
            policy_seq=node.snapshot.position,
            stream=wanted.stream,
            idempotency=wanted.idempotency,
        )
        node.journal.flush()
        try:
            admission.intent = incarnation.log.append_nowait((event,))
        except LogError as error:
            if isinstance(error, Fenced | LogClosed):
                self._membership.end(incarnation, str(error))
                return AGAIN
            return _NO_LOG
        node.inflight.add(admission)
        return None

    async def _acknowledge(self, admission: Admission) -> Refusal | None:
        """Wait for the intent. None: it may be dispatched. Otherwise it has been released."""
        assert admission.intent is not None  # noqa: S101 - _append_intent has set it; for the type checker
        try:
            appended = await admission.intent
        except TooLate:
            self._ends.release(admission, "log_unavailable")
            return _NO_ACK
        except (Fenced, LogClosed) as end:
            self._membership.end(admission.incarnation, str(end))
            return admission.refusal or AGAIN
        except BaseException:
            # Cancelled, or an event that cannot be written: it will never be sent.
            self._ends.release(admission, "internal")
            raise
        if admission.state is State.ENDED:
            return admission.refusal or AGAIN  # released meanwhile, and the log will say so: it may not come back
        admission.state = State.ADMITTED
        admission.appended = appended
        return await self.revalidate(admission) if appended.duplicate else None

    # ------------------------------------------------------------------ fresh proof

    async def revalidate(self, admission: Admission) -> Refusal | None:
        """Fresh proof for an admitted request (A3). None: check the dispatch again. Otherwise it was released."""
        for _ in range(MAX_PROOFS if admission.state is not State.ENDED else 0):
            appended = await self._prove(admission)
            if admission.refusal is not None:
                return admission.refusal
            if appended is not None and not appended.duplicate:
                admission.appended = appended
                return None
        self._ends.release(admission, "log_unavailable")
        return admission.refusal or _NO_ACK

    async def _prove(self, admission: Admission) -> Appended | None:
        incarnation: Incarnation = admission.incarnation
        try:
            stored = incarnation.log.append_nowait((RequestRevalidated(admission.request_id),), essential=True)
            async with asyncio.timeout(self._node.timing.append_timeout_ms / 1000):
                return await stored
        except TimeoutError:
            return None
        except (Fenced, LogClosed) as end:
            self._membership.end(incarnation, str(end))
            return None
        except LogError:
            return None

    def expire(self) -> None:
        """Give up on intents that have waited too long. Called a few times a second."""
        now_ns = self._node.clock.elapsed_ns()
        for admission in self._node.inflight:
            late = admission.state is State.WAITING and now_ns - admission.since_ns > self._admit_timeout_ns
            if late and admission.intent is not None and not admission.intent.done():
                admission.intent.set_exception(TooLate())


def again(refusal: Refusal) -> bool:
    """Whether a request that was released with this reason may be admitted anew."""
    return refusal is AGAIN or refusal is CAPS_CHANGED


def _rate_limited(too_fast: TooFast) -> Refusal:
    account, _, unit = too_fast.bucket.rpartition(":")
    what = "requests" if unit == "rpm" else "tokens"
    text = f"the limit of {account} is {too_fast.per_minute} {what} a minute"
    after_s = retry_after_s(too_fast)
    return refuse("rate_limited", text, retry_after_s=after_s, account=account, limit=str(too_fast.per_minute))


def _give_up(held: Held) -> None:
    """Free a reservation for which there was no intent."""
    if held is not None:
        held[0].cancel(held[1])
