"""Agents: register, replace, change, remove, suspend, resume."""

from collections.abc import Callable

from msgspec import UnsetType
from msgspec.structs import asdict

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import (
    check_metadata,
    check_name,
    check_purpose,
    check_text,
    check_unique,
    first,
)
from controlplane.commands.keys import MAX_AGENTS
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.state.registry import Agent
from events.types import AgentRegistered, AgentRemoved, AgentResumed, AgentSuspended, AgentUpdated, By
from schemas.api import AgentLimits, AgentLimitsPatch, AgentPatch, AgentPut


def agent_of(state: ControlState, name: str) -> Agent | CommandRefusal:
    agent = state.agents.get(name)
    if agent is None or agent.removed:
        return refuse("not_found", "there is no agent of this name")
    return agent


def put(name: str, body: AgentPut) -> Command[bool]:
    """Register or replace. The answer: whether it is new."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[bool] | CommandRefusal:
        after = _replaced(name, body, moment.by)
        problem = _check(after)
        if problem is not None:
            return problem
        agent = state.agents.get(name)
        if agent is None or agent.removed:
            if len(state.agents) >= MAX_AGENTS:
                return refuse("too_many", "there are as many agents as the nodes can hold")
            return Decision((AgentRegistered(**asdict(after), at_ns=moment.now_ns),), answer=True)
        return _update(agent, after, answer=False)

    return decide


def patch(name: str, body: AgentPatch) -> Command[bool]:
    """Change what the body names. The answer is always False: nothing new is made."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[bool] | CommandRefusal:
        agent = agent_of(state, name)
        if isinstance(agent, CommandRefusal):
            return agent
        after = _patched(agent, body, moment.by)
        return _check(after) or _update(agent, after, answer=False)

    return decide


def remove(name: str) -> Command[str]:
    """Refused while keys that can still be used name it."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        agent = state.agents.get(name)
        if agent is None:
            return refuse("not_found", "there is no agent of this name")
        if agent.removed:
            return Decision((), name, barrier_seq=agent.changed_seq)
        keys = sum(1 for key in state.keys.values() if key.agent == name and not key.ended(moment.now_ns))
        if keys:
            return refuse("agent_in_use", f"the agent still holds {keys} live keys")
        return Decision((AgentRemoved(name, moment.by),), name)

    return decide


def suspend(name: str) -> Command[str]:
    return _turn(name, lambda agent, by: (AgentSuspended(name, by),) if agent.state == "active" else (), waits=True)


def resume(name: str) -> Command[str]:
    return _turn(name, lambda agent, by: (AgentResumed(name, by),) if agent.state == "suspended" else (), waits=False)


def register_declared(name: str, owner: str, purpose: str) -> Command[bool]:
    """An agent that a declared identity named for the first time. The answer: whether it is new.

    An agent that an operator removed stays refused until an operator registers it again.
    """

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[bool] | CommandRefusal:
        if name in state.agents:
            return Decision((), answer=False)
        after = AgentUpdated(name=name, by=moment.by, owner=owner, purpose=purpose)
        problem = _check(after)
        if problem is not None:
            return problem
        if len(state.agents) >= MAX_AGENTS:
            return refuse("too_many", "there are as many agents as the nodes can hold")
        return Decision((AgentRegistered(**asdict(after), at_ns=moment.now_ns),), answer=True)

    return decide


Turn = Callable[[Agent, By], tuple[AgentSuspended | AgentResumed, ...]]


def _turn(name: str, turn: Turn, *, waits: bool) -> Command[str]:
    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        agent = agent_of(state, name)
        if isinstance(agent, CommandRefusal):
            return agent
        return Decision(turn(agent, moment.by), name, barrier_seq=agent.changed_seq if waits else 0)

    return decide


def _update(agent: Agent, after: AgentUpdated, *, answer: bool) -> Decision[bool]:
    new = asdict(after)
    same = all(getattr(agent, field) == value for field, value in new.items() if field != "by")
    return Decision((), answer, barrier_seq=agent.changed_seq) if same else Decision((after,), answer)


def _check(after: AgentUpdated) -> CommandRefusal | None:
    return first(
        check_name("name", after.name),
        check_name("owner", after.owner),
        check_purpose(after.purpose),
        check_text("cost_center", after.cost_center),
        check_unique("roles", after.roles),
        *(check_name("roles", role) for role in after.roles),
        check_metadata(after.metadata),
    )


def _replaced(name: str, body: AgentPut, by: By) -> AgentUpdated:
    limits = body.limits or AgentLimits()
    return AgentUpdated(
        name=name,
        by=by,
        owner=body.owner or "",
        purpose=body.purpose or "",
        cost_center=body.cost_center or "",
        rpm=limits.rate_limit_rpm or 0,
        tpm=limits.rate_limit_tpm or 0,
        on_exhausted=body.on_exhausted or "refuse",
        roles=tuple(body.roles or ()),
        metadata=body.metadata or {},
    )


def _patched(agent: Agent, body: AgentPatch, by: By) -> AgentUpdated:
    limits = AgentLimitsPatch() if isinstance(body.limits, UnsetType) else body.limits
    if limits is None:
        limits = AgentLimitsPatch(rate_limit_rpm=None, rate_limit_tpm=None)
    return AgentUpdated(
        name=agent.name,
        by=by,
        owner=agent.owner if isinstance(body.owner, UnsetType) else body.owner or "",
        purpose=agent.purpose if isinstance(body.purpose, UnsetType) else body.purpose or "",
        cost_center=agent.cost_center if isinstance(body.cost_center, UnsetType) else body.cost_center or "",
        rpm=agent.rpm if isinstance(limits.rate_limit_rpm, UnsetType) else limits.rate_limit_rpm or 0,
        tpm=agent.tpm if isinstance(limits.rate_limit_tpm, UnsetType) else limits.rate_limit_tpm or 0,
        on_exhausted=agent.on_exhausted if isinstance(body.on_exhausted, UnsetType) else body.on_exhausted,
        roles=agent.roles if isinstance(body.roles, UnsetType) else tuple(body.roles or ()),
        metadata=agent.metadata if isinstance(body.metadata, UnsetType) else body.metadata or {},
    )
