"""The first operator: without one, nobody could issue the others."""

from controlplane.commands.base import Decision, Figures, Moment
from controlplane.leader import Leader
from events.state.control import ControlState
from events.types import SYSTEM, OperatorTokenIssued
from schemas.ids import ID_BYTES, operator_id

NAME = "bootstrap"


async def admit_operator(leader: Leader, token_sha256: str) -> None:
    """Record an admin operator for the digest of a token that lies in the data directory, once. Empty: none.

    A token that was revoked stays so. Raises LogUnavailable, NotLeading.
    """
    if not token_sha256:
        return

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[None]:
        if token_sha256 in state.operator_tokens:
            return Decision((), None)
        operator = operator_id(moment.draw(ID_BYTES))
        event = OperatorTokenIssued(operator, NAME, "admin", token_sha256, moment.by, moment.now_ns)
        return Decision((event,), None)

    await leader.execute(decide, SYSTEM)
