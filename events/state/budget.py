"""The ledger's figures: the fold of both logs that enforces caps, answers the API and feeds the audit (rule P5).

What counts
    A request *holds* its bound in its four accounts (key, agent, team, organisation) from RequestAdmitted on.
    RequestSettled turns the hold into what it cost; RequestReleased drops it. Of an unknown outcome, and of a
    request whose incarnation was fenced, the hold stays until an answer resolves it or an operator reconciles
    it. A node's own word, when it comes at last, replaces the operator's figure.

What a replayed answer resolves (rule S1)
    Every other open request with the same idempotency key, on whatever node: at once if its outcome is unknown, else
    as soon as it becomes so, for until then its lease still holds its bound. What the call did is counted where
    the answer came, so nothing but the requests themselves is counted of those that it resolves.

Two logs, any interleaving
    The control log brings grants, reconciliations, caps' changes and the time for pruning; the node log brings
    the rest. Each step here depends on the order within its own log at most, so that every interleaving of the
    two gives the same dump, byte for byte. Whoever feeds this fold has skipped repeats and refused gaps
    (events.state.node_logs), and passes each incarnation's fence once.

Who may end a request
    The slot that admitted it, from whichever incarnation. Others have no business with it: with one slot's
    credential nobody can free what another slot's requests hold.

    A request that has ended is forgotten, and its id may not come again. So a reconciliation is kept for good
    beside the open requests, in case the node log that admits its request is folded later.
"""

from typing import NamedTuple

import msgspec

from events.state.buckets import Spot, move
from events.state.four import REQUESTS, ZERO, Four, four, minus, only, over, plus, put
from events.state.leases import NO_DRAW, Draw, Leases
from events.state.objects import Charge, Objects, TrackedObject
from events.state.repeats import Repeats
from events.state.tally import Tally
from events.types import (
    BudgetSet,
    ControlEvent,
    Fenced,
    KeyChanged,
    KeyIssued,
    LeaseGranted,
    LeaseReturned,
    NodeEvent,
    NodeFenced,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import METERS, ORG_ID, window_end_s, window_start_s
from schemas.amounts import Amounts
from schemas.ids import slot_of

_HOUR_NS = 3_600 * 1_000_000_000


class Figure(NamedTuple):
    """An account's window, in the meter's unit."""

    settled: int
    held: int


class LineFigure(NamedTuple):
    """A line as the ledger sees it. `leased` is what nodes have free of it."""

    settled: int
    held: int
    leased: int


class Overruns(msgspec.Struct):
    """Requests that cost more than their bound, and by how much per meter (schemas.accounts.METERS)."""

    requests: int = 0
    amounts: tuple[int, int, int, int] = ZERO


class Open(msgspec.Struct, gc=False):  # it is in no cycle, and there may be very many
    """An admitted request that has not ended. `counted`: an operator's figure, settled in place of the hold.

    `resolved`: an answer has told what its call did, so its hold ends should its own outcome become unknown.
    `since_seq`: where its intent is recorded; nothing of it left before that.
    """

    actor: str
    key: str
    agent: str
    owner: str
    at_ns: int
    bound: Four
    spot: Spot
    draw: Draw
    unknown: bool = False
    counted: Four | None = None
    idempotency: str = ""
    resolved: bool = False
    since_seq: int = 0


class Budget:
    """All figures. Mutable, in place, deterministic; no I/O, no clock."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.leases = Leases()
        self.objects = Objects()
        self.overruns = Overruns()
        self.open: dict[str, Open] = {}
        """By request id; a later attempt of a request under `<id>#<attempt>`."""
        self.reconciled: dict[str, Four] = {}
        self.repeats = Repeats()
        """Of `open`, whose idempotency keys it can be built from."""
        self._overran: set[tuple[str, str]] = set()

    # ------------------------------------------------------------ folding

    def apply_control(self, event: ControlEvent, at_ns: int = 0) -> None:
        """Fold one event of the control log. `at_ns` is its batch's time, which moves pruning along."""
        if at_ns >= self.tally.edge_s * 1_000_000_000 + _HOUR_NS:
            edge_s = at_ns // _HOUR_NS * 3_600
            self.tally.advance(edge_s)
            self.leases.advance(edge_s)
        match event:
            case LeaseGranted():
                self.leases.grant(event.incarnation, event.granted)
            case RequestReconciled():
                self._reconcile(event.request_id, four(event.actual))
            case KeyIssued():
                self.tally.set_expiry(event.id, event.expires_at_ns)
            case KeyChanged() if event.id in self.tally.key_expiry_ns:
                self.tally.set_expiry(event.id, event.expires_at_ns)
            case BudgetSet():
                self.tally.forget_cells(event.account.kind, event.account.id)
            case NodeFenced():
                self.leases.end(event.incarnation)
            case _:
                pass  # says nothing about money

    def apply_node(self, seq: int, actor: str, event: NodeEvent) -> None:
        """Fold one event that `actor` (an incarnation) appended, or that was appended to its fence subject."""
        match event:  # the frequent ones first
            case RequestAdmitted():
                self._admit(seq, actor, event)
            case RequestSettled():
                self._end(seq, actor, event)
            case RequestReleased():
                self._release(actor, _name(event.request_id, event.attempt))
            case LeaseReturned():
                self.leases.give_back(actor, event.returned)
            case Fenced():
                self._fence(event.actor)
            case _:
                pass  # says nothing about money

    # ------------------------------------------------------------ asking

    def figure(self, kind: str, account_id: str, meter: str, window: str, at_ns: int, zone: str) -> Figure:
        """The figure of the account's window that holds `at_ns`."""
        start_s = window_start_s(window, at_ns, zone)
        return Figure(*self.tally.total(kind, account_id, meter, start_s, window_end_s(window, start_s, zone)))

    def line(self, line: str, zone: str) -> LineFigure:
        """The figure of a line, kept current from now on; `zone` is its account's."""
        cell = self.tally.cell(line, zone)
        return LineFigure(cell.settled, cell.held, self.leases.leased(line))

    def remaining(self, line: str, cap: int, zone: str) -> int:
        """What can still be lent of the line: below zero after an overrun or a lowered cap."""
        settled, held, leased = self.line(line, zone)
        return cap - settled - held - leased

    def unknown_bound(self, request_id: str) -> Amounts | None:
        """The bound of a request of unknown outcome, also after a reconciliation; None for any other."""
        found = self.open.get(request_id)
        return Amounts(*found.bound) if found is not None and found.unknown else None

    def unknown_outcomes(self) -> int:
        """How many requests are of unknown outcome, reconciled ones left out."""
        return sum(1 for request in self.open.values() if request.unknown and request.counted is None)

    def object(self, ref: str) -> TrackedObject | None:
        """What is counted for a vendor's object; None if no answer has mentioned it (lately)."""
        return self.objects.get(ref)

    def earlier_unknown(self, idempotency: str, request_id: str, at_ns: int) -> bool:
        """Whether another attempt with the key of that digest has no outcome yet, known or resolved.

        It may be the one that the vendor has executed; without it, what a replay says was counted before.
        """
        return any(not self.open[name].resolved for name in self.repeats.others(idempotency, request_id, at_ns))

    def take_overran(self) -> set[tuple[str, str]]:
        """(kind, id) of accounts where a request cost more than its bound since the last call (rule G8)."""
        overran, self._overran = self._overran, set()
        return overran

    # ------------------------------------------------------------ requests

    def _admit(self, seq: int, actor: str, event: RequestAdmitted) -> None:
        name = event.request_id if event.attempt == 1 else _name(event.request_id, event.attempt)
        if name in self.open:
            return
        who = event.who
        amounts = event.bound
        bound = (amounts.usd, amounts.refund, amounts.requests, amounts.tokens)
        spot = self.tally.spot(who.key, who.agent, who.owner, event.at_ns)
        spot.hold(bound)
        draw = self.leases.draw(actor, event.lines) if event.lines else NO_DRAW
        draw.reserve(bound)
        request = Open(actor, who.key, who.agent, who.owner, event.at_ns, bound, spot, draw, since_seq=seq)
        self.open[name] = request
        if event.idempotency:
            request.idempotency = event.idempotency
            self.repeats.add(event.idempotency, name, event.at_ns)
        if name in self.reconciled:
            self._count(request, self.reconciled[name])

    def _end(self, seq: int, actor: str, event: RequestSettled) -> None:
        name = event.request_id if event.attempt == 1 else _name(event.request_id, event.attempt)
        request = self.open.get(name)
        if event.resolves:
            self._resolve(event.resolves, name, event.at_ns)
        if request is None or slot_of(request.actor) != slot_of(actor):
            return
        if event.outcome == "unknown":
            # The whole bound leaves the lease, as used, and stays held: nothing moves.
            self._lose(name, request)
            return
        cost = used = settled = four(event.actual)
        if event.object is not None:
            # What was replayed shows the object as an earlier attempt had left it.
            since_seq = 0 if event.resolves else request.since_seq
            cost, used, settled = self._settle_object(request, event, event.object, since_seq, seq)
        bound = request.bound
        above = cost[0] > bound[0] or cost[1] > bound[1] or cost[2] > bound[2] or cost[3] > bound[3]
        if above or request.counted is not None:
            self._overrun(request, cost)
        if not request.unknown:
            request.draw.free(over(bound, used))
        self._close(name, request, settled)

    def _settle_object(
        self, request: Open, event: RequestSettled, exposure: ObjectExposure, since_seq: int, seq: int
    ) -> tuple[Four, Four, Four]:
        """Count the object's difference, wherever it belongs.

        Returns what the request cost, what it used of its leases, and what is still to be settled on it.
        """
        meter, actual = METERS.index(exposure.meter), four(event.actual)
        payer = Charge(request.key, request.agent, request.owner, request.at_ns, 0)
        charged = 0
        for credit in self.objects.count(exposure, payer, event.at_ns, since_seq, seq):
            spot = self.tally.spot(credit.key, credit.agent, credit.owner, credit.at_ns)
            move(spot, ZERO, only(credit.meter, credit.amount))
            charged += max(0, credit.amount)
        return put(actual, meter, charged), put(actual, meter, exposure.exposure_nanos), put(actual, meter, 0)

    def _release(self, actor: str, name: str) -> None:
        request = self.open.get(name)
        if request is None or slot_of(request.actor) != slot_of(actor):
            return
        if not request.unknown:
            request.draw.free(request.bound)
        self._overrun(request, ZERO)
        self._close(name, request, ZERO)

    def _resolve(self, idempotency: str, by: str, at_ns: int) -> None:
        """The vendor replayed to `by` what a call has done: that is counted there, whoever was the first (S1)."""
        for name in self.repeats.others(idempotency, by, at_ns):
            request = self.open[name]
            request.resolved = True
            if request.unknown:
                self._close_resolved(name, request)

    def _lose(self, name: str, request: Open) -> None:
        """Its outcome is unknown from now on: held, unless an answer has told it already."""
        request.unknown = True
        if request.resolved:
            self._close_resolved(name, request)

    def _close_resolved(self, name: str, request: Open) -> None:
        self._overrun(request, ZERO)
        self._close(name, request, only(REQUESTS, request.bound[REQUESTS]))

    def _close(self, name: str, request: Open, cost: Four) -> None:
        """The request is over: its hold (or the operator's figure) gives way to `cost`."""
        if request.counted is not None:
            move(request.spot, ZERO, minus(cost, request.counted))
        else:
            request.spot.settle(request.bound, cost)
        del self.open[name]
        if request.idempotency:
            self.repeats.drop(request.idempotency, name)

    def _reconcile(self, name: str, actual: Four) -> None:
        self.reconciled[name] = actual
        request = self.open.get(name)
        if request is not None:
            self._count(request, actual)

    def _count(self, request: Open, actual: Four) -> None:
        """Settle an operator's figure in place of the hold, or of the operator's earlier figure."""
        self._overrun(request, actual)
        if request.counted is None:
            request.spot.settle(request.bound, actual)
        else:
            move(request.spot, ZERO, minus(actual, request.counted))
        request.counted = actual

    def _fence(self, incarnation: str) -> None:
        """Leases are void; what was admitted and has not ended is held, as of unknown outcome (rule F2)."""
        self.leases.fence(incarnation)
        lost = [(name, request) for name, request in self.open.items() if request.actor == incarnation]
        for name, request in lost:
            request.draw = NO_DRAW
            self._lose(name, request)

    def _overrun(self, request: Open, cost: Four) -> None:
        """It costs so much, in place of its hold or of an operator's figure. If that is more, leases may be out on what
        is not there (G8). The sums are of what is above the bound; they follow from the last figure alone, so they are
        the same however the folds of the two logs interleave.
        """
        before = over(request.counted, request.bound) if request.counted is not None else ZERO
        after = over(cost, request.bound)
        if after != before:
            self.overruns.amounts = plus(self.overruns.amounts, minus(after, before))
            self.overruns.requests += (after != ZERO) - (before != ZERO)
        if over(cost, request.bound if request.counted is None else request.counted) != ZERO:
            names = (("key", request.key), ("agent", request.agent), ("team", request.owner), ("org", ORG_ID))
            self._overran.update(name for name in names if name[1])


def _name(request_id: str, attempt: int) -> str:
    """The key in `Budget.open` of one attempt: each is held, and ends, by itself (rule S1)."""
    return request_id if attempt == 1 else f"{request_id}#{attempt}"
