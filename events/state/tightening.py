"""Which control events tighten, and so must wait for the barrier (rules B1 to B3, G8).

Asked before the event is folded: whether a cap or a list became narrower shows only against what was.
"""

from collections.abc import Collection

from events.state.control import ControlState
from events.state.keys import Key
from events.state.registry import Agent
from events.types import (
    AgentRemoved,
    AgentSuspended,
    AgentUpdated,
    BudgetSet,
    ControlEvent,
    KeyChanged,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
)
from schemas.accounts import AccountCaps, account_key


def tightens(state: ControlState, event: ControlEvent) -> bool:
    """Whether a node that still acts on `state` could let through what `event` forbids."""
    match event:
        case KeyRevoked() | KeyTokenRevoked() | KeySuspended() | AgentSuspended() | AgentRemoved():
            return True
        case BudgetSet():
            before = state.budgets.get(account_key(event.account.kind, event.account.id))
            return _caps_tighten(before, event.account)
        case KeyChanged():
            key = state.keys.get(event.id)
            return key is not None and _key_tightens(key, event)
        case AgentUpdated():
            agent = state.agents.get(event.name)
            return agent is not None and _agent_tightens(agent, event)
        case _:
            return False


def _caps_tighten(before: AccountCaps | None, after: AccountCaps) -> bool:
    """A cap was added or lowered, or windows turn elsewhere."""
    old = {(cap.meter, cap.window): cap.amount for cap in before.caps} if before is not None else {}
    if before is not None and before.zone != after.zone and after.caps:
        return True
    return any((cap.meter, cap.window) not in old or cap.amount < old[cap.meter, cap.window] for cap in after.caps)


def _key_tightens(key: Key, event: KeyChanged) -> bool:
    return (
        event.expires_at_ns < key.expires_at_ns
        or _narrower(key.upstreams, event.upstreams)
        or _narrower(key.endpoints, event.endpoints)
        or _narrower(key.models, event.models)
        or _slower(key.rpm, event.rpm)
        or _slower(key.tpm, event.tpm)
    )


def _agent_tightens(agent: Agent, event: AgentUpdated) -> bool:
    """Another owner means another team's caps."""
    return agent.owner != event.owner or _slower(agent.rpm, event.rpm) or _slower(agent.tpm, event.tpm)


def _narrower(before: Collection[str], after: Collection[str]) -> bool:
    """Of lists in which empty means any."""
    return bool(after) and (not before or not set(before) <= set(after))


def _slower(before: int, after: int) -> bool:
    """Of limits in which 0 means none."""
    return after != 0 and (before == 0 or after < before)
