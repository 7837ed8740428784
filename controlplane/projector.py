"""What nodes must know, compiled from the state: records of keys, agents, budgets and the cluster.

Pure. A record is what the fold of the control log says at a sequence, so there is no store of records that a stale
writer could overwrite, and the same log gives the same feed to every node (rule B4, docs/PROTOCOL.md).
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

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

EXPIRED_SENT_NS = 3_600 * 1_000_000_000
"""A node that starts is told of keys that expired within the last hour, so that it can say `key_expired`."""


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
            return _key_policy(key) if key is not None else None
        case "agent":
            agent = state.agents.get(name)
            return _agent_policy(agent) if agent is not None else None
        case "budget":
            account = state.budgets.get(name)
            return BudgetPolicy(state.budget_seqs[name], account) if account is not None else None
        case _:
            return _cluster_policy(state)


def records_of(state: ControlState, record_ids: Iterable[str]) -> tuple[Record, ...]:
    found = (record_of(state, record_id) for record_id in record_ids)
    return tuple(record for record in found if record is not None)


def _key_policy(key: Key) -> KeyPolicy:
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


def _agent_policy(agent: Agent) -> AgentPolicy:
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


def _cluster_policy(state: ControlState) -> ClusterPolicy:
    seq = max((max(node.joined_seq, node.fenced_seq) for node in state.nodes.values()), default=0)
    return ClusterPolicy(seq, max(1, len(live_nodes(state.nodes))))


class Catalogue:
    """Ids of all records, sorted, so that a snapshot can be handed out in chunks while the state changes."""

    def __init__(self, state: ControlState) -> None:
        self._state = state
        names = (
            *(f"key:{key_id}" for key_id in state.keys),
            *(f"agent:{name}" for name in state.agents),
            *(f"budget:{name}" for name in state.budgets),
        )
        self._ids = sorted((*names, CLUSTER))
        self._known = set(self._ids)

    def add(self, record_ids: Iterable[str]) -> None:
        for record_id in record_ids:
            if record_id not in self._known:
                self._known.add(record_id)
                insort(self._ids, record_id)

    def chunk(self, cursor: str, now_ns: int, max_bytes: int) -> tuple[tuple[Record, ...], str]:
        """Records after `cursor`, and the cursor of the next chunk; empty if this is the last.

        Tombstones of revoked keys are among them until the key's expiry: a node that loads the snapshot must not
        take a late record of before the revocation for something new.
        """
        records: list[Record] = []
        gone: list[str] = []
        size = 0
        begin = bisect_right(self._ids, cursor) if cursor else 0
        last = ""
        for record_id in islice(self._ids, begin, None):
            if size >= max_bytes:
                break
            last = record_id
            record = record_of(self._state, record_id)
            if record is None:
                gone.append(record_id)
            elif not self._is_stale(record, now_ns):
                records.append(record)
                size += len(msgspec.json.encode(record))
        else:
            last = ""
        self._forget(gone)
        return tuple(records), last

    def _is_stale(self, record: Record, now_ns: int) -> bool:
        """Of a key that has been expired for long: its own record, and its budget."""
        key = None
        if isinstance(record, KeyPolicy):
            key = self._state.keys.get(record.id)
        elif isinstance(record, BudgetPolicy) and record.account.kind == "key":
            key = self._state.keys.get(record.account.id)
        return key is not None and key.expires_at_ns + EXPIRED_SENT_NS < now_ns

    def _forget(self, gone: Sequence[str]) -> None:
        if gone:
            self._known.difference_update(gone)
            lost = set(gone)
            self._ids = [record_id for record_id in self._ids if record_id not in lost]
