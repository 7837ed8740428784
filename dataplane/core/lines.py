"""Which lines a request needs leases on, and caps that need none.

A *plan* is derived from the caps of the caller's accounts: the leased lines of the current windows, in the order key,
agent, team, organisation, and the caps of single requests. It holds until a record changes or a window turns, so a
request only multiplies it with its bound.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from dataplane.core.snapshot import Snapshot
from schemas.accounts import (
    METERS,
    NANOS_PER_S,
    AccountCaps,
    account_key,
    line_key,
    parse_line,
    window_end_s,
    window_start_s,
)
from schemas.amounts import Amounts
from schemas.money import format_usd
from schemas.refusals import Refusal, refuse

_INDEX: Final = {meter: index for index, meter in enumerate(METERS)}
_MONEY: Final = frozenset({"usd", "refund"})

FOREVER_NS: Final = 2**63 - 1

LONGEST_S: Final = {"hour": 3600, "day": 25 * 3600, "month": 31 * 86_400 + 3600}
"""The longest window of a kind in any zone. Where one ends follows from the account's zone, which may change; a line
that was forgotten too early is credited anew with all that was ever granted on it."""

LINE_KEPT_NS: Final = 26 * 3600 * NANOS_PER_S
"""After its window's end a line stays for a day and more: a late message about it must still find its figures."""


class LeasedCap:
    """A capped line of the current window. `meter`: its index in METERS."""

    __slots__ = ("line", "meter")

    def __init__(self, meter: int, line: str) -> None:
        self.meter: Final = meter
        self.line: Final = line


class RequestCap(NamedTuple):
    """A cap of each single request."""

    meter: int
    account: str
    amount: int


class Plan(NamedTuple):
    """Caps that apply to a caller in [from_ns, until_ns) under one version of the snapshot's caps.

    `meters`: those that any of the caps is on; a call without a bound on one of them is refused. `meter_of`: that of
    each leased line.
    """

    version: int
    from_ns: int
    until_ns: int
    leased: tuple[LeasedCap, ...]
    per_request: tuple[RequestCap, ...]
    meters: frozenset[str]
    meter_of: dict[str, str]


def make_plan(snapshot: Snapshot, accounts: tuple[str, ...], now_ns: int) -> Plan:
    """Derive the plan of a caller. `now_ns`: the control plane's time, which fixes the windows."""
    leased: list[LeasedCap] = []
    single: list[RequestCap] = []
    until_ns = FOREVER_NS
    meters = set()
    for account in accounts:
        record = snapshot.caps_of(account)
        if record is None:
            continue
        for cap in record.caps:
            meters.add(cap.meter)
            if cap.window == "request":
                single.append(RequestCap(_INDEX[cap.meter], account, cap.amount))
                continue
            start_s = window_start_s(cap.window, now_ns, record.zone)
            leased.append(
                LeasedCap(_INDEX[cap.meter], line_key(record.kind, record.id, cap.meter, cap.window, start_s))
            )
            until_ns = min(until_ns, _end_ns(record, cap.window, start_s))
    meter_of: dict[str, str] = {cap.line: METERS[cap.meter] for cap in leased}
    return Plan(snapshot.caps_version, now_ns, until_ns, tuple(leased), tuple(single), frozenset(meters), meter_of)


def holds(plan: Plan, snapshot: Snapshot, now_ns: int) -> bool:
    """Whether a kept plan still applies."""
    return plan.version == snapshot.caps_version and plan.from_ns <= now_ns < plan.until_ns


def needs(plan: Plan, bound: Amounts) -> dict[str, int]:
    """Line -> amount, for every leased cap of which the bound takes something."""
    if not plan.leased:
        return {}
    amounts = [bound.usd, bound.refund, bound.requests, bound.tokens]
    found: dict[str, int] = {}
    for cap in plan.leased:
        amount = amounts[cap.meter]
        if amount > 0:
            found[cap.line] = amount
    return found


def must_be_bounded(plan: Plan, meter: str) -> bool:
    """Whether a call whose `meter` has no bound must be refused. What has no bound in dollars has none in tokens."""
    return meter in plan.meters or (meter == "usd" and "tokens" in plan.meters)


def check_single(plan: Plan, bound: Amounts) -> Refusal | None:
    """402 `cap_exhausted` if the bound alone is above a cap of single requests."""
    for cap in plan.per_request:
        meter = METERS[cap.meter]
        amount = bound.of(meter)
        if amount > cap.amount:
            line = f"{cap.account}:{meter}:request:0"
            details = {"account": cap.account, "meter": meter, "window": "request", "line": line}
            details |= _figures(meter, cap=cap.amount, remaining=cap.amount, needed=amount)
            text = (
                f"the request could cost {_show(meter, amount)}; {cap.account} allows {_show(meter, cap.amount)} each"
            )
            return Refusal("cap_exhausted", text, details)
    return None


def exhausted(line: str, needed: int, cap: int, remaining: int, resets_at_s: int | None) -> Refusal:
    """402 `cap_exhausted` for a line, or 401 `key_spent` where the line is a key's max_uses."""
    kind, account_id, meter, window, _ = parse_line(line)
    account = account_key(kind, account_id)
    if kind == "key" and meter == "requests" and window == "total":
        return refuse(
            "key_spent", f"the vault key's {cap} uses are used up", account=account, max_uses=str(cap), line=line
        )
    details = {"account": account, "meter": meter, "window": window, "line": line}
    details |= _figures(meter, cap=cap, remaining=remaining, needed=needed)
    if resets_at_s is not None:
        details["resets_at"] = _rfc3339(resets_at_s)
    text = (
        f"the {window} cap of {account} is {_show(meter, cap)}, {_show(meter, remaining)} remain,"
        f" and the request could take {_show(meter, needed)}"
    )
    return Refusal("cap_exhausted", text, details)


def line_gone(line: str, snapshot: Snapshot, now_ns: int) -> bool:
    """Whether nothing can ever be lent on the line again: its window is long over, or its key revoked."""
    parsed = parse_line(line)
    longest_s = LONGEST_S.get(parsed.window)
    if longest_s is not None and (parsed.start_s + longest_s) * NANOS_PER_S < now_ns - LINE_KEPT_NS:
        return True
    key = snapshot.keys.get(parsed.id) if parsed.kind == "key" else None
    return key is not None and key.state == "revoked"


def _end_ns(record: AccountCaps, window: str, start_s: int) -> int:
    end_s = window_end_s(window, start_s, record.zone)
    return FOREVER_NS if end_s is None else end_s * NANOS_PER_S


def _figures(meter: str, **amounts: int) -> dict[str, str]:
    if meter in _MONEY:
        return {f"{name}_usd": format_usd(amount) for name, amount in amounts.items()}
    return {name: str(amount) for name, amount in amounts.items()}


def _show(meter: str, amount: int) -> str:
    return f"${format_usd(amount)}" if meter in _MONEY else f"{amount} {meter}"


def _rfc3339(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
