"""The price list, its file, and exchange rates."""

from decimal import Decimal

import pytest
from support.adapter_calls import packaged_prices, rates

from schemas.fx import FxError, build_fx, exponent
from schemas.price_file import PriceFileError, packaged_text, parse_prices
from schemas.prices import Rates
from schemas.settings import FxRates

HEAD = 'version: 1\nas_of: "2026-11"\nunit: usd per million tokens\nsources: [here]\nmodels:\n  openai:\n'


def test_the_packaged_list_is_dated_sourced_and_whole() -> None:
    prices = packaged_prices()
    assert prices.as_of == "2026-11"
    assert len(prices.sources) >= 3
    models = prices.models["openai"]
    assert len(models) > 60
    for price in models.values():
        default = price.rates("default", 1)
        assert default is not None
        assert default.input > 0
        assert default.cached <= default.input <= default.cache_write
        assert price.window >= 4096
        assert price.max_output > 0 or default.output == 0
        assert (price.long_above > 0) == (price.tiers["default"].long is not None)
        for tier in price.tiers.values():
            assert (tier.long is None) == (price.long_above == 0)


def _picos(rates: Rates | None) -> tuple[int, int, int, int] | None:
    return None if rates is None else (rates.input, rates.cached, rates.cache_write, rates.output)


def test_a_price_is_exact_in_picos() -> None:
    model = packaged_prices().model("openai", "gpt-4o")
    assert model is not None
    assert _picos(model.rates("default", 10)) == (2_500_000, 1_250_000, 2_500_000, 10_000_000)
    assert _picos(model.rates("priority", 10)) == (4_250_000, 2_125_000, 4_250_000, 17_000_000)
    assert model.rates("scale", 10) is None


def test_names_match_exactly_or_not_at_all() -> None:
    prices = packaged_prices()
    assert prices.model("openai", "gpt-4o-2024-11-20") is not None
    assert prices.model("openai", "gpt-4o-2099-01-01") is None
    assert prices.model("openai", "GPT-4o") is None
    assert prices.model("anthropic", "gpt-4o") is None


def test_long_prompts_have_their_own_prices() -> None:
    model = packaged_prices().model("openai", "gpt-6-sol")
    assert model is not None
    assert _picos(model.rates("default", 272_000)) == (2_000_000, 200_000, 2_500_000, 10_000_000)
    assert _picos(model.rates("default", 272_001)) == (4_000_000, 400_000, 5_000_000, 15_000_000)


@pytest.mark.parametrize(
    ("prompt", "cached", "written", "output", "nanos"),
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 3),  # 2.5 nanos, rounded up
        (2, 0, 0, 0, 5),  # rounded once, not per token
        (2, 1, 0, 0, 4),  # 2.5 + 1.25
        (1, 1, 1, 1, 12),  # parts larger than the whole are cut: 1.25 + 10
        (1000, 400, 100, 20, 600 * 2500 // 1000 + 400 * 1250 // 1000 + 200),
    ],
)
def test_cost_rounds_up_once(prompt: int, cached: int, written: int, output: int, nanos: int) -> None:
    rates = Rates(2_500, 1_250, 2_500, 10_000)
    assert rates.cost_nanos(prompt, cached, written, output) == nanos
    assert nanos <= rates.most_nanos(prompt, output)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("    m: {window: 1000, max_output: 10, input: 1}", "output is missing"),
        ("    m: {window: 1000, max_output: 10, input: 1e-3, output: 1}", "input is a price"),
        ("    m: {window: 1000, max_output: 10, input: -1, output: 1}", "input is a price"),
        ("    m: {window: 1000, max_output: 10, input: 0.0000001, output: 1}", "input is a price"),
        ("    m: {window: 1.5, max_output: 10, input: 1, output: 1}", "window is a whole number"),
        ("    m: {window: 1000, max_output: 10, input: 1, output: 1, outptu: 2}", "'outptu' is not known"),
        ("    m: {window: 1000, max_output: 10, input: 1, input: 2, output: 1}", "stands twice"),
        ("    m: {same_as: n}", "same_as stands alone and names a model further up"),
        ('    "m\\n": {same_as: n}', "not a model's name"),
        ("    m: [1]", "is a mapping"),
        ("    m: {window: 1000", "not YAML"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(line: str, says: str) -> None:
    with pytest.raises(PriceFileError, match=says) as caught:
        parse_prices(HEAD + line + "\n")
    assert "line 7" in str(caught.value) or "YAML" in str(caught.value)


def test_a_list_names_version_and_unit() -> None:
    assert parse_prices(HEAD + "    m: {window: 9, max_output: 9, input: 1, output: 1}").model("openai", "m")
    with pytest.raises(PriceFileError, match="version is 1"):
        parse_prices(packaged_text().replace("version: 1", "version: 2", 1))
    with pytest.raises(PriceFileError, match="unit is"):
        parse_prices(packaged_text().replace("unit: usd per million", "unit: usd per thousand"))
    with pytest.raises(PriceFileError, match="empty"):
        parse_prices("")


@pytest.mark.parametrize(
    ("amount", "currency", "nanos"),
    [
        (1099, "usd", 10_990_000_000),
        (100, "eur", 1_100_000_000),
        (100, "jpy", 700_000_000),  # no minor unit
        (1000, "kwd", 3_250_000_000),  # three decimals
        (500, "ugx", 150_000_000),  # counted as 500 shillings, not 5: the safe side
        (0, "usd", 0),
        (1, "gbp", None),
    ],
)
def test_amounts_in_dollars(amount: int, currency: str, nanos: int | None) -> None:
    assert rates().usd_nanos(amount, currency) == nanos


def test_the_margin_raises_every_rate_but_the_dollars() -> None:
    fx = rates(margin="0.02")
    assert fx.usd_nanos(100, "eur") == 1_122_000_000
    assert fx.usd_nanos(100, "usd") == 1_000_000_000
    assert fx.usd_per_unit("eur") == Decimal("1.1220")
    assert fx.usd_per_unit("gbp") is None


def test_conversion_rounds_up() -> None:
    fx = build_fx(FxRates(rates={"idr": "0.0000000000333"}))
    assert fx.usd_nanos(1, "idr") == 1
    assert fx.usd_nanos(3_003, "idr") == 1
    assert fx.usd_nanos(3_004, "idr") == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rates": {"eur": "0"}}, "fx.rates.eur is zero"),
        ({"rates": {"eur": "-1"}}, "fx.rates.eur"),
        ({"rates": {"eur": "NaN"}}, "fx.rates.eur"),
        ({"rates": {"EUR": "1"}}, "not a currency"),
        ({"rates": {"usd": "0.9"}}, "its rate is 1"),
        ({"rates": {}, "margin": "2%"}, "fx.margin"),
        ({"rates": {}, "margin": "20"}, "fx.margin"),
    ],
)
def test_wrong_rates_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(FxError, match=says):
        build_fx(FxRates(**settings))  # type: ignore[arg-type]  # a table of settings of both kinds


def test_exponents() -> None:
    assert [exponent(currency) for currency in ("usd", "jpy", "kwd", "isk", "huf", "twd", "ugx")] == [
        2,
        0,
        3,
        2,
        2,
        2,
        0,
    ]
