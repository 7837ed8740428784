"""Durations and points in time, as people and programs write them.

A duration is a whole number of seconds (`3600`, `"3600"`) or digits with units, largest first: `"90s"`,
`"10m"`, `"1h30m"`, `"30d"`. A point in time is RFC 3339 with `Z` or an offset, or a duration: that long ago.
"""

import re
from datetime import UTC, datetime, timedelta

NANOS_PER_S = 1_000_000_000

MAX_DURATION_S = 10 * 366 * 86400
"""Ten years: longer is a mistake in the unit."""

UNIT_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}

_DURATION = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,8})h)?(?:([0-9]{1,8})m)?(?:([0-9]{1,10})s)?\Z")
_SECONDS = re.compile(r"[0-9]{1,10}\Z")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))\Z"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DurationError(ValueError):
    """The value is no duration (or time); the message says what to write instead."""


def parse_duration_s(value: object) -> int:
    """A duration in seconds. Raises DurationError below one second and above MAX_DURATION_S."""
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str):
        seconds = _duration_text_s(value)
    else:
        raise DurationError('a duration is seconds, or text such as "10m", "1h" or "30d"')
    if not 1 <= seconds <= MAX_DURATION_S:
        raise DurationError("a duration is at least one second and at most ten years")
    return seconds


def _duration_text_s(text: str) -> int:
    if _SECONDS.match(text):
        return int(text)
    found = _DURATION.match(text)
    if found is None or not text:
        raise DurationError(f'{text[:40]!r} is not a duration: write seconds, or text such as "10m", "1h" or "30d"')
    return sum(int(number) * UNIT_S[unit] for number, unit in zip(found.groups(), "dhms", strict=True) if number)


def parse_time_ns(text: str, now_ns: int) -> int:
    """A point in time in Unix nanoseconds; a duration means that long before `now_ns`. Raises DurationError."""
    found = _TIME.match(text)
    if found is None:
        try:
            return now_ns - parse_duration_s(text) * NANOS_PER_S
        except DurationError:
            raise DurationError(
                f'{text[:40]!r} is not a time: write "2026-01-31T09:00:00Z", or "24h" for that long ago'
            ) from None
    year, month, day, hour, minute, second, fraction, sign, off_h, off_m = found.groups()
    try:
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
        offset = timedelta(hours=int(off_h or 0), minutes=int(off_m or 0))
        instant = local + offset if sign == "-" else local - offset
    except (ValueError, OverflowError):
        raise DurationError(f"{text[:40]!r} is not a time of the calendar") from None
    if not 1970 <= instant.year <= 2261:
        raise DurationError(f"{text[:40]!r} is outside 1970 to 2261")
    since = instant - _EPOCH
    return (since.days * 86400 + since.seconds) * NANOS_PER_S + int((fraction or "0").ljust(9, "0"))


def format_time(at_ns: int) -> str:
    """Unix nanoseconds as RFC 3339 in UTC, with as many of nine decimals as are not zero."""
    seconds, nanos = divmod(at_ns, NANOS_PER_S)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{text}{fraction}Z"
