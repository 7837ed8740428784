"""Money in metrics: held, unknown, lent out, exposed at the worst. Bounded, however many accounts there are.

A label per account would be a series per key. So amounts are summed by kind of account and meter, and named one by one
are only, of each kind of account, those nearest to their caps (`controlplane.alerts.caps.TOP`), by what may be spent of
them at the worst.
Sums of leases and the named accounts are of the last whole round of `CapWalk`: a second old with up to five
hundred capped lines in use, and a second more for each further five hundred.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import Metric

from controlplane.alerts.caps import CapFigure, CapWalk
from events.state.replica import Replica
from schemas.accounts import METERS, MONEY_METERS
from schemas.metric_families import counter, counters, gauge, gauges, in_unit

NAME = "ringfence_control"


def ledger_metrics(replica: Replica) -> Iterable[Metric]:
    budget = replica.budget
    held = [request.bound for request in budget.open.values() if not request.unknown]
    unknown = [request.bound for request in budget.open.values() if request.unknown and request.counted is None]
    yield gauge(f"{NAME}_open_requests", "Admitted and not ended, or of unknown outcome.", len(budget.open))
    yield gauge(f"{NAME}_unknown_outcomes", "Requests held at their bound until reconciled.", len(unknown))
    yield gauges(f"{NAME}_held", "Bounds of requests in flight, by meter.", ("meter",), _amounts(held))
    yield gauges(f"{NAME}_unknown", "Bounds of requests of unknown outcome, by meter.", ("meter",), _amounts(unknown))
    yield counter(f"{NAME}_overruns", "Requests that cost more than their bound.", budget.overruns.requests)
    above = [
        ((meter,), in_unit(meter, amount))
        for meter, amount in zip(METERS, budget.overruns.amounts, strict=True)
        if meter in MONEY_METERS
    ]
    yield counters(f"{NAME}_overrun_usd", "Dollars above bounds.", ("meter",), above)


def cap_metrics(walk: CapWalk) -> Iterable[Metric]:
    labels = ("account", "meter")
    for name, text, totals in (
        ("lease_granted", "Granted to living nodes and not returned, used parts included.", walk.totals.granted),
        ("lease_free", "Lent to living nodes and free there.", walk.totals.free),
    ):
        figures = [((kind, meter), in_unit(meter, amount)) for (kind, meter), amount in sorted(totals.items())]
        yield gauges(f"{NAME}_{name}", text, labels, figures)
    named = ("account", "id", "meter", "window")
    text = "Settled, held and lent of a cap: the worst that can be spent. Of the accounts nearest to their caps."
    yield gauges(f"{NAME}_account_exposure", text, named, _of(walk, "exposure"))
    yield gauges(f"{NAME}_account_cap", "The caps of the same accounts.", named, _of(walk, "cap"))


def _of(walk: CapWalk, field: str) -> Iterator[tuple[tuple[str, str, str, str], float]]:
    for figure in walk.top:
        yield _place(figure), in_unit(figure.meter, getattr(figure, field))


def _place(figure: CapFigure) -> tuple[str, str, str, str]:
    return figure.kind, figure.id, figure.meter, figure.window


def _amounts(bounds: Sequence[tuple[int, int, int, int]]) -> list[tuple[tuple[str], float]]:
    """Their sums, by meter. Column by column: twenty thousand in flight take a few milliseconds of the leader's."""
    sums = map(sum, zip(*bounds, strict=True)) if bounds else (0,) * len(METERS)
    return [((meter,), in_unit(meter, amount)) for meter, amount in zip(METERS, sums, strict=True)]
