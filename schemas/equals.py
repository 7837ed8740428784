"""One object for equal values: what 100,000 records say alike is kept once."""

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import force_setattr

T = TypeVar("T", bound=Hashable)

MAX_KEPT = 50_000
"""Different values remembered; some MB at most. Values beyond that are kept as often as they come."""


class Equals:
    """Remembers values. Only for immutable ones: whoever holds one cannot tell its object from an equal one."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def share(self, record: Struct, fields: Iterable[str]) -> None:
        """Replace the values of these fields of a (frozen) struct by equal ones that are here already."""
        for field in fields:
            value = getattr(record, field)
            if value:
                kept = self.one(value)
                if kept is not value:
                    force_setattr(record, field, kept)  # equal, so nothing changes

    def one(self, value: T) -> T:
        """An equal value, the same object each time."""
        kept: T | None = self._kept.get(value)
        if kept is not None:
            return kept
        if len(self._kept) < MAX_KEPT:
            self._kept[value] = value
        return value

    def forget(self) -> None:
        """What was shared stays so; what comes next is compared with nothing older."""
        self._kept.clear()
