"""The most that a chat completion can cost, from its request alone.

    prompt_bound x max(input, cache write)  +  output_bound x output price

**Prompt.** Byte-level BPE never yields more tokens than UTF-8 bytes, and a JSON body has at least as many bytes
as the texts in it, so the body's length bounds its tokens; an allowance covers what the vendor's template adds
around messages, tools and schemas. Inline images leave the byte count and enter at the model's largest image. A
vendor refuses prompts above its window, which is a bound of its own (not with images: some models bill them at
more tokens than they take of the window).

**Output.** `max_completion_tokens` (or `max_tokens`, the larger if both), at most the model's own limit, times
`n`; it includes reasoning. A prediction's rejected tokens are billed as output too.

What could make a request cost more than that, in ways the request does not show, has no bound: server-side
tools, audio, files, content by reference, contract tiers, longer cache lifetimes, and any parameter that this
file does not know.
"""

from typing import Any, Final, final

from schemas.prices import DEFAULT_TIER, ModelPrice

KNOWN_PARAMS: Final = frozenset(
    {
        "best_of",
        "frequency_penalty",
        "function_call",
        "functions",
        "ignore_eos",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "min_tokens",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "stop_token_ids",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""Parameters whose effect on cost is nothing, or is computed here. The last few are compatible servers' own
sampling parameters."""

_PLAIN_PARAMS: Final = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
        "verbosity",
    }
)
"""Of these none but the messages and the two limits can change the bound, so most requests need no closer look."""

BASE_TOKENS: Final = 64
"""What a template adds around any conversation; measured figures are below ten."""
PER_MESSAGE_TOKENS: Final = 16
PER_TOOL_TOKENS: Final = 64
SCHEMA_TOKENS: Final = 512
"""Instructions that the vendor adds once when there are tools, functions or a response schema."""

MAX_CHOICES: Final = 128
"""The vendor's own limit of `n`."""

_TEXT_PARTS: Final = frozenset({"text", "refusal"})
_TOOLS: Final = frozenset({"function", "custom"})
_LIFETIMES: Final = frozenset({None, "30m"})
_TIERS: Final = {None: DEFAULT_TIER, "auto": DEFAULT_TIER, "default": DEFAULT_TIER, "fast": "priority"}
"""`auto` and an absent tier are billed at the project's default tier. Where an operator has made that another one
than the vendor's default, what it costs more shows as overrun."""


class Unbounded(ValueError):
    """The request has no bound; the message names the parameter, never its value."""


@final
class Bound:
    """Tokens and nano-dollars at most."""

    __slots__ = ("output_tokens", "prompt_tokens", "usd_nanos")

    def __init__(self, prompt_tokens: int, output_tokens: int, usd_nanos: int) -> None:
        self.prompt_tokens: Final = prompt_tokens
        self.output_tokens: Final = output_tokens
        self.usd_nanos: Final = usd_nanos


def bound_of(params: dict[str, Any], body_bytes: int, price: ModelPrice) -> Bound:
    """The bound of a chat completion. Raises Unbounded."""
    if _PLAIN_PARAMS.issuperset(params):
        prompt, images = _message_tokens(params, body_bytes)
        prompt = _with_images(prompt, images, price)
        output, tier = _output_limit(params, price), DEFAULT_TIER
    else:
        _check_params(params)
        prompt = _prompt_tokens(params, body_bytes, price)
        output = _output_tokens(params, body_bytes, price)
        tier = tier_of(params)
    return Bound(prompt, output, _most_nanos(price, tier, prompt, output))


def tier_of(params: dict[str, Any]) -> str:
    """The price list's name of the tier that was asked for."""
    asked = params.get("service_tier")
    if asked is not None and not isinstance(asked, str):
        raise Unbounded("service_tier is not a word")
    return _TIERS.get(asked, asked or DEFAULT_TIER)


def _most_nanos(price: ModelPrice, tier: str, prompt: int, output: int) -> int:
    """A flexible tier may be served as the default one, so the dearer of the two bounds it."""
    default = price.rates(DEFAULT_TIER, prompt)
    asked = default if tier == DEFAULT_TIER else price.rates(tier, prompt)
    if asked is None or default is None:
        raise Unbounded("the price list has no price for this model in the service_tier asked for")
    if asked is default:
        return default.most_nanos(prompt, output)
    return max(asked.most_nanos(prompt, output), default.most_nanos(prompt, output))


def _check_params(params: dict[str, Any]) -> None:
    for name in params:
        if name not in KNOWN_PARAMS:
            raise Unbounded(f"the effect of {name[:64]!r} on the cost is not known")
    modalities = params.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise Unbounded("modalities other than text have no price here")
    for tool in _list(params, "tools"):
        if not isinstance(tool, dict) or tool.get("type") not in _TOOLS:
            raise Unbounded("a tool that runs on the vendor's side has no bound")
    moderation = params.get("moderation")
    if moderation is not None and not _free_moderation(moderation):
        raise Unbounded("moderation by this model has no price here")
    options = params.get("prompt_cache_options")
    if options is not None and not (isinstance(options, dict) and options.get("ttl") in _LIFETIMES):
        raise Unbounded("prompt_cache_options.ttl asks for a lifetime without a price")


def _free_moderation(moderation: Any) -> bool:
    return isinstance(moderation, dict) and str(moderation.get("model", "")).startswith("omni-moderation")


def _prompt_tokens(params: dict[str, Any], body_bytes: int, price: ModelPrice) -> int:
    tokens, images = _message_tokens(params, body_bytes)
    tools = len(_list(params, "tools")) + len(_list(params, "functions"))
    if tools or params.get("response_format") is not None:
        tokens += SCHEMA_TOKENS + PER_TOOL_TOKENS * tools
    return _with_images(tokens, images, price)


def _message_tokens(params: dict[str, Any], body_bytes: int) -> tuple[int, int]:
    """The most tokens of the messages' texts, and how many images are in them."""
    messages = _list(params, "messages")
    images = 0
    tokens = body_bytes + BASE_TOKENS + PER_MESSAGE_TOKENS * len(messages)
    for message in messages:
        if not isinstance(message, dict):
            raise Unbounded("a message is not an object")
        content = message.get("content")
        if isinstance(content, list):
            count, inline_bytes = _images(content)
            images += count
            tokens -= inline_bytes
        elif content is not None and not isinstance(content, str):
            raise Unbounded("a message's content is neither text nor a list of parts")
        if message.get("audio") is not None:
            raise Unbounded("audio by reference is not in the request")
    return tokens, images


def _with_images(tokens: int, images: int, price: ModelPrice) -> int:
    if not images:
        return min(tokens, price.window)
    if not price.image:
        raise Unbounded("the price list does not say how many tokens an image is to this model")
    return tokens + images * price.image


def _images(parts: list[Any]) -> tuple[int, int]:
    """Images among a message's parts: (how many, bytes that their data URLs take of the body)."""
    count = inline_bytes = 0
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            count += 1
            inline_bytes += _data_bytes(part.get("image_url"))
        elif kind not in _TEXT_PARTS:
            raise Unbounded("a part of a message is neither text nor an image")
        marker = part.get("prompt_cache_breakpoint")
        if marker is not None and not (isinstance(marker, dict) and marker.get("ttl") in _LIFETIMES):
            raise Unbounded("prompt_cache_breakpoint asks for a lifetime without a price")
    return count, inline_bytes


def _data_bytes(image: Any) -> int:
    """A data URL is ASCII, so its characters are at most the bytes that it took of the body."""
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise Unbounded("an image has no URL")
    return len(url) if url.startswith("data:") and url.isascii() else 0


def _output_tokens(params: dict[str, Any], body_bytes: int, price: ModelPrice) -> int:
    each = _output_limit(params, price)
    choices = max(_count(params, "n") or 1, _count(params, "best_of") or 1)
    if choices > MAX_CHOICES:
        raise Unbounded(f"n is above {MAX_CHOICES}")
    if params.get("prediction") is not None:
        each += body_bytes
    return each * choices


def _output_limit(params: dict[str, Any], price: ModelPrice) -> int:
    """The most tokens of one choice: the larger of the two limits, at most the model's own."""
    first, second = _count(params, "max_completion_tokens"), _count(params, "max_tokens")
    if first is None and second is None:
        return price.max_output
    return min(max(first or 0, second or 0), price.max_output)


def _count(params: dict[str, Any], name: str) -> int | None:
    value = params.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise Unbounded(f"{name} is not a whole number")
    return value


def _list(params: dict[str, Any], name: str) -> list[Any]:
    value = params.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unbounded(f"{name} is not a list")
    return value
