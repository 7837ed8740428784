"""Changing a vault key: PATCH. What a field left out was, it stays; `null` removes it."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.checks import (
    check_endpoints,
    check_metadata,
    check_models,
    check_text,
    check_upstreams,
    first,
)
from controlplane.commands.key_stops import key_of, refuse_ended
from controlplane.commands.keys import KeyRules, amounts_of, check_lasting, check_spending, expiry_ns
from controlplane.commands.refusals import invalid
from events.state.control import ControlState
from events.state.keys import Key
from events.types import BudgetSet, ControlEvent, KeyChanged
from schemas.accounts import AccountCaps, Cap, account_key
from schemas.api import KeyPatch
from schemas.caps import cap_amounts, caps_dollars, make_caps


def change(key_id: str, body: KeyPatch, rules: KeyRules) -> Command[str]:
    """Apply a PATCH. The answer is the key's id; without any difference only an open barrier is waited for."""

    def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[str] | CommandRefusal:
        key = key_of(state, key_id)
        if isinstance(key, CommandRefusal):
            return key
        before = state.budgets.get(account_key("key", key.id))
        old_caps = before.caps if before is not None else ()
        caps = make_caps({**cap_amounts(old_caps), **amounts_of(body)})
        after = _changed(key, body, caps, moment)
        problem = refuse_ended(key, moment.now_ns) or _check(body, after, caps, rules)
        if problem is not None:
            return problem
        events: list[ControlEvent] = []
        if not _same(key, after):
            events.append(after)
        if caps != old_caps:
            events.append(BudgetSet(AccountCaps("key", key.id, caps), moment.by))
        return Decision(tuple(events), key.id, barrier_seq=0 if events else key.changed_seq)

    return decide


def _changed(key: Key, body: KeyPatch, caps: tuple[Cap, ...], moment: Moment) -> KeyChanged:
    """The key after the patch, before any check."""
    upstreams = [body.vendor] if isinstance(body.vendor, str) else _either(body.upstreams, body.vendor)
    return KeyChanged(
        id=key.id,
        by=moment.by,
        expires_at_ns=(
            key.expires_at_ns
            if isinstance(body.expires_in, UnsetType)
            else expiry_ns(moment.now_ns, body.expires_in.seconds)
        ),
        label=key.label if isinstance(body.label, UnsetType) else body.label or "",
        upstreams=_listed(upstreams, key.upstreams),
        endpoints=_listed(body.allowed_endpoints, key.endpoints),
        models=_listed(body.models, key.models),
        uncapped=_uncapped(key, body, caps),
        rpm=key.rpm if isinstance(body.rate_limit_rpm, UnsetType) else body.rate_limit_rpm or 0,
        tpm=key.tpm if isinstance(body.rate_limit_tpm, UnsetType) else body.rate_limit_tpm or 0,
        on_exhausted=key.on_exhausted if isinstance(body.on_exhausted, UnsetType) else body.on_exhausted,
        metadata=key.metadata if isinstance(body.metadata, UnsetType) else body.metadata or {},
    )


def _either(upstreams: list[str] | UnsetType | None, vendor: str | UnsetType | None) -> list[str] | UnsetType | None:
    """`vendor: null` lifts the restriction as `upstreams: null` does."""
    return None if vendor is None and upstreams is UNSET else upstreams


def _listed(value: Sequence[str] | UnsetType | None, before: tuple[str, ...]) -> tuple[str, ...]:
    return before if isinstance(value, UnsetType) else tuple(value or ())


def _uncapped(key: Key, body: KeyPatch, caps: tuple[Cap, ...]) -> bool:
    """A first cap in dollars ends `uncapped` by itself; losing the last one needs `uncapped: true`."""
    if isinstance(body.uncapped, UnsetType):
        return key.uncapped and not caps_dollars(caps)
    return body.uncapped


def _check(body: KeyPatch, after: KeyChanged, caps: tuple[Cap, ...], rules: KeyRules) -> CommandRefusal | None:
    """Lists are checked only where the patch touches them: an upstream may have left the configuration."""
    if isinstance(body.vendor, str) and isinstance(body.upstreams, list):
        return invalid("vendor", "vendor and upstreams say the same thing", "Give one of them.")
    lists = not (body.vendor is UNSET and body.upstreams is UNSET)
    return first(
        check_text("label", after.label),
        check_upstreams("upstreams", after.upstreams, rules.upstreams) if lists else None,
        check_endpoints(after.endpoints, after.upstreams, rules.upstreams)
        if lists or body.allowed_endpoints is not UNSET
        else None,
        check_models(after.models),
        check_metadata(after.metadata),
        check_spending(caps, uncapped=after.uncapped),
        None if isinstance(body.expires_in, UnsetType) else check_lasting(body.expires_in.seconds, rules.defaults),
    )


def _same(key: Key, after: KeyChanged) -> bool:
    new = asdict(after)
    return all(getattr(key, name) == value for name, value in new.items() if name != "by")
