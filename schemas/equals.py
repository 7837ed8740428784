"""One object for equal values: what 100,000 records say alike is kept once."""

from collections.abc import Hashable, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_KEPT = 50_000
"""Different values remembered; some MB at most. Values beyond that are kept as often as they come."""


class Equals:
    """Remembers values. Only for immutable ones: whoever holds one cannot tell its object from an equal one."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def share(self, record: Struct, fields: Iterable[str]) -> None:
        """Replace the values of these fields of a (frozen) struct by equal ones that are here already."""
        kept = self._kept
        for field in fields:  # a million values when a node starts, so no call for each
            value = getattr(record, field)
            if value:
                same = kept.get(value)
                if same is None:
                    if len(kept) < MAX_KEPT:
                        kept[value] = value
                elif same is not value:
                    force_setattr(record, field, same)  # equal, so nothing changes

    def forget(self) -> None:
        """What was shared stays so; what comes next is compared with nothing older."""
        self._kept.clear()
