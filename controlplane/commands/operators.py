"""Operator tokens: issue and revoke."""

from dataclasses import dataclass, field

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import check_name
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.types import OperatorTokenIssued, OperatorTokenRevoked
from schemas.api import OperatorIssue
from schemas.ids import ID_BYTES, TOKEN_BYTES, operator_id, operator_token, token_sha256

MAX_OPERATORS = 10_000
"""Tokens of people and their scripts, live and ended; ended ones stay on record."""

NANOS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class IssuedOperator:
    """`token` is shown once and kept nowhere."""

    id: str
    token: str = field(repr=False)


def issue(body: OperatorIssue) -> Command[IssuedOperator]:
    """A new token, drawn here."""

    def decide(state: ControlState, figures: Figures, moment: Moment) -> Decision[IssuedOperator] | CommandRefusal:
        return admit(body, operator_token(moment.draw(TOKEN_BYTES)))(state, figures, moment)

    return decide


def admit(body: OperatorIssue, token: str) -> Command[IssuedOperator]:
    """A token that the caller drew (the first start writes its file before it is recorded). Repeats do nothing."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[IssuedOperator] | CommandRefusal:
        problem = check_name("name", body.name)
        if problem is not None:
            return problem
        known = state.operator_tokens.get(token_sha256(token))
        if known is not None:
            return Decision((), IssuedOperator(known, token))
        if len(state.operators) >= MAX_OPERATORS:
            return refuse("too_many", "there are as many operator tokens as this gateway keeps")
        issued = IssuedOperator(operator_id(moment.draw(ID_BYTES)), token)
        event = OperatorTokenIssued(
            id=issued.id,
            name=body.name,
            role=body.role,
            token_sha256=token_sha256(token),
            by=moment.by,
            at_ns=moment.now_ns,
            expires_at_ns=moment.now_ns + body.expires_in.seconds * NANOS_PER_S if body.expires_in else 0,
        )
        return Decision((event,), issued)

    return decide


def revoke(operator_id: str) -> Command[str]:
    """Revoke by id; a second time the same. The last live admin token stays: nobody could issue another."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        operator = state.operators.get(operator_id)
        if operator is None:
            return refuse("not_found", "there is no operator token with this id")
        if operator.revoked:
            return Decision((), operator_id)
        others = any(
            other.role == "admin" and other.live(moment.now_ns) and other.id != operator_id
            for other in state.operators.values()
        )
        if operator.role == "admin" and operator.live(moment.now_ns) and not others:
            return refuse("last_admin", "this is the last live admin token")
        return Decision((OperatorTokenRevoked(operator_id, moment.by),), operator_id)

    return decide
