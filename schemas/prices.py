"""Model prices: what a token of each kind costs, exactly, and how large a request can grow.

A price list is dated configuration, not truth: vendors change prices, and every figure names its source in the
list. Prices are held as integers of pico-dollars per token (one US dollar per million tokens is 1,000,000
picos), so that a cost is an integer sum that rounds once, up, to nano-dollars.

Plain classes, because every request asks them: compiled (setup.py), their members are read without a lookup.
"""

from collections.abc import Mapping
from typing import Final, final

PICOS_PER_NANO: Final = 1_000

DEFAULT_TIER: Final = "default"


@final
class Rates:
    """Pico-dollars for one token. `cached`: prompt tokens read from the vendor's cache; `cache_write`: written
    to it. Where a vendor publishes neither, both are the plain input price.
    """

    __slots__ = ("cache_write", "cached", "input", "output")

    def __init__(self, input_: int, cached: int, cache_write: int, output: int) -> None:
        self.input: Final = input_
        self.cached: Final = cached
        self.cache_write: Final = cache_write
        self.output: Final = output

    def cost_nanos(self, prompt: int, cached: int, written: int, output: int) -> int:
        """What an answer cost, in nano-dollars, rounded up once.

        `cached` and `written` are disjoint parts of `prompt`, the vendor's own count of all input tokens;
        `output` holds reasoning and rejected predictions already. Parts larger than the whole are cut to it.
        """
        cached = min(cached, prompt)
        written = min(written, prompt - cached)
        picos = (
            (prompt - cached - written) * self.input
            + cached * self.cached
            + written * self.cache_write
            + output * self.output
        )
        return -(-picos // PICOS_PER_NANO)

    def most_nanos(self, prompt: int, output: int) -> int:
        """The most that so many tokens can cost, whatever share of them the cache takes."""
        picos = prompt * max(self.input, self.cached, self.cache_write) + output * self.output
        return -(-picos // PICOS_PER_NANO)


@final
class Tier:
    """Prices of one service tier; `long` replaces `rates` for prompts above the model's `long_above`."""

    __slots__ = ("long", "rates")

    def __init__(self, rates: Rates, long: Rates | None = None) -> None:
        self.rates: Final = rates
        self.long: Final = long


@final
class ModelPrice:
    """One model. `window`: most prompt tokens it takes; `max_output`: most tokens it returns (0 for embeddings).

    `image`: most tokens that one image of a prompt is billed as, 0 if the list does not say (then images have
    no bound). `long_above`: prompt tokens above which the long prices hold, 0 if there are none.
    """

    __slots__ = ("image", "long_above", "max_output", "name", "tiers", "window")

    def __init__(
        self, name: str, window: int, max_output: int, tiers: dict[str, Tier], image: int = 0, long_above: int = 0
    ) -> None:
        self.name: Final = name
        self.window: Final = window
        self.max_output: Final = max_output
        self.tiers: Final = tiers
        self.image: Final = image
        self.long_above: Final = long_above

    def rates(self, tier: str, prompt_tokens: int) -> Rates | None:
        """The prices for a prompt of that length in a tier; None for a tier without a price."""
        priced = self.tiers.get(tier)
        if priced is None:
            return None
        if self.long_above and prompt_tokens > self.long_above and priced.long is not None:
            return priced.long
        return priced.rates


@final
class PriceList:
    """A dated list: `models[vendor][name]`."""

    __slots__ = ("as_of", "models", "sources")

    def __init__(self, as_of: str, sources: tuple[str, ...], models: Mapping[str, dict[str, ModelPrice]]) -> None:
        self.as_of: Final = as_of
        self.sources: Final = sources
        self.models: Final = dict(models)

    def model(self, vendor: str, name: str) -> ModelPrice | None:
        """The price of a vendor's model by its exact name; None if the list has none (never a near match:
        `gpt-5` and `gpt-5-pro` differ twelvefold).
        """
        of_vendor = self.models.get(vendor)
        return of_vendor.get(name) if of_vendor is not None else None
