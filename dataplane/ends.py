"""How requests end: settled, released, or withdrawn before they were sent. Each exactly once.

The end is posted to the node's current log, be it another incarnation's than the one that admitted (rule F3). Leases
follow only if their incarnation is the current one: a fenced one's are void. What a tight line has left over goes back
in the same batch (rule G5).
"""

from typing import Final

from dataplane.adapters.port import Outcome
from dataplane.core.ratelimit import Take, Taken
from dataplane.inflight import Admission, State
from dataplane.node import Node
from events.types import LeaseReturned, NodeEvent, RequestReleased, RequestSettled
from schemas.accounts import meter_of
from schemas.amounts import Amounts
from schemas.refusals import Refusal

MAX_RELEASED: Final = 10_000
"""Released requests remembered until their clients are refused, which comes within the patience of one request."""


class Ends:
    """Ends the requests of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._released: dict[str, None] = {}

    def settle(
        self,
        admission: Admission,
        outcome: Outcome,
        *,
        status: int,
        latency_us: int,
        overhead_us: int,
        client_gone: bool,
    ) -> None:
        """A request that was sent is over. Once: what comes later is ignored.

        An answer that was replayed resolves whatever other attempts went before it, on this node or not (rule S1).
        """
        if admission.state is State.ENDED:
            return
        settled = outcome.outcome == "settled"
        actual = _with_request(outcome.actual, admission.wanted.bound) if settled else outcome.actual
        event = RequestSettled(
            request_id=admission.request_id,
            outcome=outcome.outcome,
            at_ns=self._node.feed.now_ns(),
            actual=actual,
            object=outcome.object if settled else None,
            status=status,
            model=outcome.model,
            input_tokens=outcome.input_tokens,
            output_tokens=outcome.output_tokens,
            cached_tokens=outcome.cached_tokens,
            tool_calls=outcome.tool_calls,
            latency_us=latency_us,
            overhead_us=overhead_us,
            error=outcome.error,
            resolves=admission.wanted.idempotency if settled and outcome.replayed else "",
            client_gone=client_gone,
        )
        needs = admission.needs
        returned: dict[str, int] = {}
        if needs and not admission.incarnation.over:
            used = _used(admission, outcome, actual) if settled else needs
            returned = admission.incarnation.desk.settle(needs, used, admission.mark)
        tokens = actual.tokens if settled else admission.wanted.bound.tokens
        self.correct_rates(admission.takes, admission.taken, tokens)
        self._end(admission, event, returned)

    def release(self, admission: Admission, reason: str) -> None:
        """A request that was never sent is over. Once: what comes later is ignored."""
        if admission.state is State.ENDED:
            return
        returned: dict[str, int] = {}
        if admission.needs and not admission.incarnation.over:
            returned = admission.incarnation.desk.release(admission.needs, admission.mark)
        self.correct_rates(admission.takes, admission.taken, 0)
        self._released[admission.request_id] = None
        if len(self._released) > MAX_RELEASED:
            del self._released[next(iter(self._released))]
        event = RequestReleased(admission.request_id, reason, self._node.feed.now_ns())
        self._end(admission, event, returned)

    def was_released(self, request_id: str) -> bool:
        """Whether a request's intent is, or may be, in the log, and its release too."""
        return request_id in self._released

    def withdraw(self, admission: Admission, refusal: Refusal, reason: str) -> None:
        """An admitted request must not go out any more: release it, and say why to whoever drives it."""
        if admission.state is not State.ENDED:
            admission.refusal = refusal
            self.release(admission, reason)

    def _end(self, admission: Admission, event: NodeEvent, returned: dict[str, int]) -> None:
        admission.state = State.ENDED
        admission.on_cut = None  # who relays it refers back to it; nobody should wait for the garbage collector
        self._node.inflight.remove(admission)
        if returned:
            self._node.journal.post((event, LeaseReturned(returned)))
        elif isinstance(event, RequestSettled) and event.object is not None:
            # The client's next call may be about this object, through any node: the ledger must know it by then.
            self._node.journal.post((event,))
        else:
            self._node.journal.end(event)

    def correct_rates(self, takes: list[Take], taken: list[Taken], tokens: int) -> None:
        """Tokens were taken by the bound; give back what was not used. (The request itself stays counted.)"""
        if not takes:
            return
        for take, counted in zip(takes, taken, strict=True):
            if take.tokens:
                self._node.limits.correct(take.bucket, counted, tokens, self._node.clock.elapsed_ns())


def _with_request(actual: Amounts, bound: Amounts) -> Amounts:
    """Whatever the vendor's answer was, the request itself counts."""
    if actual.requests == bound.requests:
        return actual
    return Amounts(actual.usd, actual.refund, bound.requests, actual.tokens)


def _used(admission: Admission, outcome: Outcome, actual: Amounts) -> dict[str, int]:
    """What each line's lease loses: the reported amount, an object's whole exposure where it has one."""
    amounts = {"usd": actual.usd, "refund": actual.refund, "requests": actual.requests, "tokens": actual.tokens}
    if (exposure := outcome.object) is not None:
        amounts[exposure.meter] = exposure.exposure_nanos
    plan = admission.caller.plan
    known = plan.meter_of if plan is not None else {}
    used: dict[str, int] = {}
    for line in admission.needs:
        # The plan may be a newer one, of the next window, and not know the line.
        used[line] = amounts[known.get(line) or meter_of(line)]
    return used
