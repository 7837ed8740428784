r"""Agents: the fold of their events.

| state \ event | AgentRegistered | AgentUpdated | AgentSuspended | AgentResumed | AgentRemoved |
|---|---|---|---|---|---|
| (unknown) | active | - | - | - | - |
| active | - | active | suspended | - | removed |
| suspended | - | suspended | - | active | removed |
| removed | active | - | - | - | - |

A removed agent stays as a record that is `suspended` for the nodes, so that its name is refused, not taken for
one never seen. Two nodes may register the same declared agent at once: the second event changes nothing.

An agent made for one key, because that came without an agent, is dropped with the key (see events.state.keys),
unless something else came to depend on it: then `made_for` was cleared.
"""

from typing import Literal

import msgspec
from msgspec.structs import replace

from events.types import AgentRegistered, AgentRemoved, AgentResumed, AgentSuspended, AgentUpdated, By
from schemas.policy import AgentState

AgentEvent = AgentRegistered | AgentUpdated | AgentSuspended | AgentResumed | AgentRemoved


class Agent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One agent. `owner` is its team. `rpm`/`tpm` = 0: no limit. Sequences as in events.state.keys.Key."""

    name: str
    registered_seq: int
    changed_seq: int
    changed_by: By
    registered_at_ns: int = 0
    state: AgentState = "active"
    removed: bool = False
    owner: str = ""
    purpose: str = ""
    cost_center: str = ""
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    made_for: str = ""


def fold_agent(agents: dict[str, Agent], seq: int, event: AgentEvent) -> None:
    """Fold one event into `agents` (by name, in order of registration)."""
    agent = agents.get(event.name)
    if isinstance(event, AgentRegistered):
        if agent is None or agent.removed:
            agents.pop(event.name, None)  # a new registration is the newest, also in the dictionary's order
            agents[event.name] = _registered(seq, event)
        return
    if agent is None or agent.removed:
        return
    match event:
        case AgentUpdated():
            agents[event.name] = _updated(seq, agent, event)
        case AgentSuspended() if agent.state == "active":
            agents[event.name] = replace(agent, state="suspended", changed_seq=seq, changed_by=event.by)
        case AgentResumed() if agent.state == "suspended":
            agents[event.name] = replace(agent, state="active", changed_seq=seq, changed_by=event.by)
        case AgentRemoved():
            agents[event.name] = replace(agent, removed=True, state="suspended", changed_seq=seq, changed_by=event.by)
        case _:
            pass  # the table above: nothing changes


def adopt_agent(agents: dict[str, Agent], name: str, key_id: str) -> None:
    """A key names the agent: if it was made for another one, it now stays."""
    agent = agents.get(name)
    if agent is not None and agent.made_for not in {"", key_id}:
        agents[name] = replace(agent, made_for="")


def drop_made_for(agents: dict[str, Agent], name: str, key_id: str) -> None:
    """The key is dropped from the state, and with it the agent that was made for it alone."""
    agent = agents.get(name)
    if agent is not None and agent.made_for == key_id:
        del agents[name]


def _registered(seq: int, event: AgentRegistered) -> Agent:
    return Agent(
        name=event.name,
        registered_seq=seq,
        changed_seq=seq,
        changed_by=event.by,
        registered_at_ns=event.at_ns,
        owner=event.owner,
        purpose=event.purpose,
        cost_center=event.cost_center,
        rpm=event.rpm,
        tpm=event.tpm,
        on_exhausted=event.on_exhausted,
        roles=event.roles,
        metadata=event.metadata,
        made_for=event.made_for,
    )


def _updated(seq: int, agent: Agent, event: AgentUpdated) -> Agent:
    return replace(
        agent,
        changed_seq=seq,
        changed_by=event.by,
        owner=event.owner,
        purpose=event.purpose,
        cost_center=event.cost_center,
        rpm=event.rpm,
        tpm=event.tpm,
        on_exhausted=event.on_exhausted,
        roles=event.roles,
        metadata=event.metadata,
        made_for="",
    )
