"""Accounts, meters, windows, and the *line*: one capped figure.

An account is (kind, id). A meter is what is counted. A window is a span of time in UTC or the account's time
zone. A **line** joins the four with the window's start: `key:vk_...:usd:day:1763596800`. Leases, caps,
settlements and refusals are all about lines, and the string is the dictionary key everywhere.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

Kind = Literal["key", "agent", "team", "org"]
Meter = Literal["usd", "refund", "requests", "tokens"]
Window = Literal["request", "hour", "day", "month", "total"]

KINDS: tuple[Kind, ...] = ("key", "agent", "team", "org")
METERS: tuple[Meter, ...] = ("usd", "refund", "requests", "tokens")
MONEY_METERS = frozenset({"usd", "refund"})
"""In nano-dollars; the others count."""
"""`usd` and `refund` count nano-dollars; `requests` and `tokens` count themselves."""

LEASED_WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "total")
"""Windows whose caps are lent to nodes. `request` is checked on the spot and needs no lease."""

ORG_ID = "default"
NANOS_PER_S = 1_000_000_000


class Cap(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One cap of an account: at most `amount` of `meter` in each `window`."""

    meter: Meter
    window: Window
    amount: int


class AccountCaps(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """All caps of one account. `zone` names the IANA time zone in which its windows turn."""

    kind: Kind
    id: str
    caps: tuple[Cap, ...] = ()
    zone: str = "UTC"


class Line(NamedTuple):
    kind: str
    id: str
    meter: str
    window: str
    start_s: int


class Span(NamedTuple):
    """What the lines of many accounts have in common."""

    meter: str
    window: str
    start_s: int


def line_key(kind: str, account_id: str, meter: str, window: str, start_s: int) -> str:
    """The line's string. Ids have no ':' (schemas.ids.is_name), so it parses back without doubt."""
    return f"{kind}:{account_id}:{meter}:{window}:{start_s}"


QUARTER_S = 900
"""Clocks are changed at, and differ from UTC by, whole quarters of an hour."""


def parse_line(key: str) -> Line:
    """Raises ValueError for what is no line."""
    account, span = split_line(key)
    kind, _, account_id = account.partition(":")
    return Line(kind, account_id, *span)


def split_line(key: str) -> tuple[str, Span]:
    """A line's account, as `account_key` writes it, and the rest. Raises ValueError for what is no line."""
    end = key.index(":", key.index(":") + 1)
    return key[:end], _span(key[end + 1 :])


@lru_cache(4_096)
def _span(text: str) -> Span:
    """Kept, because thousands of accounts begin the same windows at once."""
    meter, window, start = text.split(":")
    return Span(meter, window, int(start))


@lru_cache(16_384)
def meter_of(key: str) -> str:
    """The meter of a line. Kept, because every settlement asks for it."""
    return key.rsplit(":", 3)[1]


def account_key(kind: str, account_id: str) -> str:
    return f"{kind}:{account_id}"


def window_start_s(window: str, at_ns: int, zone: str = "UTC") -> int:
    """Unix seconds at which the window holding `at_ns` began; 0 for `total`.

    In a zone with daylight saving a local day has 23 or 25 hours; its start is local midnight (the first
    instant of the day where midnight is skipped). An hour is the local clock's; where that is put back or forward by
    half an hour (Lord Howe), the change begins another one.
    """
    if window == "total":
        return 0
    at_s = at_ns // NANOS_PER_S
    if window == "hour" and zone == "UTC":
        return at_s - at_s % 3600
    if window == "day" and zone == "UTC":
        return at_s - at_s % 86400
    local = datetime.fromtimestamp(at_s, UTC).astimezone(_zone(zone))
    if window == "hour":
        start_s = at_s - local.minute * 60 - local.second
        return next(s for s in range(start_s, at_s + 1, QUARTER_S) if _offset(s, zone) == local.utcoffset())
    floor = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if window == "month":
        floor = floor.replace(day=1)
    return _first_instant(floor)


def window_end_s(window: str, start_s: int, zone: str = "UTC") -> int | None:
    """Unix seconds at which the window that began at `start_s` ends; None for `total`."""
    if window == "total":
        return None
    if window == "hour" and zone == "UTC":
        return start_s + 3600
    local = datetime.fromtimestamp(start_s, UTC).astimezone(_zone(zone))
    if window == "hour":
        end_s = start_s + 3600 - local.minute * 60
        return next((s for s in range(start_s, end_s, QUARTER_S) if _offset(s, zone) != local.utcoffset()), end_s)
    floor = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if window == "day":
        following = floor.replace(tzinfo=None) + timedelta(days=1)
    else:
        following = (floor.replace(tzinfo=None, day=1) + timedelta(days=32)).replace(day=1)
    return _first_instant(following.replace(tzinfo=_zone(zone)))


def _offset(at_s: int, zone: str) -> timedelta | None:
    return datetime.fromtimestamp(at_s, UTC).astimezone(_zone(zone)).utcoffset()


def _first_instant(floor: datetime) -> int:
    """Unix seconds of a local midnight; where daylight saving skips it, of the first instant after."""
    return int(floor.astimezone(UTC).timestamp())


def _zone(zone: str) -> ZoneInfo:
    return ZoneInfo(zone)
