"""When calls reached a vendor, by the vendor's own books."""

from collections.abc import Iterable
from typing import Any

TICK_NS = 10_000_000
"""The kernel tells in timer ticks (4 or 10 ms) how long bytes have lain there."""


def arrived_ns(entry: dict[str, Any]) -> int:
    """When the vendor's machine had the call, on CLOCK_MONOTONIC: a busy vendor may have looked much later."""
    return int(entry["received_mono_ns"] - entry.get("queued_ms", 0) * 1_000_000)


def arrived_wall_ns(entry: dict[str, Any]) -> int:
    """The same on the wall clock."""
    return int(entry["received_wall_ns"] - entry.get("queued_ms", 0) * 1_000_000)


def arrived_after(entries: Iterable[dict[str, Any]], after_s: float) -> list[dict[str, Any]]:
    """The calls that certainly arrived after a moment (seconds of CLOCK_MONOTONIC)."""
    return [entry for entry in entries if arrived_ns(entry) > after_s * 1e9 + TICK_NS]
