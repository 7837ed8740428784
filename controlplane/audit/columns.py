"""The columns of `ringfence.events`, and rows on their way there, by column."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

COLUMNS = {
    "log": "LowCardinality(String)", "seq": "UInt64", "idx": "UInt32", "actor": "LowCardinality(String)",
    "n": "UInt64", "at": "DateTime64(9)", "stored_at": "DateTime64(9)", "type": "LowCardinality(String)",
    "request_id": "String", "key": "String", "label": "String", "agent": "LowCardinality(String)",
    "owner": "LowCardinality(String)", "purpose": "LowCardinality(String)", "cost_center": "LowCardinality(String)",
    "run": "String", "user": "String", "feature": "LowCardinality(String)", "client": "String",
    "upstream": "LowCardinality(String)", "operation": "LowCardinality(String)", "method": "LowCardinality(String)",
    "path": "String", "model": "LowCardinality(String)", "status": "UInt16", "outcome": "LowCardinality(String)",
    "refusal": "LowCardinality(String)", "message": "String", "line": "String", "count": "UInt64",
    "bound_usd": "Decimal(18, 9)", "actual_usd": "Decimal(18, 9)", "refund_usd": "Decimal(18, 9)", "object": "String",
    "exposure_usd": "Decimal(18, 9)", "meter": "LowCardinality(String)", "idempotency": "String", "resolves": "String",
    "input_tokens": "UInt64", "output_tokens": "UInt64", "cached_tokens": "UInt64", "tool_calls": "UInt32",
    "latency_us": "UInt64", "overhead_us": "UInt64", "subject": "String", "operator": "String",
    "operator_name": "String", "address": "String", "reason": "String", "data": "String",
}  # fmt: skip
"""Every column of the table in its order, with its type."""

EVENTS, BLOCKS = "ringfence.events", "ringfence.blocks"

TABLES = {EVENTS: COLUMNS, BLOCKS: {"log": "LowCardinality(String)", "from_seq": "UInt64", "to_seq": "UInt64"}}
"""The columns that are told, with their types."""

MAX_NANOS = 10**18 - 1
"""What Decimal(18, 9) holds: a nano less than a billion dollars."""

Place = tuple[int, int]
"""Of an event in its log: (seq, idx)."""

Columns = dict[str, Sequence[Any]]


class Rows:
    """Rows by column; a column of which no row has a value is left out, for the table knows the defaults."""

    def __init__(self) -> None:
        self.count = 0
        self._columns: dict[str, list[Any]] = {}

    def put(self, count: int, columns: Columns) -> None:
        """Add so many rows."""
        for name, values in columns.items():
            if any(values):
                column = self._columns.setdefault(name, [])
                self._fill(name, column)
                column.extend(values)
        self.count += count

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        column = self._columns.get(name, [])
        self._fill(name, column)
        return column

    def columns(self) -> Columns:
        """By column, in the table's order."""
        return {name: self.column(name) for name in COLUMNS if name in self._columns}

    def places(self) -> list[Place]:
        """Where the rows' events are."""
        return list(zip(self.column("seq"), self.column("idx"), strict=True))

    def picked(self, rows: Sequence[int]) -> Columns:
        """`columns` of some rows."""
        return {name: [values[row] for row in rows] for name, values in self.columns().items()}

    def _fill(self, name: str, column: list[Any]) -> None:
        if len(column) < self.count:
            column.extend(repeat(_default(COLUMNS[name]), self.count - len(column)))


def _default(kind: str) -> Any:
    return "" if kind.endswith(("String", "String)")) else 0


def usd(nanos: Iterable[int]) -> list[int]:
    """Amounts as a column of Decimal(18, 9) has them; what none holds as the most that it does."""
    return [max(-MAX_NANOS, min(amount, MAX_NANOS)) for amount in nanos]
