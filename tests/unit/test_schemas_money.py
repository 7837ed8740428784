"""Money is read exactly, written exactly, and never rounds down."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.money import MAX_USD_NANOS, MoneyError, format_usd, parse_usd, usd_to_nanos_up

READS = {
    "0": 0,
    "12.50": 12_500_000_000,
    "0.000000001": 1,
    "1.100000000000": 1_100_000_000,
    12: 12_000_000_000,
    Decimal("0.1"): 100_000_000,
    Decimal("1E+2"): 100_000_000_000,
    "1000000000": MAX_USD_NANOS,
}


@pytest.mark.parametrize(("text", "nanos"), READS.items())
def test_amounts_are_read_exactly(text: str | int | Decimal, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "1e9",
        "0x1",
        "1_000",
        "1,5",
        ".5",
        "5.",
        "01",
        "NaN",
        "٣",
        "0.0000000001",
        "1000000000.000000001",
        Decimal("Infinity"),
        Decimal("NaN"),
        Decimal(-1),
        True,
    ],
)
def test_everything_else_is_refused(text: str | Decimal | bool) -> None:
    with pytest.raises(MoneyError):
        parse_usd(text)


@given(st.integers(0, MAX_USD_NANOS))
def test_what_is_written_reads_back(nanos: int) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@given(st.integers(-MAX_USD_NANOS, -1))
def test_negative_differences_are_written_with_their_sign(nanos: int) -> None:
    assert format_usd(nanos) == "-" + format_usd(-nanos)


@given(st.decimals(0, 10**6, allow_nan=False, places=14))
def test_prices_round_up_and_by_less_than_one_nano(usd: Decimal) -> None:
    nanos = usd_to_nanos_up(usd)
    assert 0 <= nanos - usd * 10**9 < 1
