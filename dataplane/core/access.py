"""Who calls, and whether they may: steps 2 to 4 of a request's way (docs/ARCHITECTURE.md), as values.

    find_key -> check_key -> identify -> [register a declared agent] -> Callers.get -> allow -> [read] -> allow_model

The same checks run again (`still_allowed`) after every wait of a request and before its first byte leaves, because
the policy may have changed meanwhile; they are cheap for that reason.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from dataplane.core.lines import Plan
from dataplane.core.snapshot import Snapshot
from schemas.accounts import ORG_ID, account_key
from schemas.identity import Identity, IdentityError, parse_identity
from schemas.ids import TOKEN_PREFIX
from schemas.patterns import Pattern, PatternError, matches, parse_pattern
from schemas.policy import AgentPolicy, KeyPolicy, Who
from schemas.refusals import Refusal, refuse

MAX_CALLERS: Final = 20_000
"""Derived callers kept per node, about 2 kB each; above it the table starts anew (deriving one costs 20 us)."""

MAX_VERDICTS: Final = 64
"""Verdicts kept per caller: an agent uses few endpoints, and paths with ids in them come and go."""

_UNKNOWN: Final = refuse("unknown_key", "the request carries no vault key that this gateway knows")
_TWO_KEYS: Final = refuse("unknown_key", "the request carries two different vault keys")
_REVOKED: Final = refuse("key_revoked", "the vault key is revoked")
_EXPIRED: Final = refuse("key_expired", "the vault key has expired")
_SUSPENDED: Final = refuse("key_suspended", "the vault key is suspended")
_AGENT_SUSPENDED: Final = refuse("agent_suspended", "the agent is suspended")
_NEEDS_IDENTITY: Final = refuse(
    "identity_required", "the vault key belongs to several agents; name one in X-Agent-Identity"
)
_TWO_IDENTITIES: Final = refuse("identity_invalid", "X-Agent-Identity is given more than once")


class Limit:
    """A rate limit of the caller: `bucket` names it, `per_minute` units, `tokens` or else requests."""

    __slots__ = ("bucket", "per_minute", "tokens")

    def __init__(self, bucket: str, per_minute: int, *, tokens: bool) -> None:
        self.bucket: Final = bucket
        self.per_minute: Final = per_minute
        self.tokens: Final = tokens


class Caller:
    """A key and an agent, with everything that requests need of them, derived once per pair of records."""

    __slots__ = ("accounts", "agent", "key", "limits", "patterns", "plan", "verdicts", "who")

    def __init__(self, key: KeyPolicy, agent: AgentPolicy, purpose: str) -> None:
        self.key = key
        self.agent = agent
        self.who = Who(
            key=key.id,
            label=key.label,
            agent=agent.name,
            owner=agent.owner,
            purpose=agent.purpose or purpose,
            cost_center=agent.cost_center,
            run=key.run,
            user=key.user,
            feature=key.feature,
        )
        self.accounts = accounts_of(self.who)
        self.patterns = _compile(key.endpoints)
        self.limits = _limits(key, agent)
        self.plan: Plan | None = None
        self.verdicts: dict[tuple[str, str, tuple[str, ...]], Refusal | None] = {}


class Unregistered(NamedTuple):
    """The key may bring new agents, and this one is not known yet: register it, then identify again."""

    identity: Identity


def accounts_of(who: Who) -> tuple[str, ...]:
    """The accounts (`kind:id`) that a request belongs to."""
    team = (account_key("team", who.owner),) if who.owner else ()
    return (account_key("key", who.key), account_key("agent", who.agent), *team, account_key("org", ORG_ID))


def find_key(
    snapshot: Snapshot, tokens: Sequence[str], known: bytes = b"", known_digest: bytes = b""
) -> tuple[KeyPolicy, bytes] | Refusal:
    """The key of the credentials that a request carries, and the digest of its token. `known`: a token whose digest was
    made before, for an earlier request of the same connection.

    Credentials that are not vault keys are passed over (the adapter strips them all); two different vault keys are
    refused, since who is meant would depend on the reader.
    """
    found = b""
    for token in tokens:
        if token.startswith(TOKEN_PREFIX):
            sent = token_bytes(token)
            digest = known_digest if sent == known else hashlib.sha256(sent).digest()
            if found and digest != found:
                return _TWO_KEYS
            found = digest
    key = snapshot.key_of(found) if found else None
    return (key, found) if key is not None else _UNKNOWN


def flow_of(key: KeyPolicy) -> str:
    """With which others a key's requests are counted where a node has too much to do: its agent's. A key whose callers
    declare who they are is one flow: it is one caller's.
    """
    return key.agent or key.id


def token_bytes(token: str) -> bytes:
    """A credential as it was sent. (Naming an error handler costs more than the digest.)"""
    return token.encode() if token.isascii() else token.encode("utf-8", "surrogateescape")


def check_key(key: KeyPolicy, digest: bytes, now_ns: int) -> Refusal | None:
    """Whether the key lives. `now_ns`: the control plane's time."""
    if key.state == "revoked" or (key.dead_tokens and digest.hex() in key.dead_tokens):
        return _REVOKED
    if 0 < key.expires_at_ns <= now_ns:
        return _EXPIRED
    if key.state != "active":
        return _SUSPENDED
    return None


def identify(
    snapshot: Snapshot, key: KeyPolicy, headers: Sequence[str]
) -> tuple[AgentPolicy, str] | Unregistered | Refusal:
    """Which agent acts, and the purpose it declares ("" for none). `headers`: values of X-Agent-Identity."""
    if len(headers) > 1:
        return _TWO_IDENTITIES
    said: Identity | None = None
    if headers:
        try:
            said = parse_identity(headers[0])
        except IdentityError as error:
            return refuse("identity_invalid", f"X-Agent-Identity: {error}")
    if key.identity == "bound":
        name = key.agent
        if said is not None and said.name != name:
            return refuse("identity_mismatch", "X-Agent-Identity names another agent than the vault key's")
    elif said is None:
        return _NEEDS_IDENTITY
    else:
        name = said.name
    agent = snapshot.agents.get(name)
    if agent is None:
        if key.identity == "declared" and key.allow_unknown_agents and said is not None:
            return Unregistered(said)
        return refuse("agent_unknown", "the agent is not registered")
    return _agree(agent, said)


def _agree(agent: AgentPolicy, said: Identity | None) -> tuple[AgentPolicy, str] | Refusal:
    """A claim must agree with what is registered.

    Where nothing is, an owner is ignored (it would move the request to another team's budget) and a purpose is
    taken for the record.
    """
    if said is None:
        return agent, ""
    if said.owner and agent.owner and said.owner != agent.owner:
        return refuse("identity_mismatch", "X-Agent-Identity names another owner than the agent's")
    if said.purpose and agent.purpose and said.purpose != agent.purpose:
        return refuse("identity_mismatch", "X-Agent-Identity names another purpose than the agent's")
    return agent, said.purpose


class Callers:
    """Derived callers, kept as long as their records stay the same."""

    def __init__(self) -> None:
        self._callers: dict[tuple[str, str, str], Caller] = {}

    def get(self, key: KeyPolicy, agent: AgentPolicy, purpose: str) -> Caller:
        place = (key.id, agent.name, purpose)
        caller = self._callers.get(place)
        if caller is None or caller.key is not key or caller.agent is not agent:
            if len(self._callers) >= MAX_CALLERS:
                self._callers.clear()
            caller = self._callers[place] = Caller(key, agent, purpose)
        return caller


def allow(caller: Caller, upstream: str, method: str, segments: tuple[str, ...]) -> Refusal | None:
    """Step 4 but for the model. Verdicts are kept as long as the caller: its records do not change."""
    place = (upstream, method, segments)
    try:
        return caller.verdicts[place]
    except KeyError:
        pass
    if len(caller.verdicts) >= MAX_VERDICTS:
        caller.verdicts.clear()
    verdict = caller.verdicts[place] = _allow(caller, upstream, method, segments)
    return verdict


def _allow(caller: Caller, upstream: str, method: str, segments: tuple[str, ...]) -> Refusal | None:
    """Upstream, suspended agent, (deny rules), endpoints. The first that denies wins."""
    if caller.key.upstreams and upstream not in caller.key.upstreams:
        return refuse("upstream_not_allowed", f"the vault key was not issued for {upstream}")
    if caller.agent.state != "active":
        return _AGENT_SUSPENDED
    # Deny rules come here, in their order: before the allowlist, so that none of it can be reached around them.
    if caller.patterns is not None and not _any(caller.patterns, upstream, method, segments):
        return refuse("endpoint_not_allowed", f"the vault key does not allow {method} on this path")
    return None


def allow_model(caller: Caller, model: str) -> Refusal | None:
    """Whether the key's list holds the model; `gpt-4o*` at its end means any rest. Calls without one pass."""
    models = caller.key.models
    if not models or not model or model in models:
        return None
    if any(entry.endswith("*") and model.startswith(entry[:-1]) for entry in models):
        return None
    return refuse("model_not_allowed", "the vault key does not allow this model", model=model[:128])


def still_allowed(
    snapshot: Snapshot,
    caller: Caller,
    digest: bytes,
    now_ns: int,
    call: tuple[str, str, tuple[str, ...], str],
) -> tuple[Caller, Refusal | None]:
    """The same checks for a request that was let in earlier; `call`: upstream, method, segments, model.

    Returns the caller to go on with (derived anew where a record changed) and the refusal, if any.
    """
    key = snapshot.keys.get(caller.key.id)
    agent = snapshot.agents.get(caller.agent.name)
    if key is None or agent is None:
        return caller, _REVOKED if key is None else refuse("agent_unknown", "the agent is not registered")
    if key is not caller.key or agent is not caller.agent:
        caller = Caller(key, agent, caller.who.purpose)
        upstream, method, segments, model = call
        if digest.hex() not in key.tokens:
            return caller, _REVOKED
        refusal = check_key(key, digest, now_ns) or allow(caller, upstream, method, segments)
        return caller, refusal or allow_model(caller, model)
    # Endpoint and model were allowed under these very records. Both lives are looked at again: the key's may end by
    # time alone, and whoever let the request in may have looked at neither.
    return caller, check_key(key, digest, now_ns) or (_AGENT_SUSPENDED if agent.state != "active" else None)


def _compile(endpoints: Sequence[str]) -> tuple[Pattern, ...] | None:
    """None: any endpoint. An entry that does not parse allows nothing, rather than everything."""
    if not endpoints:
        return None
    patterns = []
    for text in endpoints:
        try:
            patterns.append(parse_pattern(text))
        except PatternError:
            continue
    return tuple(patterns)


def _any(patterns: Sequence[Pattern], upstream: str, method: str, segments: tuple[str, ...]) -> bool:
    return any(matches(pattern, upstream, method, segments) for pattern in patterns)


def _limits(key: KeyPolicy, agent: AgentPolicy) -> tuple[Limit, ...]:
    of_key, of_agent = account_key("key", key.id), account_key("agent", agent.name)
    every = (
        Limit(f"{of_key}:rpm", key.rpm, tokens=False),
        Limit(f"{of_agent}:rpm", agent.rpm, tokens=False),
        Limit(f"{of_key}:tpm", key.tpm, tokens=True),
        Limit(f"{of_agent}:tpm", agent.tpm, tokens=True),
    )
    return tuple(limit for limit in every if limit.per_minute > 0)
