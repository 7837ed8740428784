"""The facts that Ringfence's actors record: frozen structs, past tense, each with a tag `Name/version`.

Two unions: what control planes append to the control log, and what nodes append to theirs (with the fence
messages that control planes append beside a node's log). Rules of change: a new field gets a default, a field
is never retyped or given another meaning; a change that breaks this rule gets a new tag version, and an
upcaster (events.upcast) turns the old bytes into the new struct. Golden files under tests hold old bytes.
"""

from typing import Literal

import msgspec

from schemas.accounts import AccountCaps
from schemas.amounts import NOTHING, Amounts
from schemas.policy import Who


class Fact(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    """Base of all events."""


class By(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who caused a control event: an operator's id and name, their address, the reason given."""

    operator: str = ""
    name: str = ""
    address: str = ""
    reason: str = ""


SYSTEM = By(name="ringfence")
"""The control plane itself, for what it decides on its own (fences, automatic suspensions)."""


# ---------------------------------------------------------------- control log


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
)


# ---------------------------------------------------------------- node logs


class FenceOpened(Fact, frozen=True, tag="FenceOpened/1"):
    """First message on an actor's fence subject; its sequence is what the actor's appends assert (rule L2)."""

    actor: str
    epoch: int = 0


class Fenced(Fact, frozen=True, tag="Fenced/1"):
    """On an actor's fence subject: from this sequence on its appends fail, whatever it believes."""

    actor: str
    reason: str
    epoch: int = 0


class LogMarked(Fact, frozen=True, tag="LogMarked/1"):
    """On the nodes' mark subject, by the leader: a fold that has passed it holds all that came before (G4)."""

    epoch: int
    n: int


class NodeStarted(Fact, frozen=True, tag="NodeStarted/1"):
    """First event of an incarnation's log."""

    slot: str
    at_ns: int
    pid: int = 0
    version: str = ""


class NodeStopped(Fact, frozen=True, tag="NodeStopped/1"):
    """Last event of an incarnation that drained: nothing is in flight, its leases have been returned."""

    at_ns: int


class Heartbeat(Fact, frozen=True, tag="Heartbeat/1"):
    """The node is alive and idle (rule A2)."""


class Applied(Fact, frozen=True, tag="Applied/1"):
    """The node's snapshot holds the control log through this sequence, gapless, and acts on it (rule B1)."""

    through: int


class LeaseReturned(Fact, frozen=True, tag="LeaseReturned/1"):
    """`returned`: the incarnation's cumulative returns of these lines."""

    returned: dict[str, int]


class RequestAdmitted(Fact, frozen=True, tag="RequestAdmitted/1"):
    """A request may go out: it holds `bound` in its accounts until it is settled or released.

    `at_ns`: the control plane's time at admission, which fixes its windows. `lines`: the capped lines that were
    leased. Accounts follow from `who`: its key, agent, owner (team) and the organisation. `idempotency`: a digest of
    whose idempotency key it carries to the vendor, "" if it carries none (rule S1); equal for repeats of one call.
    """

    request_id: str
    at_ns: int
    who: Who
    upstream: str
    operation: str
    method: str
    path: str
    bound: Amounts = NOTHING
    lines: tuple[str, ...] = ()
    attempt: int = 1
    model: str = ""
    client: str = ""
    policy_seq: int = 0
    stream: bool = False
    idempotency: str = ""


class RequestRevalidated(Fact, frozen=True, tag="RequestRevalidated/1"):
    """Fresh proof for a request already admitted (rule A3); no second hold."""

    request_id: str


class RequestReleased(Fact, frozen=True, tag="RequestReleased/1"):
    """An admitted request was never sent: its hold is gone, nothing was spent."""

    request_id: str
    reason: str
    at_ns: int = 0


class ObjectExposure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A vendor's object with a life of its own, after this answer (rule S2).

    `ref` is `<upstream>/<vendor account or '-'>/<object id>`; `exposure_nanos` all that it has moved or may still
    move, in the meter's nano-dollars. The fold counts the difference to what it had counted. `amount_minor` and
    `currency` remember the object's own amount for calls whose body does not repeat it.
    """

    ref: str
    exposure_nanos: int
    meter: Literal["usd", "refund"] = "usd"
    amount_minor: int = 0
    currency: str = ""


class RequestSettled(Fact, frozen=True, tag="RequestSettled/1"):
    """The end of an admitted request.

    outcome `settled`: `actual` is what it cost, but for the meter of `object`, which is settled by difference.
    outcome `unknown`: no trustworthy answer; its bound stays held until reconciled or resolved.
    `resolves`: the vendor replayed this answer for the idempotency key of that digest (RequestAdmitted.idempotency),
    so it resolves every other attempt under it whose outcome is unknown, or becomes so later (rule S1). Times are
    durations; `overhead_us` is the gateway's own share.
    """

    request_id: str
    outcome: Literal["settled", "unknown"]
    at_ns: int
    actual: Amounts = NOTHING
    object: ObjectExposure | None = None
    status: int = 0
    attempt: int = 1
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    tool_calls: int = 0
    latency_us: int = 0
    overhead_us: int = 0
    error: str = ""
    resolves: str = ""
    client_gone: bool = False


class RequestRefused(Fact, frozen=True, tag="RequestRefused/1"):
    """`count` requests were refused alike between `first_at_ns` and `last_at_ns`; facts are the first one's."""

    request_id: str
    code: str
    first_at_ns: int
    last_at_ns: int
    who: Who
    count: int = 1
    status: int = 0
    upstream: str = ""
    method: str = ""
    path: str = ""
    model: str = ""
    client: str = ""
    bound: Amounts = NOTHING
    line: str = ""
    message: str = ""


NodeEvent = (
    FenceOpened
    | Fenced
    | LogMarked
    | NodeStarted
    | NodeStopped
    | Heartbeat
    | Applied
    | LeaseReturned
    | RequestAdmitted
    | RequestRevalidated
    | RequestReleased
    | RequestSettled
    | RequestRefused
)

Event = ControlEvent | NodeEvent
