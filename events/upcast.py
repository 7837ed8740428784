"""Old event versions and the functions that raise each to the next. Empty until a tag gets its version 2."""

from collections.abc import Callable
from typing import Any

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Old tag -> function from the old event's JSON object to the next version's (with its new tag)."""
