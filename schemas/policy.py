"""What nodes know: compiled policy records, and the feed that carries them.

The feed is a pure function of the control log: a record at sequence S is the fold of the log through S. So
there is no feed store that a stale writer could overwrite; a record with a lower sequence never replaces one
with a higher, whoever sent it, and a node serves only when its position covers its own NodeJoined.
"""

from typing import Literal

import msgspec

from schemas.accounts import AccountCaps

KeyState = Literal["active", "suspended", "revoked"]
AgentState = Literal["active", "suspended"]


class Who(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who stands behind a request, as the audit shows it. Copied into each RequestAdmitted."""

    key: str = ""
    label: str = ""
    agent: str = ""
    owner: str = ""
    purpose: str = ""
    cost_center: str = ""
    run: str = ""
    user: str = ""
    feature: str = ""


class KeyPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="key"):
    """One vault key. `tokens` are SHA-256 hexadecimal digests of its live tokens (never the tokens).

    `upstreams` empty = any. `endpoints` empty = any endpoint of those. `rpm`/`tpm` = 0: no limit.
    `capped`: a dollar cap applies (else the key was issued with `uncapped: true`).
    """

    id: str
    seq: int
    state: KeyState = "active"
    tokens: tuple[str, ...] = ()
    dead_tokens: tuple[str, ...] = ()
    agent: str = ""
    identity: Literal["bound", "declared"] = "bound"
    allow_unknown_agents: bool = False
    label: str = ""
    run: str = ""
    user: str = ""
    feature: str = ""
    upstreams: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    rpm: int = 0
    tpm: int = 0
    expires_at_ns: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"


class AgentPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="agent"):
    """One agent. `owner` is its team's name."""

    name: str
    seq: int
    state: AgentState = "active"
    owner: str = ""
    purpose: str = ""
    cost_center: str = ""
    rpm: int = 0
    tpm: int = 0
    on_exhausted: Literal["refuse", "suspend"] = "refuse"


class BudgetPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="budget"):
    """The caps of one account, of a key's own too. No caps: the account was uncapped again."""

    seq: int
    account: AccountCaps


class ClusterPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="cluster"):
    """How many nodes live, which divides the rate limits among them."""

    seq: int
    live_nodes: int = 1


Record = KeyPolicy | AgentPolicy | BudgetPolicy | ClusterPolicy


def record_id(record: Record) -> str:
    """The record's place in a snapshot; records of one place replace each other by sequence."""
    match record:
        case KeyPolicy():
            return f"key:{record.id}"
        case AgentPolicy():
            return f"agent:{record.name}"
        case BudgetPolicy():
            return f"budget:{record.account.kind}:{record.account.id}"
        case ClusterPolicy():
            return "cluster"


class FeedDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every record that changed in the control log after `from_seq` and through `to_seq`.

    A node at position p applies it when from_seq <= p, moving to max(p, to_seq); from_seq > p is a gap, and it
    asks for `catchup`. `now_ns` is the control plane's wall clock when it was sent; an empty delta is the
    feed's heartbeat. `settle_s`-like figures are not here: amounts travel in lease messages. `leaving`: the leader of
    this epoch says goodbye, so that a standby need not wait for its silence. `log_full`: the logs are so full that
    nothing may be admitted (rule L6); None: this leader has not looked yet, and what was said before stands.
    """

    epoch: int
    from_seq: int
    to_seq: int
    now_ns: int
    records: tuple[Record, ...] = ()
    resnapshot: bool = False
    leaving: bool = False
    log_full: bool | None = None
