"""Handlers of /v1/requests and /v1/reports: the audit, and reconciling what it shows as unknown."""

from msgspec import UNSET

from controlplane.api.answers import Answer, page_answer
from controlplane.api.call import ADMIN, ALL, AUDITORS, READERS, Call, Route, Service
from controlplane.api.ports import (
    CHANGE_COLUMNS,
    FIGURE_COLUMNS,
    REQUEST_COLUMNS,
    AuditUnavailable,
    Filters,
    ReportName,
    Row,
)
from controlplane.commands import requests
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid, refuse
from controlplane.errors import CommandRefused
from schemas.answers import ListAnswer, ReconciledAnswer
from schemas.api import Reconcile
from schemas.durations import DurationError, parse_time_ns
from schemas.money import format_usd
from schemas.queries import ChangesQuery, ReportQuery, RequestsQuery


async def list_requests(service: Service, call: Call) -> Answer | CommandRefusal:
    query: RequestsQuery = call.query
    filters = _filters(query, service.now_ns())
    if isinstance(filters, CommandRefusal):
        return filters
    page = await service.audit.requests(filters, query.limit, query.cursor or None)
    return page_answer(page, REQUEST_COLUMNS, query.format, "requests")


async def show_request(service: Service, call: Call) -> Answer | CommandRefusal:
    row = await service.audit.request(call.params["id"])
    return refuse("not_found", "the audit has no request with this id") if row is None else Answer(dict(row))


async def reconcile(service: Service, call: Call) -> Answer | CommandRefusal:
    body: Reconcile = call.body
    request_id = call.params["id"]
    try:
        await service.execute(call, requests.reconcile(request_id, body.actual_usd.nanos))
    except CommandRefused as refused:
        return await _why_not(service, request_id, refused.refusal)
    return Answer(ReconciledAnswer(request_id, format_usd(body.actual_usd.nanos)))


async def _why_not(service: Service, request_id: str, refusal: CommandRefusal) -> CommandRefusal:
    """The ledger forgets requests that ended; the audit may still know that this one did."""
    try:
        row = await service.audit.request(request_id)
    except AuditUnavailable:
        return refusal
    if row is None:
        return refusal
    if row.get("outcome") == "open":
        return refuse("outcome_known", "the request is still running", remedy="Wait until it ends.")
    return refuse("outcome_known", "the request's outcome is known")


async def report_spend(service: Service, call: Call) -> Answer | CommandRefusal:
    return await _report(service, call, "spend")


async def report_requests(service: Service, call: Call) -> Answer | CommandRefusal:
    return await _report(service, call, "requests")


async def report_changes(service: Service, call: Call) -> Answer | CommandRefusal:
    query: ChangesQuery = call.query
    filters = _filters(query, service.now_ns())
    if isinstance(filters, CommandRefusal):
        return filters
    page = await service.audit.report("changes", "", filters, query.limit, query.cursor or None)
    return page_answer(page, CHANGE_COLUMNS, query.format, "changes")


async def _report(service: Service, call: Call, name: ReportName) -> Answer | CommandRefusal:
    query: ReportQuery = call.query
    filters = _filters(query, service.now_ns())
    if isinstance(filters, CommandRefusal):
        return filters
    page = await service.audit.report(name, query.group_by, filters, query.limit, query.cursor or None)
    return page_answer(page, (query.group_by, *FIGURE_COLUMNS), query.format, f"{name}-by-{query.group_by}")


def _filters(query: RequestsQuery | ReportQuery | ChangesQuery, now_ns: int) -> Filters | CommandRefusal:
    """The query's filters with its times as Unix nanoseconds; a query that has not all of them lacks the rest."""
    times: dict[str, int | None] = {}
    for name, text in (("from", query.from_), ("to", query.to)):
        try:
            times[name] = parse_time_ns(text, now_ns) if text else None
        except DurationError as error:
            return invalid(name, str(error))
    start_ns, end_ns = times["from"], times["to"]
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        return invalid("from", "from is not before to")
    given = {name: value for name in _FILTERS if (value := getattr(query, name, UNSET)) is not UNSET}
    return Filters(**given, from_ns=start_ns, to_ns=end_ns)


_FILTERS = (
    "agent", "team", "purpose", "key", "run", "user", "upstream", "model", "status", "outcome", "refusal",
)  # fmt: skip

ROUTES = (
    Route(
        "GET", "/v1/requests", list_requests, READERS, "List requests",
        query=RequestsQuery, answer=ListAnswer[Row], csv=True,
    ),
    Route("GET", "/v1/requests/{id}", show_request, READERS, "Show a request", answer=Row),
    Route(
        "POST", "/v1/requests/{id}/reconcile", reconcile, ADMIN, "Say what a request of unknown outcome did cost",
        body=Reconcile, answer=ReconciledAnswer,
    ),
    Route(
        "GET", "/v1/reports/spend", report_spend, ALL, "Report spend by group",
        query=ReportQuery, answer=ListAnswer[Row], csv=True,
    ),
    Route(
        "GET", "/v1/reports/requests", report_requests, ALL, "Report requests by group",
        query=ReportQuery, answer=ListAnswer[Row], csv=True,
    ),
    Route(
        "GET", "/v1/reports/changes", report_changes, AUDITORS, "Report what operators changed",
        query=ChangesQuery, answer=ListAnswer[Row], csv=True,
    ),
)  # fmt: skip
