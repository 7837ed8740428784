"""Messages between a node and the leading control plane over core NATS (JSON, at most once, repeated safely).

Requests go to `rf.rpc.<slot>.<method>`; the slot is proven by the bus's permissions, not by the message.
Amounts are cumulative per incarnation and line, so a lost, doubled or late message changes nothing (rule G2).
"""

from typing import Annotated, Literal

import msgspec

from schemas.policy import Record

Units = Annotated[int, msgspec.Meta(ge=0)]


class JoinAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `join`. `nonce` is drawn once per attempt to join; a repeat gets the same answer."""

    nonce: str
    pid: int = 0
    version: str = ""


class JoinAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`fence_seq`: the sequence at which the incarnation's fence subject was opened; appends assert it.

    `joined_seq`: the control log's sequence of its NodeJoined; the node serves once its feed covers it (F5).
    `log_full`: as FeedDelta's.
    """

    incarnation: str
    fence_subject: str
    fence_seq: int
    log_subject: str
    joined_seq: int
    epoch: int
    now_ns: int
    log_full: bool | None = None


class SnapshotAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `snapshot`: the chunk at `cursor` (from the chunk before; empty = the first)."""

    cursor: str = ""


class SnapshotChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of all records as of `as_of_seq`, in the form of schemas.packed. `next_cursor` empty = the last chunk.

    The snapshot may be some seconds old: what has changed after `as_of_seq` is asked for with `catchup`. A cursor that
    is no longer known is answered with an error; the node then begins anew.
    """

    as_of_seq: int
    now_ns: int
    packed: bytes = b""
    next_cursor: str = ""


class CatchupAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `catchup`: answered with a FeedDelta from `after_seq` (or `resnapshot` if too far back)."""

    after_seq: int


class LeaseAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `ask`: the whole bound in all of the request's capped lines, all or none (rule G1).

    `lines` maps line key -> amount. `ahead` marks an ask without a waiting request (taken ahead of need): it is
    answered at once with what can be lent, possibly nothing, and never with a refusal.
    """

    ask_id: str
    incarnation: str
    lines: dict[str, int]
    ahead: bool = False


class LeaseRefusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why it does not fit: the first line in the ask's order of which settled + held + bound > cap."""

    line: str
    cap: int
    settled: int
    held: int
    resets_at_s: int | None = None

    @property
    def remaining(self) -> int:
        return max(0, self.cap - self.settled - self.held)


class LeaseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`granted`: cumulative grants per line of this incarnation (credit what is new).

    outcome: `granted`; `refused` (402, with `refusal`); `unavailable` (503: it fits but could not be got back
    in time); `window_turned` (a line's window is over or not begun by the ledger's clock, or the account's caps
    changed: recompute the lines with `now_ns` and ask again); `fenced` (this incarnation is over: re-join).
    `tight` lines: for a second, whatever requests leave over goes back at once (rule G5). `log_full`: `unavailable`
    because the logs are too full to admit anything (rule L6).
    """

    ask_id: str
    outcome: Literal["granted", "refused", "unavailable", "window_turned", "fenced"]
    now_ns: int
    granted: dict[str, int] = {}
    tight: tuple[str, ...] = ()
    refusal: LeaseRefusal | None = None
    log_full: bool = False


class ObjectAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `object`: what is counted for a vendor's object, `ref` = `<upstream>/<account>/<object id>`.

    `idempotency`: set by request `request_id` whose answer was replayed, to learn of `earlier_unknown` too.
    """

    ref: str
    idempotency: str = ""
    request_id: str = ""


class ObjectAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`counted_usd_nanos` is None for an object the ledger has never seen. `amount_minor`/`currency`: the
    object's own amount as last seen, for calls whose body does not repeat it (confirm, capture).
    `earlier_unknown`: another attempt with the ask's idempotency key has no outcome yet (rule S1).
    """

    ref: str
    counted_usd_nanos: int | None = None
    amount_minor: int = 0
    currency: str = ""
    key: str = ""
    earlier_unknown: bool = False


class RegisterAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `register`: an agent that a declared identity named for the first time."""

    key: str
    name: str
    owner: str = ""
    purpose: str = ""


class RegisterAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`records`: the agent's record (and its budgets) if it exists now; `error` says why not."""

    to_seq: int = 0
    records: tuple[Record, ...] = ()
    error: str = ""


class UsageAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `usage`: what a vault key's own holder may see of it (`GET /v1/usage` at a node)."""

    key: str


class AgentUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One agent's share of a key's settled requests and dollars in the period."""

    agent: str
    requests: int = 0
    usd_nanos: int = 0


class CapUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the key's own caps and where it stands; `resets_at_s` None: never."""

    meter: str
    window: str
    cap: int
    settled: int = 0
    held: int = 0
    resets_at_s: int | None = None


class UsageAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key's settled requests and dollars since `period_start_s` (the control plane's current day, UTC).

    `known` False: no such key.
    """

    key: str
    known: bool = True
    period: str = "day"
    period_start_s: int = 0
    total_requests: int = 0
    total_usd_nanos: int = 0
    by_agent: tuple[AgentUsage, ...] = ()
    caps: tuple[CapUsage, ...] = ()


class RateUse(msgspec.Struct, frozen=True, array_like=True):
    """One rate limit at one node. `held`: its share; `used` of it within the last minute; `wanted` and `short`: units
    asked for, and refused, since its last report; `frees_ms`: when the first of the used ones comes back.

    `ages`, in a node's last report: what was used in each of the last spans of `RATE_SPAN_S`, newest first.
    """

    held: Units
    used: Units
    wanted: Units = 0
    short: Units = 0
    frees_ms: Units = 0
    ages: tuple[Units, ...] = ()


RATE_SPAN_S = 5


class RatesAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Method `rates`: what a node's process holds and wants of rate limits, every second while it holds any.

    `holder` is drawn once per process: its next incarnation goes on with the same shares. `n` counts its asks; only
    the answer to the newest counts, so each ask also says which answers have arrived. `begin` and `end` mark the first
    and last part of everything that it holds, for a leader that does not know it yet; an ask without them holds what
    has changed.
    """

    incarnation: str
    holder: str
    n: int
    uses: dict[str, RateUse] = {}
    begin: bool = False
    end: bool = False


class RateShare(msgspec.Struct, frozen=True, array_like=True):
    """What a node's share of a limit should be: more holds at once, less as soon as what was used allows.

    `part`: its part of the demand while there is more than the limit, which sets its pace (0: there is not).
    `coming`: more is being called back from others. `frees_ms`: when others may have something (0: not known).
    """

    units: Units
    part: Units = 0
    coming: bool = False
    frees_ms: Units = 0


class RatesAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`nodes` live, for the even part to which a share falls when nobody answers. `resync`: tell everything anew."""

    epoch: int
    nodes: int
    shares: dict[str, RateShare] = {}
    resync: bool = False


class Recall(msgspec.Struct, frozen=True, omit_defaults=True, tag="recall"):
    """Pushed to `rf.push.<slot>`: credit `granted`, return everything unreserved on these lines, and treat
    them as tight for `tight_ms`. There is no answer but LeaseReturned in the node's log.
    """

    incarnation: str
    granted: dict[str, int]
    tight_ms: int = 1000


class Grants(msgspec.Struct, frozen=True, omit_defaults=True, tag="grants"):
    """Pushed to `rf.push.<slot>`: cumulative grants, ahead of need."""

    incarnation: str
    granted: dict[str, int]


Push = Recall | Grants


class RpcError(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="error", tag="rpc_error"):
    """Answer of any method that could not be served. `not_leader`: ask again, another one leads."""

    code: Literal["not_leader", "bad_request", "unavailable"]
    message: str
