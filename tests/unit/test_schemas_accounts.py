"""Windows turn where the calendar says, in UTC and in zones with daylight saving."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.accounts import NANOS_PER_S, line_key, parse_line, split_line, window_end_s, window_start_s


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NANOS_PER_S


def seconds(text: str) -> int:
    return at(text) // NANOS_PER_S


STARTS = [
    ("hour", "2026-11-20T19:59:59", "UTC", "2026-11-20T19:00:00", "2026-11-20T20:00:00"),
    ("day", "2026-11-20T19:59:59", "UTC", "2026-11-20T00:00:00", "2026-11-21T00:00:00"),
    ("month", "2026-02-28T23:59:59", "UTC", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
    ("month", "2026-12-31T23:59:59", "UTC", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    # Berlin: UTC+1 in winter, +2 in summer; 25 October 2026 has 25 hours, 29 March 23.
    ("day", "2026-11-20T23:30:00", "Europe/Berlin", "2026-11-20T23:00:00", "2026-11-21T23:00:00"),
    ("day", "2026-10-25T12:00:00", "Europe/Berlin", "2026-10-24T22:00:00", "2026-10-25T23:00:00"),
    ("day", "2026-03-29T12:00:00", "Europe/Berlin", "2026-03-28T23:00:00", "2026-03-29T22:00:00"),
    ("month", "2026-10-31T23:30:00", "Europe/Berlin", "2026-10-31T23:00:00", "2026-11-30T23:00:00"),
    # Lord Howe: at 2:00 on 5 April 2026 it is 1:30 again, on 4 October 2:30.
    ("hour", "2026-04-04T14:45:00", "Australia/Lord_Howe", "2026-04-04T14:00:00", "2026-04-04T15:00:00"),
    ("hour", "2026-04-04T15:10:00", "Australia/Lord_Howe", "2026-04-04T15:00:00", "2026-04-04T15:30:00"),
    ("hour", "2026-10-03T15:40:00", "Australia/Lord_Howe", "2026-10-03T15:30:00", "2026-10-03T16:00:00"),
    # New York: at 2:00 on 1 November 2026 it is 1:00 again, and that is another hour.
    ("hour", "2026-11-01T05:40:00", "America/New_York", "2026-11-01T05:00:00", "2026-11-01T06:00:00"),
    ("hour", "2026-11-01T06:40:00", "America/New_York", "2026-11-01T06:00:00", "2026-11-01T07:00:00"),
    # India: hours turn at the half hour of UTC.
    ("hour", "2026-11-20T19:45:00", "Asia/Kolkata", "2026-11-20T19:30:00", "2026-11-20T20:30:00"),
]


@pytest.mark.parametrize(("window", "now", "zone", "start", "end"), STARTS)
def test_windows_begin_and_end_at_local_boundaries(window: str, now: str, zone: str, start: str, end: str) -> None:
    start_s = window_start_s(window, at(now), zone)
    assert start_s == seconds(start)
    assert window_end_s(window, start_s, zone) == seconds(end)


def test_total_has_no_boundaries() -> None:
    assert window_start_s("total", at("2026-11-20T00:00:00")) == 0
    assert window_end_s("total", 0) is None


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"]


@given(
    st.sampled_from(["hour", "day", "month"]),
    st.integers(seconds("2020-01-01T00:00:00"), seconds("2035-01-01T00:00:00")),
    st.sampled_from(ZONES),
)
@example("hour", seconds("2026-04-04T14:40:00"), "Australia/Lord_Howe")
@example("hour", seconds("2026-04-04T15:05:00"), "Australia/Lord_Howe")
@example("hour", seconds("2026-10-03T15:05:00"), "Australia/Lord_Howe")
@example("hour", seconds("2026-10-03T15:35:00"), "Australia/Lord_Howe")
def test_each_instant_lies_in_exactly_one_window(window: str, at_s: int, zone: str) -> None:
    start_s = window_start_s(window, at_s * NANOS_PER_S, zone)
    end_s = window_end_s(window, start_s, zone)
    assert end_s is not None
    assert start_s <= at_s < end_s
    assert window_start_s(window, (end_s - 1) * NANOS_PER_S, zone) == start_s
    assert window_start_s(window, end_s * NANOS_PER_S, zone) == end_s


def test_a_skipped_midnight_starts_the_day_at_the_first_instant_after() -> None:
    # Sao Paulo skipped 00:00 on 4 November 2018.
    noon = datetime(2018, 11, 4, 12, tzinfo=ZoneInfo("America/Sao_Paulo"))
    start_s = window_start_s("day", int(noon.timestamp()) * NANOS_PER_S, "America/Sao_Paulo")
    assert datetime.fromtimestamp(start_s, ZoneInfo("America/Sao_Paulo")).isoformat() == "2018-11-04T01:00:00-02:00"


def test_a_line_key_reads_back() -> None:
    key = line_key("key", "vk_1", "usd", "day", 1_763_596_800)
    assert key == "key:vk_1:usd:day:1763596800"
    assert parse_line(key) == ("key", "vk_1", "usd", "day", 1_763_596_800)


def test_a_line_splits_into_its_account_and_what_many_have_in_common() -> None:
    account, span = split_line(line_key("key", "vk_1", "usd", "day", 1_763_596_800))
    assert (account, *span) == ("key:vk_1", "usd", "day", 1_763_596_800)


@pytest.mark.parametrize(
    "text", ["", "key", "key:a:usd:day", "key:a:usd:day:1:2", "key:a:b:usd:day:1", "key:a:usd:day:x"]
)
def test_what_is_no_line_is_not_parsed(text: str) -> None:
    for parse in (split_line, parse_line):
        with pytest.raises(ValueError):
            parse(text)
