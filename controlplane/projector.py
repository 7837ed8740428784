"""What nodes must know, compiled from the state: records of keys, agents, budgets and the cluster.

Pure. A record is what the fold of the control log says at a sequence, so there is no store of records that a stale
writer could overwrite, and the same log gives the same feed to every node (rule B4, docs/PROTOCOL.md).
"""

from collections.abc import Iterable

from events.state.control import ControlState
from events.state.keys import Key
from events.state.nodes import live_nodes
from events.state.registry import Agent
from events.types import (
    AgentRegistered,
    AgentRemoved,
    AgentResumed,
    AgentSuspended,
    AgentUpdated,
    BudgetSet,
    ControlEvent,
    KeyChanged,
    KeyIssued,
    KeyResumed,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
    NodeFenced,
    NodeJoined,
)
from schemas.accounts import account_key
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, KeyPolicy, Record

CLUSTER = "cluster"


def changed_ids(events: Iterable[ControlEvent]) -> list[str]:
    """Ids of the records (schemas.policy.record_id) that these events may have changed, each once, in order."""
    ids: dict[str, None] = {}
    for event in events:
        match event:
            case KeyIssued():
                ids[f"key:{event.id}"] = None
                if event.caps is not None:
                    ids[f"budget:{account_key('key', event.id)}"] = None
            case KeyChanged() | KeySuspended() | KeyResumed() | KeyRevoked() | KeyTokenRevoked():
                ids[f"key:{event.id}"] = None
            case AgentRegistered() | AgentUpdated() | AgentSuspended() | AgentResumed() | AgentRemoved():
                ids[f"agent:{event.name}"] = None
            case BudgetSet():
                ids[f"budget:{account_key(event.account.kind, event.account.id)}"] = None
            case NodeJoined() | NodeFenced():
                ids[CLUSTER] = None
            case _:
                pass  # nothing that nodes act on
    return list(ids)


def record_of(state: ControlState, record_id: str) -> Record | None:
    """The record at this moment; None if the state knows nothing of it (any more)."""
    kind, _, name = record_id.partition(":")
    match kind:
        case "key":
            key = state.keys.get(name)
            return key_policy(key) if key is not None else None
        case "agent":
            agent = state.agents.get(name)
            return agent_policy(agent) if agent is not None else None
        case "budget":
            account = state.budgets.get(name)
            return BudgetPolicy(state.budget_seqs[name], account) if account is not None else None
        case _:
            return cluster_policy(state)


def records_of(state: ControlState, record_ids: Iterable[str]) -> tuple[Record, ...]:
    found = (record_of(state, record_id) for record_id in record_ids)
    return tuple(record for record in found if record is not None)


def key_policy(key: Key) -> KeyPolicy:
    return KeyPolicy(
        id=key.id,
        seq=key.changed_seq,
        state=key.state,
        tokens=key.tokens,
        dead_tokens=key.dead_tokens,
        agent=key.agent,
        identity=key.identity,
        allow_unknown_agents=key.allow_unknown_agents,
        label=key.label,
        run=key.metadata.get("run_id", ""),
        user=key.metadata.get("user", ""),
        feature=key.metadata.get("feature", ""),
        upstreams=key.upstreams,
        endpoints=key.endpoints,
        models=key.models,
        rpm=key.rpm,
        tpm=key.tpm,
        expires_at_ns=key.expires_at_ns,
        on_exhausted=key.on_exhausted,
    )


def agent_policy(agent: Agent) -> AgentPolicy:
    return AgentPolicy(
        name=agent.name,
        seq=agent.changed_seq,
        state=agent.state,
        owner=agent.owner,
        purpose=agent.purpose,
        cost_center=agent.cost_center,
        rpm=agent.rpm,
        tpm=agent.tpm,
        on_exhausted=agent.on_exhausted,
    )


def cluster_policy(state: ControlState) -> ClusterPolicy:
    seq = max((max(node.joined_seq, node.fenced_seq) for node in state.nodes.values()), default=0)
    return ClusterPolicy(seq, max(1, len(live_nodes(state.nodes))))
