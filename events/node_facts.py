"""What nodes append to their logs, and the fences and marks that control planes append beside them."""

from typing import Literal

import msgspec

from events.facts import Fact
from schemas.amounts import NOTHING, Amounts
from schemas.policy import Who


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
    """An attempt of a request was admitted and never sent: its hold is gone, nothing was spent."""

    request_id: str
    reason: str
    at_ns: int = 0
    attempt: int = 1


class ObjectExposure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A vendor's object with a life of its own, after this answer (rule S2).

    `ref` is `<upstream>/<vendor account or '-'>/<object id>`; `exposure_nanos` all that it has moved or may still
    move, in the meter's nano-dollars. The fold counts the difference to what it had counted. `amount_minor` and
    `currency` remember the object's own amount for calls whose body does not repeat it. `final`: the vendor does not
    change it any more, so no other answer about it is newer.
    """

    ref: str
    exposure_nanos: int
    meter: Literal["usd", "refund"] = "usd"
    amount_minor: int = 0
    currency: str = ""
    final: bool = False


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
