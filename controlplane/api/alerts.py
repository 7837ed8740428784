"""Handler of /v1/alerts: what is wrong, and what was lately. (All that ever was is in the audit's control_changes.)"""

from msgspec import UNSET

from controlplane.alerts.kinds import ALERTS
from controlplane.api.answers import Answer
from controlplane.api.call import READERS, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid
from events.state.alerts import Alert
from schemas.answers import AlertView, ListAnswer
from schemas.durations import DurationError, format_time, parse_time_ns
from schemas.queries import AlertsQuery


async def list_alerts(service: Service, call: Call) -> Answer | CommandRefusal:
    query: AlertsQuery = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    span = _span(query, service.now_ns())
    if isinstance(span, CommandRefusal):
        return span
    from_ns, to_ns = span

    def fits(alert: Alert) -> bool:
        return (
            (query.state is UNSET or (query.state == "open") == alert.open)
            and (not query.kind or query.kind == alert.kind)
            and from_ns <= alert.raised_at_ns < to_ns
        )

    found, cursor = await take_page(service.leader.state.alerts.records.values(), _place, fits, query.limit, after)
    return Answer(ListAnswer([_view(alert) for alert in found], cursor))


def _span(query: AlertsQuery, now_ns: int) -> tuple[int, int] | CommandRefusal:
    found = [0, 2**63]
    for place, (name, text) in enumerate((("from", query.from_), ("to", query.to))):
        if text:
            try:
                found[place] = parse_time_ns(text, now_ns)
            except DurationError as error:
                return invalid(name, str(error))
    if found[0] >= found[1]:
        return invalid("from", "from is not before to")
    return found[0], found[1]


def _place(alert: Alert) -> Place:
    return Place(alert.raised_seq, alert.id)


def _view(alert: Alert) -> AlertView:
    kind = ALERTS.get(alert.kind)
    return AlertView(
        id=alert.id,
        kind=alert.kind,
        subject=alert.subject,
        severity=alert.severity,
        state="open" if alert.open else "cleared",
        message=alert.message,
        remedy=kind.remedy if kind is not None else "",
        details=alert.details,
        raised_at=format_time(alert.raised_at_ns),
        cleared_at=format_time(alert.cleared_at_ns) if alert.cleared_at_ns else None,
        cleared_message=alert.cleared_message or None,
    )


ROUTES = (
    Route(
        "GET", "/v1/alerts", list_alerts, READERS, "List alerts: what an operator should look at",
        query=AlertsQuery, answer=ListAnswer[AlertView],
    ),
)  # fmt: skip
