"""Handlers of /v1/budgets: the caps of agents, teams and the organisation."""

from msgspec import UNSET

from controlplane.api.answers import NO_CONTENT, Answer
from controlplane.api.call import ADMIN, ALL, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.commands import budgets
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import refuse
from schemas.accounts import AccountCaps, account_key
from schemas.answers import BudgetView, ListAnswer
from schemas.api import BudgetPut
from schemas.queries import BudgetsQuery, ReasonQuery


async def put(service: Service, call: Call) -> Answer | CommandRefusal:
    body: BudgetPut = call.body
    account = await service.execute(call, budgets.set_budget(call.params["kind"], call.params["id"], body))
    return _shown(service, account.kind, account.id)


async def show(service: Service, call: Call) -> Answer | CommandRefusal:
    kind = budgets.check_account(call.params["kind"], call.params["id"])
    return kind if isinstance(kind, CommandRefusal) else _shown(service, kind, call.params["id"])


async def remove(service: Service, call: Call) -> Answer | CommandRefusal:
    await service.execute(call, budgets.remove_budget(call.params["kind"], call.params["id"]))
    return NO_CONTENT


async def list_budgets(service: Service, call: Call) -> Answer | CommandRefusal:
    query: BudgetsQuery = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    seqs = dict(service.leader.state.budget_seqs)

    def place(account: AccountCaps) -> Place:
        name = account_key(account.kind, account.id)
        return Place(seqs[name], name)

    def fits(account: AccountCaps) -> bool:
        return account.kind != "key" and bool(account.caps) and (query.kind is UNSET or account.kind == query.kind)

    found, cursor = await take_page(service.leader.state.budgets.values(), place, fits, query.limit, after)
    views = service.views()
    return Answer(ListAnswer([views.budget(account) for account in found], cursor))


def _shown(service: Service, kind: str, account_id: str) -> Answer | CommandRefusal:
    account = service.leader.state.caps_of(kind, account_id)
    if account is None:
        return refuse("not_found", "this account has no budget")
    return Answer(service.views().budget(account))


ROUTES = (
    Route("GET", "/v1/budgets", list_budgets, ALL, "List budgets", query=BudgetsQuery, answer=ListAnswer[BudgetView]),
    Route(
        "GET", "/v1/budgets/{kind}/{id}", show, ALL,
        "Show the budget of an agent, a team, or the organisation (org/default)", answer=BudgetView,
    ),
    Route(
        "PUT", "/v1/budgets/{kind}/{id}", put, ADMIN, "Set all caps of an account; those left out are removed",
        body=BudgetPut, answer=BudgetView,
    ),
    Route(
        "DELETE", "/v1/budgets/{kind}/{id}", remove, ADMIN, "Remove all caps of an account",
        query=ReasonQuery, status=204,
    ),
)  # fmt: skip
