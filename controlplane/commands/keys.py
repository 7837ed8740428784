"""Issuing vault keys."""

from dataclasses import dataclass, field

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import (
    check_endpoints,
    check_metadata,
    check_models,
    check_name,
    check_text,
    check_upstreams,
    first,
)
from controlplane.commands.refusals import invalid, refuse
from events.state.control import ControlState
from events.types import AgentRegistered, ControlEvent, KeyIssued
from schemas.accounts import AccountCaps, Cap
from schemas.api import KeyIssue, KeyPatch, Usd
from schemas.caps import CAP_FIELDS, caps_dollars, make_caps
from schemas.ids import ID_BYTES, TOKEN_BYTES, is_name, key_id, token_sha256, vault_token
from schemas.settings import Defaults

MAX_KEYS = 500_000
"""Every node holds every key that can still be used, at about 2 kB each."""
MAX_AGENTS = 500_000

NANOS_PER_S = 1_000_000_000
NANOS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the configuration says about keys: the upstreams there are, and how long a key may last."""

    upstreams: frozenset[str]
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """`token` is shown once, to the caller, and kept nowhere."""

    id: str
    token: str = field(repr=False)


def issue(body: KeyIssue, rules: KeyRules) -> Command[IssuedKey]:
    """A new key, and its agent if that is not registered yet, in one append."""
    caps = make_caps(amounts_of(body))
    upstreams = (body.vendor,) if body.vendor else tuple(body.upstreams or ())

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[IssuedKey] | CommandRefusal:
        problem = _check(body, rules, caps, upstreams) or _check_state(body, state)
        if problem is not None:
            return problem
        issued = IssuedKey(key_id(moment.draw(ID_BYTES)), vault_token(moment.draw(TOKEN_BYTES)))
        agent = _agent_name(body, state, issued.id)
        seconds = body.expires_in.seconds if body.expires_in else rules.defaults.expires_in_s
        key = KeyIssued(
            id=issued.id,
            by=moment.by,
            token_sha256=token_sha256(issued.token),
            agent=agent,
            at_ns=moment.now_ns,
            expires_at_ns=expiry_ns(moment.now_ns, seconds),
            identity=body.identity or "bound",
            allow_unknown_agents=bool(body.allow_unknown_agents),
            label=body.label or "",
            upstreams=upstreams,
            endpoints=tuple(body.allowed_endpoints or ()),
            models=tuple(body.models or ()),
            caps=AccountCaps("key", issued.id, caps) if caps else None,
            uncapped=bool(body.uncapped),
            rpm=body.rate_limit_rpm or 0,
            tpm=body.rate_limit_tpm or 0,
            on_exhausted=body.on_exhausted or "refuse",
            metadata=body.metadata or {},
        )
        return Decision((*_new_agent(state, agent, key, asked_for=body.agent is not None), key), issued)

    return decide


def amounts_of(body: KeyIssue | KeyPatch) -> dict[str, int | None]:
    """The caps that a body names, by field, in nano-dollars or counts; UNSET fields are left out."""
    found: dict[str, int | None] = {}
    for name in CAP_FIELDS:
        value = getattr(body, name)
        if value is None or isinstance(value, int):
            found[name] = value
        elif isinstance(value, Usd):
            found[name] = value.nanos
    return found


def expiry_ns(now_ns: int, seconds: int) -> int:
    """When a key ends that lasts `seconds` from now, on a whole millisecond, never earlier than asked for."""
    end_ns = now_ns + seconds * NANOS_PER_S
    return -(-end_ns // NANOS_PER_MS) * NANOS_PER_MS


def check_spending(caps: tuple[Cap, ...], *, uncapped: bool) -> CommandRefusal | None:
    """A key says what it may spend: caps in dollars, or `uncapped`, and not both."""
    dollars = caps_dollars(caps)
    if uncapped and dollars:
        return invalid(
            "uncapped", "uncapped: true and a cap in dollars contradict each other", "Leave one of them out."
        )
    if not uncapped and not dollars:
        return refuse("cap_required", "the key has neither a cap in dollars nor uncapped: true", "uncapped")
    return None


def check_lasting(seconds: int, defaults: Defaults) -> CommandRefusal | None:
    if seconds <= defaults.max_expires_in_s:
        return None
    return invalid(
        "expires_in",
        f"a key may last at most {defaults.max_expires_in_s} seconds here",
        "Ask for less, or raise defaults.max_expires_in in the configuration.",
    )


def _check(body: KeyIssue, rules: KeyRules, caps: tuple[Cap, ...], upstreams: tuple[str, ...]) -> CommandRefusal | None:
    if body.vendor and body.upstreams:
        return invalid("vendor", "vendor and upstreams say the same thing", "Give one of them.")
    if body.allow_unknown_agents and body.identity != "declared":
        return invalid(
            "allow_unknown_agents",
            "allow_unknown_agents is for keys whose agents declare themselves",
            'Add "identity": "declared", or leave it out.',
        )
    return first(
        check_text("label", body.label),
        check_name("agent", body.agent),
        check_upstreams("vendor" if body.vendor else "upstreams", upstreams, rules.upstreams),
        check_endpoints(body.allowed_endpoints, upstreams, rules.upstreams),
        check_models(body.models),
        check_metadata(body.metadata),
        check_spending(caps, uncapped=bool(body.uncapped)),
        check_lasting(body.expires_in.seconds, rules.defaults) if body.expires_in else None,
    )


def _check_state(body: KeyIssue, state: ControlState) -> CommandRefusal | None:
    if len(state.keys) >= MAX_KEYS or len(state.agents) >= MAX_AGENTS:
        return refuse("too_many", "there are as many keys or agents as the nodes can hold")
    agent = state.agents.get(body.agent or "")
    if agent is not None and agent.state == "suspended" and not agent.removed:
        return refuse("agent_suspended", "the agent is suspended, so the key could not be used", "agent")
    return None


def _agent_name(body: KeyIssue, state: ControlState, issued_id: str) -> str:
    """The agent asked for; none if agents declare themselves; else one of the key's own.

    Its own is named by the label if nobody has that name yet: two keys of one label must not share an agent's
    limits unasked.
    """
    if body.agent:
        return body.agent
    if body.identity == "declared":
        return ""
    label = body.label or ""
    return label if is_name(label) and label not in state.agents else issued_id


def _new_agent(state: ControlState, name: str, key: KeyIssued, *, asked_for: bool) -> tuple[ControlEvent, ...]:
    known = state.agents.get(name)
    if not name or (known is not None and not known.removed):
        return ()
    return (AgentRegistered(name=name, by=key.by, at_ns=key.at_ns, made_for="" if asked_for else key.id),)
