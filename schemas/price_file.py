"""Reading a price list from YAML, with the line of every mistake.

Every scalar is read as the text that stands there (YAML's base schema), so no price passes through a float. A
key that stands twice is an error. One model is one line:

    gpt-4o: {window: 128000, max_output: 16384, input: "2.5", cached: "1.25", output: "10",
             priority: {input: "4.25", output: "17"}}
    gpt-4o-2024-11-20: {same_as: gpt-4o}

Prices are US dollars per million tokens. `cached` and `cache_write` default to `input`. `long: {above, input,
output, ...}` holds the prices of prompts longer than `above` tokens; `flex`, `priority` and other tiers stand
under their names and may have a `long` of their own.
"""

from importlib import resources
from typing import Any

import yaml

from schemas.ids import is_name
from schemas.prices import DEFAULT_TIER, ModelPrice, PriceList, Rates, Tier

PACKAGED = "prices-2026-11.yaml"

TIERS = ("flex", "priority", "ultrafast")
"""Service tiers that a list may price beside the default one."""

MAX_FILE_BYTES = 4 * 1024 * 1024
"""The longest public lists have a few thousand models at some 200 bytes."""

_PRICE_KEYS = frozenset({"input", "cached", "cache_write", "output"})
_MODEL_KEYS = _PRICE_KEYS | {"window", "max_output", "image", "long", "same_as", *TIERS}
_TOP_KEYS = frozenset({"version", "as_of", "unit", "sources", "models"})
_UNIT = "usd per million tokens"
_EXTRA_NAME_CHARS = str.maketrans("", "", ":/")


class PriceFileError(ValueError):
    """The list cannot be used; the message names the line and what to write instead."""


def packaged_text() -> str:
    """The price list that ships with the package (reads a file of the package)."""
    return resources.files("schemas").joinpath("data", PACKAGED).read_text(encoding="utf-8")


def parse_prices(text: str) -> PriceList:
    """A price list from its YAML text. Raises PriceFileError."""
    if len(text) > MAX_FILE_BYTES:
        raise PriceFileError(f"a price list has at most {MAX_FILE_BYTES} bytes")
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise PriceFileError(f"it is not YAML: {error}") from None
    if root is None:
        raise PriceFileError("it is empty")
    top = _Table(root, "the price list")
    top.known(_TOP_KEYS)
    if top.text("version") != "1":
        raise PriceFileError(f"line {top.line}: version is 1")
    if top.text("unit") != _UNIT:
        raise PriceFileError(f"line {top.line}: unit is {_UNIT!r}")
    vendors = top.table("models")
    models = {vendor: _vendor(vendors.table(vendor)) for vendor in vendors.nodes}
    return PriceList(top.text("as_of"), top.texts("sources"), models)


def _vendor(table: "_Table") -> dict[str, ModelPrice]:
    models: dict[str, ModelPrice] = {}
    for name in table.nodes:
        entry = table.table(name)
        entry.known(_MODEL_KEYS)
        if not is_name(name.translate(_EXTRA_NAME_CHARS)):
            raise PriceFileError(f"line {entry.line}: {name[:64]!r} is not a model's name")
        if "same_as" in entry.nodes:
            models[name] = _same(name, entry, models)
        else:
            models[name] = _model(name, entry)
    return models


def _same(name: str, entry: "_Table", models: dict[str, ModelPrice]) -> ModelPrice:
    other = models.get(entry.text("same_as"))
    if other is None or len(entry.nodes) != 1:
        raise PriceFileError(f"line {entry.line}: same_as stands alone and names a model further up")
    return ModelPrice(name, other.window, other.max_output, other.tiers, other.image, other.long_above)


def _model(name: str, entry: "_Table") -> ModelPrice:
    tiers = {DEFAULT_TIER: _tier(entry)}
    for tier in TIERS:
        if tier in entry.nodes:
            prices = entry.table(tier)
            prices.known(_PRICE_KEYS | {"long"})
            tiers[tier] = _tier(prices)
    long = entry.table("long") if "long" in entry.nodes else None
    return ModelPrice(
        name=name,
        window=entry.count("window"),
        max_output=entry.count("max_output"),
        tiers=tiers,
        image=entry.count("image") if "image" in entry.nodes else 0,
        long_above=long.count("above") if long is not None else 0,
    )


def _tier(table: "_Table") -> Tier:
    if "long" not in table.nodes:
        return Tier(_rates(table))
    long = table.table("long")
    long.known(_PRICE_KEYS | {"above"})
    return Tier(_rates(table), _rates(long))


def _rates(table: "_Table") -> Rates:
    plain = table.picos("input")
    return Rates(
        plain,
        cached=table.picos("cached") if "cached" in table.nodes else plain,
        cache_write=table.picos("cache_write") if "cache_write" in table.nodes else plain,
        output=table.picos("output"),
    )


class _Table:
    """A YAML mapping whose keys stand once, with the line where it begins."""

    def __init__(self, node: Any, what: str) -> None:
        self.line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise PriceFileError(f"line {self.line}: {what} is a mapping of names to values")
        self.nodes: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in self.nodes:
                raise PriceFileError(f"line {key.start_mark.line + 1}: a name stands twice or is not a plain word")
            self.nodes[key.value] = value

    def known(self, keys: frozenset[str]) -> None:
        for key in self.nodes:
            if key not in keys:
                raise PriceFileError(
                    f"line {self.line}: {key[:64]!r} is not known; known are {', '.join(sorted(keys))}"
                )

    def table(self, key: str) -> "_Table":
        return _Table(self._node(key), key)

    def text(self, key: str) -> str:
        node = self._node(key)
        if not isinstance(node, yaml.ScalarNode):
            raise PriceFileError(f"line {node.start_mark.line + 1}: {key} is a single value")
        return str(node.value)

    def texts(self, key: str) -> tuple[str, ...]:
        node = self._node(key)
        if not isinstance(node, yaml.SequenceNode):
            raise PriceFileError(f"line {node.start_mark.line + 1}: {key} is a list")
        return tuple(str(item.value) for item in node.value)

    def count(self, key: str) -> int:
        text = self.text(key)
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise PriceFileError(f"line {self.line}: {key} is a whole number of tokens, not {text[:32]!r}")
        return int(text)

    def picos(self, key: str) -> int:
        text = self.text(key)
        whole, _, fraction = text.partition(".")
        digits = whole + fraction
        if not (digits.isascii() and digits.isdigit() and whole and len(whole) <= 6 and len(fraction) <= 6):
            raise PriceFileError(f'line {self.line}: {key} is a price such as "2.50", not {text[:32]!r}')
        return int(whole) * 1_000_000 + int(fraction.ljust(6, "0"))

    def _node(self, key: str) -> Any:
        if key not in self.nodes:
            raise PriceFileError(f"line {self.line}: {key} is missing")
        return self.nodes[key]
