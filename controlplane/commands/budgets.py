"""Budgets: the caps of agents, teams and the organisation. A key's own caps are part of the key."""

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import check_name, check_zone
from controlplane.commands.keys import MAX_AGENTS
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.types import BudgetSet
from schemas.accounts import ORG_ID, AccountCaps, Kind, account_key
from schemas.api import BudgetPut, Usd
from schemas.caps import CAP_FIELDS, make_caps

BUDGET_KINDS: tuple[Kind, ...] = ("agent", "team", "org")


def set_budget(kind: str, account_id: str, body: BudgetPut) -> Command[AccountCaps]:
    """Replace all caps of an account. It need not exist yet: the caps wait for it."""
    amounts = {name: _amount(getattr(body, name, None)) for name in CAP_FIELDS}

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[AccountCaps] | CommandRefusal:
        checked = check_account(kind, account_id)
        if isinstance(checked, CommandRefusal):
            return checked
        account = AccountCaps(checked, account_id, make_caps(amounts), body.time_zone or "UTC")
        problem = _check(state, account)
        if problem is not None:
            return problem
        name = account_key(kind, account_id)
        if state.budgets.get(name) == account:
            return Decision((), account, barrier_seq=state.budget_seqs[name])
        return Decision((BudgetSet(account, moment.by),), account)

    return decide


def remove_budget(kind: str, account_id: str) -> Command[None]:
    """Lift all caps of an account. A second time the same; 404 if it never had any."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[None] | CommandRefusal:
        checked = check_account(kind, account_id)
        if isinstance(checked, CommandRefusal):
            return checked
        before = state.budgets.get(account_key(kind, account_id))
        if before is None:
            return refuse("not_found", "this account has no budget")
        return Decision((BudgetSet(AccountCaps(checked, account_id), moment.by),) if before.caps else (), None)

    return decide


def check_account(kind: str, account_id: str) -> Kind | CommandRefusal:
    """The account's kind if it can have a budget of its own."""
    if kind == "key":
        return refuse("key_caps", "a key has no budget of its own", remedy="PATCH /v1/keys/{id} sets its caps.")
    if kind not in BUDGET_KINDS:
        return refuse("not_found", "budgets are of an agent, a team or the organisation", "kind")
    problem = check_name("id", account_id)
    if problem is not None:
        return problem
    if kind == "org" and account_id != ORG_ID:
        return refuse("not_found", "there is one organisation", "id", f"Its id is {ORG_ID!r}.")
    return next(known for known in BUDGET_KINDS if known == kind)


def _check(state: ControlState, account: AccountCaps) -> CommandRefusal | None:
    if not account.caps:
        return refuse("cap_required", "the budget has no caps", remedy="Give at least one cap, or DELETE the budget.")
    if len(state.budgets) >= 2 * MAX_AGENTS:
        return refuse("too_many", "there are as many budgets as the nodes can hold")
    return check_zone(account.zone)


def _amount(value: Usd | int | None) -> int | None:
    return value.nanos if isinstance(value, Usd) else value
