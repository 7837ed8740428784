"""Which dialects there are, and how one is built for an upstream."""

from collections.abc import Callable
from typing import Final

from dataplane.adapters.openai.adapter import DEFAULT_BASE_URL as OPENAI_BASE_URL
from dataplane.adapters.openai.adapter import OpenAiAdapter
from dataplane.adapters.port import Adapter, Fx, Prices
from dataplane.adapters.stripe.adapter import DEFAULT_BASE_URL as STRIPE_BASE_URL
from dataplane.adapters.stripe.adapter import StripeAdapter
from schemas.settings import Upstream

_BUILDERS: dict[str, Callable[[str, Upstream, Prices, Fx], Adapter]] = {
    "stripe": lambda name, upstream, _prices, fx: StripeAdapter(name, upstream, fx),
    "openai": lambda _name, upstream, prices, _fx: OpenAiAdapter(upstream, prices),
}

NAMES: Final = tuple(sorted(_BUILDERS))
"""Values of an upstream's `adapter`."""

DEFAULT_BASE_URLS: Final = {"stripe": STRIPE_BASE_URL, "openai": OPENAI_BASE_URL}
"""What an empty `base_url` means."""


class UnknownAdapterError(ValueError):
    """The configuration names a dialect that does not exist; the message lists those that do."""


def build_adapter(name: str, upstream_name: str, upstream: Upstream, prices: Prices, fx: Fx) -> Adapter:
    """The adapter for one upstream. Raises UnknownAdapterError, or targets.BaseUrlError for its base URL."""
    build = _BUILDERS.get(name)
    if build is None:
        raise UnknownAdapterError(f"adapter {name[:64]!r} is not known; known are {', '.join(NAMES)}")
    return build(upstream_name, upstream, prices, fx)
