"""What control planes append to the control log."""

# ruff: noqa: RUF012 - msgspec makes a fresh empty dict for each struct

from typing import Literal

from events.facts import By, Fact
from schemas.accounts import AccountCaps
from schemas.amounts import Amounts


class LeaderStarted(Fact, frozen=True, tag="LeaderStarted/1"):
    """A control plane has fenced the one before it and now leads; `epoch` is its fence's sequence."""

    epoch: int
    version: str = ""


class Marked(Fact, frozen=True, tag="Marked/1"):
    """Nothing happened; its acknowledgement proves that the writer leads (rules A2, G4)."""


class AgentRegistered(Fact, frozen=True, tag="AgentRegistered/1"):
    """`made_for`: the key that came without an agent and got this one; it goes from the state with that key."""

    name: str
    by: By
    owner: str = ""
    purpose: str = ""
    cost_center: str = ""
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    at_ns: int = 0
    made_for: str = ""


class AgentUpdated(Fact, frozen=True, tag="AgentUpdated/1"):
    """The whole record after the change (PUT and PATCH alike)."""

    name: str
    by: By
    owner: str = ""
    purpose: str = ""
    cost_center: str = ""
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = {}


class AgentSuspended(Fact, frozen=True, tag="AgentSuspended/1"):
    name: str
    by: By


class AgentResumed(Fact, frozen=True, tag="AgentResumed/1"):
    name: str
    by: By


class AgentRemoved(Fact, frozen=True, tag="AgentRemoved/1"):
    """The agent had no live key and is gone from lists; nodes refuse its name until it is registered again."""

    name: str
    by: By


class BudgetSet(Fact, frozen=True, tag="BudgetSet/1"):
    """All caps of one account from now on (empty: none). A key's own caps come with its KeyIssued too."""

    account: AccountCaps
    by: By


class KeyIssued(Fact, frozen=True, tag="KeyIssued/1"):
    """A vault key, known by the digest of its token. `caps` are the key's own; `uncapped` was asked for."""

    id: str
    by: By
    token_sha256: str
    agent: str
    at_ns: int
    expires_at_ns: int
    identity: Literal["bound", "declared"] = "bound"
    allow_unknown_agents: bool = False
    label: str = ""
    upstreams: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    caps: AccountCaps | None = None
    uncapped: bool = False
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    metadata: dict[str, str] = {}


class KeyChanged(Fact, frozen=True, tag="KeyChanged/1"):
    """All that may change of a key, after the change. Its caps are not here: a BudgetSet beside it sets them."""

    id: str
    by: By
    expires_at_ns: int
    label: str = ""
    upstreams: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    uncapped: bool = False
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"
    metadata: dict[str, str] = {}


class KeySuspended(Fact, frozen=True, tag="KeySuspended/1"):
    id: str
    by: By


class KeyResumed(Fact, frozen=True, tag="KeyResumed/1"):
    id: str
    by: By


class KeyRevoked(Fact, frozen=True, tag="KeyRevoked/1"):
    """Terminal in every fold: nothing that lands later revives the key (rule B4)."""

    id: str
    by: By


class KeyTokenRevoked(Fact, frozen=True, tag="KeyTokenRevoked/1"):
    """One token of a key ends, the key's others go on. The last one's end comes with KeyRevoked."""

    id: str
    token_sha256: str
    by: By


class NodeJoined(Fact, frozen=True, tag="NodeJoined/1"):
    """An incarnation may append to its log while `fence_subject` still ends in `fence_seq`."""

    slot: str
    incarnation: str
    fence_seq: int
    at_ns: int
    pid: int = 0
    version: str = ""


class NodeFenced(Fact, frozen=True, tag="NodeFenced/1"):
    """For the record; what ends the incarnation is the Fenced message beside its own log."""

    slot: str
    incarnation: str
    reason: str
    fence_seq: int


class LeaseGranted(Fact, frozen=True, tag="LeaseGranted/1"):
    """`granted`: the incarnation's cumulative grants of these lines, recorded before they are sent (rule G2)."""

    incarnation: str
    granted: dict[str, int]


class RequestReconciled(Fact, frozen=True, tag="RequestReconciled/1"):
    """An operator says what a request of unknown outcome did cost; replaces its hold by `actual`."""

    request_id: str
    actual: Amounts
    by: By


class OperatorTokenIssued(Fact, frozen=True, tag="OperatorTokenIssued/1"):
    id: str
    name: str
    role: Literal["admin", "issuer", "auditor", "viewer"]
    token_sha256: str
    by: By
    at_ns: int
    expires_at_ns: int = 0


class OperatorTokenRevoked(Fact, frozen=True, tag="OperatorTokenRevoked/1"):
    id: str
    by: By


class OperatorTokenRotated(Fact, frozen=True, tag="OperatorTokenRotated/1"):
    """The operator's token is another one now; the one before works until `old_ends_at_ns`."""

    id: str
    token_sha256: str
    by: By
    at_ns: int
    old_ends_at_ns: int
    expires_at_ns: int = 0


class AlertRaised(Fact, frozen=True, tag="AlertRaised/1"):
    """Something that an operator should look at, once until it is cleared. `seen`: for what is counted, how many of
    them this alert covers, so that the next leader neither forgets nor repeats any.
    """

    id: str
    kind: str
    subject: str
    severity: Literal["warning", "critical"]
    message: str
    at_ns: int
    details: dict[str, str] = {}
    seen: int = 0


class AlertCleared(Fact, frozen=True, tag="AlertCleared/1"):
    """What the alert was raised for has been over for a while."""

    id: str
    kind: str
    subject: str
    message: str
    at_ns: int
    seen: int = 0


ControlEvent = (
    LeaderStarted
    | Marked
    | AgentRegistered
    | AgentUpdated
    | AgentSuspended
    | AgentResumed
    | AgentRemoved
    | BudgetSet
    | KeyIssued
    | KeyChanged
    | KeySuspended
    | KeyResumed
    | KeyRevoked
    | KeyTokenRevoked
    | NodeJoined
    | NodeFenced
    | LeaseGranted
    | RequestReconciled
    | OperatorTokenIssued
    | OperatorTokenRevoked
    | OperatorTokenRotated
    | AlertRaised
    | AlertCleared
)
