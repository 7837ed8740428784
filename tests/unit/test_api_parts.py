"""The API's parts without HTTP: decoding, durations, failed tries, replays, cells of CSV."""

import asyncio
import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.control_fakes import Clock

from controlplane.api import idempotency
from controlplane.api.answers import Answer, render_csv
from controlplane.api.auth import FailedTries
from controlplane.api.decode import BodyDecoder, decode_query
from controlplane.api.idempotency import Replays
from controlplane.api.pages import Place, decode_cursor, encode_cursor, take_page
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import refuse
from schemas.api import AgentPut, KeyIssue, KeyPatch, OperatorIssue, Span, Usd
from schemas.durations import MAX_DURATION_S, DurationError, format_time, parse_duration_s, parse_time_ns
from schemas.money import MoneyError, parse_usd
from schemas.queries import KeysQuery, RequestsQuery

DEEP = b"[" * 100_000

BODIES: list[tuple[Any, bytes, str, str]] = [
    (KeyIssue, b"", "invalid_json", ""),
    (KeyIssue, b"{", "invalid_json", ""),
    (KeyIssue, b"null", "invalid_parameter", ""),
    (KeyIssue, b"[]", "invalid_parameter", ""),
    (KeyIssue, DEEP, "invalid_parameter", ""),
    (KeyIssue, b'{"metadata":' + DEEP, "invalid_parameter", "metadata"),
    (KeyIssue, b'{"daily_usd_cap":' + DEEP, "invalid_json", ""),
    (KeyIssue, b'{"label":"\xff"}', "invalid_json", ""),
    (KeyIssue, b'{"label":"\\ud800"}', "invalid_json", ""),
    (KeyIssue, b'{"daily_usd_cap":NaN}', "invalid_json", ""),
    (KeyIssue, b'{"label":"a","label":"b"}', "invalid_json", "label"),
    (KeyIssue, b'{"metadata":{"a":"1","a":"2"}}', "invalid_json", "a"),
    (KeyIssue, b'{"x":1}', "unknown_parameter", "x"),
    (KeyIssue, b'{"' + b"x" * 500 + b'":1}', "unknown_parameter", "x" * 100 + "..."),
    (KeyIssue, b'{"label":5}', "invalid_parameter", "label"),
    (KeyIssue, b'{"label":""}', "invalid_parameter", "label"),
    (KeyIssue, b'{"models":[]}', "invalid_parameter", "models"),
    (KeyIssue, b'{"models":[5]}', "invalid_parameter", "models[0]"),
    (KeyIssue, b'{"identity":"other"}', "invalid_parameter", "identity"),
    (KeyIssue, b'{"max_uses":0}', "invalid_parameter", "max_uses"),
    (KeyIssue, b'{"max_uses":1.5}', "invalid_parameter", "max_uses"),
    (KeyIssue, b'{"max_uses":1e999}', "invalid_parameter", "max_uses"),
    (KeyIssue, b'{"daily_usd_cap":-1}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":true}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":"1e2"}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":" 1"}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":1e-999999999}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":1e99999999999999999999}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":' + b"9" * 5000 + b"}", "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":0.0000000001}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":1000000000.000000001}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"daily_usd_cap":{}}', "invalid_parameter", "daily_usd_cap"),
    (KeyIssue, b'{"expires_in":1.5}', "invalid_parameter", "expires_in"),
    (KeyIssue, b'{"expires_in":0}', "invalid_parameter", "expires_in"),
    (KeyIssue, b'{"expires_in":"soon"}', "invalid_parameter", "expires_in"),
    (KeyIssue, b'{"policies":["p"]}', "not_available", "policies"),
    (KeyPatch, b'{"agent":"other"}', "unknown_parameter", "agent"),
    (KeyPatch, b'{"uncapped":null}', "invalid_parameter", "uncapped"),
    (AgentPut, b'{"limits":{"daily_usd_cap":1}}', "unknown_parameter", "limits.daily_usd_cap"),
    (OperatorIssue, b"{}", "missing_parameter", "name"),
    (OperatorIssue, b'{"name":"a","role":"root"}', "invalid_parameter", "role"),
]


@pytest.mark.parametrize(("kind", "raw", "code", "param"), BODIES)
def test_bodies_refused(kind: Any, raw: bytes, code: str, param: str) -> None:
    refusal = BodyDecoder(kind).decode(raw)
    assert isinstance(refusal, CommandRefusal)
    assert (refusal.code, refusal.param) == (code, param)
    assert len(refusal.message) < 400


@pytest.mark.parametrize(
    ("raw", "nanos"),
    [
        (b"1", 10**9),
        (b"0", 0),
        (b"0.1", 10**8),
        (b'"0.1"', 10**8),
        (b"0.123456789", 123_456_789),
        (b"1e2", 10**11),
        (b"25e-1", 2_500_000_000),
        (b"1000000000", 10**18),
        (b"9007199.254740993", 9_007_199_254_740_993),
        (b"null", None),
    ],
)
def test_money_in(raw: bytes, nanos: int | None) -> None:
    body = BodyDecoder(KeyIssue).decode(b'{"daily_usd_cap":' + raw + b"}")
    assert isinstance(body, KeyIssue)
    assert body.daily_usd_cap == (None if nanos is None else Usd(nanos))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_refusal(raw: bytes) -> None:
    assert isinstance(BodyDecoder(KeyIssue).decode(raw), (KeyIssue, CommandRefusal))


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_any_decimal_is_an_exact_amount_or_an_error(value: Decimal) -> None:
    try:
        nanos = parse_usd(value)
    except MoneyError:
        return
    assert Decimal(nanos) == value * 10**9


@pytest.mark.parametrize(
    ("pairs", "param"),
    [
        ([("limit", "0")], "limit"),
        ([("limit", "1001")], "limit"),
        ([("limit", "x")], "limit"),
        ([("limit", "")], "limit"),
        ([("state", "null")], "state"),
        ([("nope", "1")], "nope"),
        ([("agent", "a"), ("agent", "a")], "agent"),
        ([("agent", "")], "agent"),
    ],
)
def test_queries_refused(pairs: list[tuple[str, str]], param: str) -> None:
    refusal = decode_query(pairs, KeysQuery)
    assert isinstance(refusal, CommandRefusal)
    assert refusal.param == param


def test_a_label_called_null_is_a_label() -> None:
    query = decode_query([("label", "null")], KeysQuery)
    assert isinstance(query, KeysQuery)
    assert query.label == "null"


def test_from_is_from() -> None:
    query = decode_query([("from", "24h")], RequestsQuery)
    assert isinstance(query, RequestsQuery)
    assert query.from_ == "24h"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3600, 3600), ("3600", 3600), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("30d", 2_592_000), (1, 1)],
)
def test_durations(value: Any, seconds: int) -> None:
    assert parse_duration_s(value) == seconds


@pytest.mark.parametrize(
    "value",
    [0, -1, True, None, 1.5, "", "m", "h1", "1.5h", "1m1h", "0s", " 1h", "1h ", "1h\n", "١h", "1w", MAX_DURATION_S + 1, "9" * 50],
)  # fmt: skip
def test_no_durations(value: Any) -> None:
    with pytest.raises(DurationError):
        parse_duration_s(value)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-18T11:06:40Z", "2026-11-18T11:06:40Z"),
        ("2026-11-18t11:06:40z", "2026-11-18T11:06:40Z"),
        ("2026-11-18T12:06:40+01:00", "2026-11-18T11:06:40Z"),
        ("2026-11-18T11:06:40.000000001Z", "2026-11-18T11:06:40.000000001Z"),
        ("2026-11-18T11:06:40.25Z", "2026-11-18T11:06:40.25Z"),
        ("1h", "2026-11-18T10:06:40Z"),
    ],
)
def test_times(text: str, at: str) -> None:
    assert format_time(parse_time_ns(text, Clock().ns)) == at


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-11-18", "2026-11-18T11:06:40", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00Z",
     "9999-12-31T23:59:59-23:59", "2026-11-18T24:00:00Z", "2026-11-18T11:06:40Z\n", "-1h"],
)  # fmt: skip
def test_no_times(text: str) -> None:
    with pytest.raises(DurationError):
        parse_time_ns(text, Clock().ns)


class TestFailedTries:
    def test_a_window_of_allowed_tries(self) -> None:
        tries = FailedTries()
        assert [tries.failed("a", i) for i in range(FailedTries.ALLOWED)] == [0] * FailedTries.ALLOWED
        assert tries.failed("a", 0) == 60
        assert tries.failed("a", 59_500_000_000) == 1
        assert tries.failed("b", 0) == 0
        assert tries.failed("a", FailedTries.WINDOW_NS) == 0

    def test_addresses_are_bounded(self) -> None:
        tries = FailedTries()
        for i in range(FailedTries.ADDRESSES + 100):
            tries.failed(str(i), 0)
        assert len(tries._tries) == FailedTries.ADDRESSES
        assert "0" not in tries._tries


class TestReplays:
    async def test_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(idempotency, "ENTRIES", 3)
        replays = Replays(Clock())
        made: list[int] = []

        async def make() -> Answer:
            made.append(1)
            return Answer(len(made), 201)

        for key in ("a", "b", "c", "d"):
            await replays.once("op", key, b"", make)
        assert len(replays._entries) == 3
        again = await replays.once("op", "d", b"", make)
        assert isinstance(again, Answer)
        assert again.body == 4
        await replays.once("op", "a", b"", make)
        assert len(made) == 5

    async def test_a_waiter_gets_the_firsts_failure(self) -> None:
        replays = Replays(Clock())
        gate = asyncio.Event()

        async def fail() -> Answer:
            await gate.wait()
            raise RuntimeError("first")

        first = asyncio.create_task(replays.once("op", "a", b"", fail))
        second = asyncio.create_task(replays.once("op", "a", b"", fail))
        await asyncio.sleep(0)
        gate.set()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["first", "first"]
        assert not replays._entries

    async def test_a_cancelled_first_does_not_cancel_the_second(self) -> None:
        replays = Replays(Clock())

        async def hang() -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

        first = asyncio.create_task(replays.once("op", "a", b"", hang))
        await asyncio.sleep(0)
        second = asyncio.create_task(replays.once("op", "a", b"", hang))
        await asyncio.sleep(0)
        first.cancel()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["CancelledError", "LogUnavailable"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "\x00", "a\tb"])
    async def test_odd_keys_are_refused(self, key: str) -> None:
        async def make() -> CommandRefusal:
            return refuse("not_found", "unused")

        outcome = await Replays(Clock()).once("op", key, b"", make)
        assert isinstance(outcome, CommandRefusal)
        assert outcome.param == "Idempotency-Key"


def test_an_answer_with_a_token_does_not_print_it() -> None:
    assert "rfk_secret" not in repr(Answer({"token": "rfk_secret"}))


@given(st.text(max_size=20))
def test_no_cell_of_csv_starts_a_formula(text: str) -> None:
    raw = render_csv(["a", "b"], [{"a": text, "b": 1}]).decode()
    rows = list(csv.reader(io.StringIO(raw, newline="")))
    assert len(rows) == 2
    cell = rows[1][0]
    assert cell.removeprefix("'") == text.encode("utf-8", "replace").decode().removeprefix("'")
    assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n"))
    assert not cell.startswith("-") or cell[1:].replace(".", "").isdigit()


@given(
    st.lists(st.tuples(st.integers(1, 5), st.text("abc", min_size=1, max_size=2)), unique=True, max_size=20),
    st.integers(1, 7),
)
def test_pages_give_every_record_once_in_order(records: list[tuple[int, str]], limit: int) -> None:
    """Several records of one message share a sequence; no page boundary loses or repeats one."""

    async def read_all() -> list[Place]:
        places = sorted((Place(*record) for record in records), key=lambda place: place.seq)
        seen: list[Place] = []
        after: Place | None = None
        while True:
            found, cursor = await take_page(places, lambda place: place, lambda _: True, limit, after)
            seen += found
            if cursor is None:
                return seen
            decoded = decode_cursor(cursor)
            assert isinstance(decoded, Place)
            assert decoded == found[-1]
            after = decoded

    assert asyncio.run(read_all()) == sorted((Place(*record) for record in records), reverse=True)


@given(st.integers(0, 2**53), st.text(max_size=40))
def test_cursors_come_back(seq: int, name: str) -> None:
    assert decode_cursor(encode_cursor(Place(seq, name))) == Place(seq, name)


def test_span_and_usd_compare_by_value() -> None:
    assert Usd(5) == Usd(5) != Usd(6)
    assert Span(5) == Span(5) != Usd(5)
    assert len({Usd(5), Usd(5), Span(5)}) == 2
