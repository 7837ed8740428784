"""What an answer cost, from the usage that it reports.

Cached and written tokens are parts of `prompt_tokens`; reasoning and rejected predictions are parts of
`completion_tokens`: nothing is added twice. Prices are those of the model and the service tier that the *answer*
names (an alias such as `gpt-4o` is served by a dated model), and of the request's where it names none or one
without a price.
"""

from typing import Final

from dataplane.adapters.openai.shapes import Pricing, PromptDetails, Report
from dataplane.adapters.port import Outcome
from schemas.amounts import Amounts
from schemas.prices import DEFAULT_TIER, ModelPrice

VENDOR: Final = "openai"

MAX_MODEL_CHARS: Final = 128
"""What an event keeps of a name that the vendor chose."""

_NO_DETAILS: Final = PromptDetails()


def _price_of(pricing: Pricing, model: str) -> ModelPrice | None:
    return pricing.prices.model(VENDOR, list_name(model, pricing.aliases))


def list_name(model: str, aliases: dict[str, str]) -> str:
    """A model's name in the price list: an alias of the configuration, or the base of a fine-tuned model
    (`ft:gpt-4o-mini-2024-07-18:acme::id`), else the name itself.
    """
    alias = aliases.get(model)
    if alias is not None:
        return alias
    if model.startswith("ft:"):
        return ":".join(model.split(":", 2)[:2])
    return model


def settle(report: Report, pricing: Pricing) -> Outcome:
    """The outcome of an answer whose usage is final."""
    usage = report.usage
    output = usage.completion_tokens or 0
    details = usage.prompt_tokens_details or _NO_DETAILS
    cached = details.cached_tokens or 0
    nanos = _nanos(report, pricing, output, cached, details.cache_write_tokens or 0)
    model = report.model[:MAX_MODEL_CHARS] or pricing.asked_model
    if nanos is None:
        return Outcome(
            "unknown",
            model=model,
            input_tokens=usage.prompt_tokens,
            output_tokens=output,
            cached_tokens=cached,
            tool_calls=report.tool_calls,
            error="unpriced",
        )
    return Outcome(
        "settled",
        Amounts(usd=nanos, requests=1, tokens=usage.prompt_tokens + output),
        model=model,
        input_tokens=usage.prompt_tokens,
        output_tokens=output,
        cached_tokens=cached,
        tool_calls=report.tool_calls,
    )


def _nanos(report: Report, pricing: Pricing, output: int, cached: int, written: int) -> int | None:
    usage = report.usage
    spoken = (usage.prompt_tokens_details or _NO_DETAILS).audio_tokens
    heard = usage.completion_tokens_details is not None and usage.completion_tokens_details.audio_tokens
    price = _price_of(pricing, report.model) or _price_of(pricing, pricing.asked_model)
    if price is None or spoken or heard:
        return None
    tier = report.service_tier
    rates = price.rates(pricing.asked_tier if tier in {None, "auto"} else str(tier), usage.prompt_tokens)
    return None if rates is None else rates.cost_nanos(usage.prompt_tokens, cached, written, output)


def billed_tier(tier: str) -> str:
    """The tier to assume of an answer that names none: a discount is not taken on trust."""
    return tier if tier == "priority" else DEFAULT_TIER
