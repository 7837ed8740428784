"""Operator tokens: issue, rotate and revoke."""

from dataclasses import dataclass, field

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import check_name
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.types import OperatorTokenIssued, OperatorTokenRevoked, OperatorTokenRotated
from schemas.api import OperatorIssue, OperatorRotate
from schemas.ids import ID_BYTES, TOKEN_BYTES, operator_id, operator_token, token_sha256

MAX_OPERATORS = 10_000
"""Tokens of people and their scripts, live and ended; ended ones stay on record."""

DEFAULT_OVERLAP_S = 86_400

MAX_ROTATIONS = 400
"""Of one operator: a token a day for a year. All their digests stay on record."""

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


def rotate(operator_id: str, body: OperatorRotate) -> Command[IssuedOperator]:
    """Another token for a live operator, drawn here. Tokens that overlap already keep the ends they have: whoever lost
    the answer to a rotation may rotate again, and nobody's token ends earlier than was said.
    """

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[IssuedOperator] | CommandRefusal:
        operator = state.operators.get(operator_id)
        if operator is None:
            return refuse("not_found", "there is no operator token with this id")
        if not operator.live(moment.now_ns):
            ended = "revoked" if operator.revoked else "expired"
            return refuse("operator_ended", f"this operator token is {ended}")
        if len(operator.earlier) >= MAX_ROTATIONS:
            return refuse("too_many", "this operator was rotated as often as this gateway remembers; issue another")
        issued = IssuedOperator(operator_id, operator_token(moment.draw(TOKEN_BYTES)))
        overlap_s = body.overlap.seconds if body.overlap is not None else DEFAULT_OVERLAP_S
        ends_ns = moment.now_ns + overlap_s * NANOS_PER_S
        since_ns = operator.rotated_at_ns or operator.issued_at_ns
        lasts_ns = operator.expires_at_ns - since_ns if operator.expires_at_ns else 0
        if body.expires_in is not None:
            lasts_ns = body.expires_in.seconds * NANOS_PER_S
        event = OperatorTokenRotated(
            id=operator_id,
            token_sha256=token_sha256(issued.token),
            by=moment.by,
            at_ns=moment.now_ns,
            old_ends_at_ns=min(ends_ns, operator.expires_at_ns) if operator.expires_at_ns else ends_ns,
            expires_at_ns=moment.now_ns + lasts_ns if lasts_ns else 0,
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
