"""A proxy under measurement, whatever it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Pids = Callable[[], list[int]]


@dataclass(frozen=True)
class Peer:
    """`url`: what stands before the vendor's path. `pids`: the processes that carry requests, on the proxy's core.

    `helpers`: what else works for it, by name, on the other core: shown beside, never added. `headers`: what it must be
    told besides. `rate`: requests a second at which its latency is measured, None for the usual.
    """

    name: str
    url: str
    pids: Pids
    helpers: Mapping[str, Pids] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rate: float | None = None


class Missing(Exception):
    """The peer is not installed; the message says how to get it."""
