"""The most that an embeddings call can cost: its input is all in the request, and nothing is generated.

Texts have at most as many tokens as bytes, and a token id takes at least a digit and a comma, so the body's length
bounds the tokens in either form.
"""

from typing import Any, Final

from dataplane.adapters.openai.chat import BASE_TOKENS, Bound, Unbounded
from schemas.prices import DEFAULT_TIER, ModelPrice

_KNOWN_PARAMS: Final = frozenset({"dimensions", "encoding_format", "input", "model", "user"})

_PER_INPUT_TOKENS: Final = 4
"""Begin and end marks of each input, on servers that count them."""


def bound_of(params: dict[str, Any], body_bytes: int, price: ModelPrice) -> Bound:
    """The bound of an embeddings call. Raises Unbounded."""
    for name in params:
        if name not in _KNOWN_PARAMS:
            raise Unbounded(f"the effect of {name[:64]!r} on the cost is not known")
    given = params.get("input")
    if not isinstance(given, str | list):
        raise Unbounded("input is neither text nor a list")
    inputs = len(given) if isinstance(given, list) else 1
    tokens = body_bytes + BASE_TOKENS + _PER_INPUT_TOKENS * inputs
    rates = price.rates(DEFAULT_TIER, tokens)
    if rates is None:
        raise Unbounded("the price list has no price for this model")
    return Bound(tokens, 0, rates.most_nanos(tokens, 0))
