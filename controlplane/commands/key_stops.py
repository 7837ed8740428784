"""Stopping vault keys: suspend, resume, and revoke by id, by token, or many at once.

Stops are repeatable. One whose change is already recorded has no events, but it still waits for the barrier of
that change: nobody is told that a key is stopped while a node may act on the old policy (rule B3).
"""

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.refusals import invalid, refuse
from events.state.control import ControlState
from events.state.keys import Key
from events.types import KeyResumed, KeyRevoked, KeySuspended, KeyTokenRevoked
from schemas.api import RevokeMany
from schemas.ids import token_sha256

REVOKED_AT_ONCE = 1000
"""Keys of one decision: their events fit in one log message (at most 1 MiB) several times over."""

SELECTORS = ("agent", "team", "run", "label", "upstream")


def key_of(state: ControlState, key_id: str) -> Key | CommandRefusal:
    """The key of that id. The refusal repeats nothing of it: it might be a token."""
    key = state.keys.get(key_id)
    return key if key is not None else refuse("not_found", "there is no key with this id")


def refuse_ended(key: Key, now_ns: int) -> CommandRefusal | None:
    if key.state == "revoked":
        return refuse("key_revoked", "the key is revoked")
    return refuse("key_expired", "the key has expired") if key.expires_at_ns <= now_ns else None


def suspend(key_id: str) -> Command[str]:
    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        key = key_of(state, key_id)
        if isinstance(key, CommandRefusal):
            return key
        problem = refuse_ended(key, moment.now_ns)
        if problem is not None:
            return problem
        events = (KeySuspended(key.id, moment.by),) if key.state == "active" else ()
        return Decision(events, key.id, barrier_seq=key.changed_seq)

    return decide


def resume(key_id: str) -> Command[str]:
    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        key = key_of(state, key_id)
        if isinstance(key, CommandRefusal):
            return key
        problem = refuse_ended(key, moment.now_ns)
        if problem is not None:
            return problem
        return Decision((KeyResumed(key.id, moment.by),) if key.state == "suspended" else (), key.id)

    return decide


def revoke(reference: str) -> Command[str]:
    """Revoke by id (every token of the key) or by token (that one; the last one ends the key)."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        digest = None if reference in state.keys else token_sha256(reference)
        key = state.keys.get(state.tokens.get(digest, "") if digest is not None else reference)
        if key is None:
            return refuse("not_found", "there is no key with this id or token")
        if key.state == "revoked" or digest in key.dead_tokens:
            return Decision((), key.id, barrier_seq=key.changed_seq)
        if digest is None or key.tokens == (digest,):
            return Decision((KeyRevoked(key.id, moment.by),), key.id)
        return Decision((KeyTokenRevoked(key.id, digest, moment.by),), key.id)

    return decide


@dataclass(frozen=True, slots=True)
class RevokedMany:
    """`revoked` keys by this decision (or that would be); `more` remain: decide again."""

    revoked: int
    more: bool = False


def revoke_many(body: RevokeMany) -> Command[RevokedMany]:
    """Revoke every key that the selector fits, at most REVOKED_AT_ONCE a decision."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[RevokedMany] | CommandRefusal:
        chosen = [name for name in SELECTORS if getattr(body, name) is not None]
        if len(chosen) != 1:
            return invalid(
                "selector", "exactly one of agent, team, run, label and upstream selects the keys", "Give one of them."
            )
        fits = _selector(chosen[0], getattr(body, chosen[0]), state)
        keys = [key for key in state.keys.values() if fits(key)]
        live = [key for key in keys if not key.ended(moment.now_ns)]
        if body.dry_run:
            return Decision((), RevokedMany(len(live)))
        events = tuple(KeyRevoked(key.id, moment.by) for key in live[:REVOKED_AT_ONCE])
        barrier_seq = max((key.changed_seq for key in keys if key.state == "revoked"), default=0)
        return Decision(events, RevokedMany(len(events), len(live) > len(events)), barrier_seq=barrier_seq)

    return decide


def _selector(name: str, wanted: str, state: ControlState) -> Callable[[Key], bool]:
    match name:
        case "agent":
            return lambda key: key.agent == wanted
        case "team":
            return lambda key: key.agent in state.agents and state.agents[key.agent].owner == wanted
        case "run":
            return lambda key: key.metadata.get("run_id") == wanted
        case "label":
            return lambda key: key.label == wanted
        case _:
            return lambda key: not key.upstreams or wanted in key.upstreams
