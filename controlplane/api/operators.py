"""Handlers of /v1/operators."""

from msgspec.structs import asdict

from controlplane.api.answers import NO_CONTENT, Answer
from controlplane.api.call import ADMIN, AUDITORS, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.commands import operators
from controlplane.commands.base import CommandRefusal
from events.state.operators import Operator
from schemas.answers import ListAnswer, OperatorIssuedAnswer, OperatorView
from schemas.api import OperatorIssue, OperatorRotate
from schemas.queries import Paged, ReasonQuery


async def issue(service: Service, call: Call) -> Answer | CommandRefusal:
    body: OperatorIssue = call.body
    issued = await service.execute(call, operators.issue(body))
    view = service.views().operator(service.leader.state.operators[issued.id])
    return Answer(OperatorIssuedAnswer(**asdict(view), token=issued.token), 201)


async def rotate(service: Service, call: Call) -> Answer | CommandRefusal:
    body: OperatorRotate = call.body
    issued = await service.execute(call, operators.rotate(call.params["id"], body))
    view = service.views().operator(service.leader.state.operators[issued.id])
    return Answer(OperatorIssuedAnswer(**asdict(view), token=issued.token), 201)


async def list_operators(service: Service, call: Call) -> Answer | CommandRefusal:
    query: Paged = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    found, cursor = await take_page(service.leader.state.operators.values(), _place, lambda _: True, query.limit, after)
    views = service.views()
    return Answer(ListAnswer([views.operator(operator) for operator in found], cursor))


async def revoke(service: Service, call: Call) -> Answer | CommandRefusal:
    await service.execute(call, operators.revoke(call.params["id"]))
    return NO_CONTENT


def _place(operator: Operator) -> Place:
    return Place(operator.issued_seq, operator.id)


ROUTES = (
    Route(
        "POST", "/v1/operators", issue, ADMIN, "Issue an operator token; it is in this answer only",
        body=OperatorIssue, answer=OperatorIssuedAnswer, status=201,
    ),
    Route(
        "GET", "/v1/operators", list_operators, AUDITORS, "List operator tokens",
        query=Paged, answer=ListAnswer[OperatorView],
    ),
    Route(
        "POST", "/v1/operators/{id}/rotate", rotate, ADMIN, "Another token for an operator; the old one overlaps",
        body=OperatorRotate, body_optional=True, answer=OperatorIssuedAnswer, status=201,
    ),
    Route(
        "DELETE", "/v1/operators/{id}", revoke, ADMIN, "Revoke an operator token", query=ReasonQuery, status=204
    ),
)  # fmt: skip
