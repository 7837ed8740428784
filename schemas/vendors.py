"""The vendors that have an adapter: their origin and the environment variable their own SDK reads.

Base URLs and variables are those of the vendors' official Python SDKs (stripe 16.1, openai 3.52).
"""

import msgspec


class Vendor(msgspec.Struct, frozen=True):
    """`version_suffix`: a path ending that users often put into the base URL though it belongs to the request."""

    adapter: str
    base_url: str
    env: str
    version_suffix: str = ""


VENDORS: dict[str, Vendor] = {
    "stripe": Vendor("stripe", "https://api.stripe.com", "STRIPE_SECRET_KEY"),
    "openai": Vendor("openai", "https://api.openai.com", "OPENAI_API_KEY", version_suffix="/v1"),
}

RESERVED_NAMES = frozenset({"v1", "agents", "healthz", "readyz", "metrics"})
"""First path segments that belong to the gateway itself; no upstream may have one for a name."""
