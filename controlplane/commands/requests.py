"""Reconciling a request of unknown outcome: an operator says what it did cost, by the vendor's own books."""

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.types import RequestReconciled
from schemas.amounts import Amounts


def reconcile(request_id: str, actual_usd_nanos: int) -> Command[Amounts]:
    """Replace the request's hold by what it cost. May be repeated with another figure: the last one counts.

    The dollars are of the meter that the request held: a refund's cost counts as refunded. It happened, so it
    counts as one request; its tokens stay at their bound, which is all that is known of them.
    """

    def decide(_: ControlState, figures: Figures, moment: Moment) -> Decision[Amounts] | CommandRefusal:
        bound = figures.unknown_bound(request_id)
        if bound is None:
            return refuse("not_found", "there is no request of unknown outcome with this id")
        if moment.young_fence:
            # What the vendor shows now need not be the end of it, and what a node settles later is no longer heard.
            return refuse("outcome_open", "a node was fenced a moment ago and might still send this request")
        refund = bound.refund > 0 and bound.usd == 0
        actual = Amounts(
            usd=0 if refund else actual_usd_nanos,
            refund=actual_usd_nanos if refund else 0,
            requests=bound.requests,
            tokens=bound.tokens,
        )
        return Decision((RequestReconciled(request_id, actual, moment.by),), actual)

    return decide
