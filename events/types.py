"""The facts that Ringfence's actors record: frozen structs, past tense, each with a tag `Name/version`.

Two unions: what control planes append to the control log, and what nodes append to theirs (with the fence
messages that control planes append beside a node's log). Rules of change: a new field gets a default, a field
is never retyped or given another meaning; a change that breaks this rule gets a new tag version, and an
upcaster (events.upcast) turns the old bytes into the new struct. Golden files under tests hold old bytes.
"""

from events.control_facts import (
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
    LeaderStarted,
    LeaseGranted,
    Marked,
    NodeFenced,
    NodeJoined,
    OperatorTokenIssued,
    OperatorTokenRevoked,
    RequestReconciled,
)
from events.facts import SYSTEM, By, Fact
from events.node_facts import (
    Applied,
    Fenced,
    FenceOpened,
    Heartbeat,
    LeaseReturned,
    LogMarked,
    NodeEvent,
    NodeStarted,
    NodeStopped,
    ObjectExposure,
    RequestAdmitted,
    RequestRefused,
    RequestReleased,
    RequestRevalidated,
    RequestSettled,
)

Event = ControlEvent | NodeEvent

__all__ = [
    "SYSTEM",
    "AgentRegistered",
    "AgentRemoved",
    "AgentResumed",
    "AgentSuspended",
    "AgentUpdated",
    "Applied",
    "BudgetSet",
    "By",
    "ControlEvent",
    "Event",
    "Fact",
    "FenceOpened",
    "Fenced",
    "Heartbeat",
    "KeyChanged",
    "KeyIssued",
    "KeyResumed",
    "KeyRevoked",
    "KeySuspended",
    "KeyTokenRevoked",
    "LeaderStarted",
    "LeaseGranted",
    "LeaseReturned",
    "LogMarked",
    "Marked",
    "NodeEvent",
    "NodeFenced",
    "NodeJoined",
    "NodeStarted",
    "NodeStopped",
    "ObjectExposure",
    "OperatorTokenIssued",
    "OperatorTokenRevoked",
    "RequestAdmitted",
    "RequestReconciled",
    "RequestRefused",
    "RequestReleased",
    "RequestRevalidated",
    "RequestSettled",
]
