"""What a handler gives back, and how it becomes bytes: JSON, or CSV that no spreadsheet executes."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane.api.ports import Cell, Page, Row
from controlplane.commands.base import CommandRefusal
from schemas.answers import ErrorAnswer, ErrorBody, ListAnswer

JSON_TYPE = "application/json"
CSV_TYPE = "text/csv; charset=utf-8"

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?\Z")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: bytes as they are, None for none, anything else as JSON. It may hold a token: it has no repr."""

    body: Any = field(default=None, repr=False)
    status: int = 200
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


NO_CONTENT = Answer(status=204)


def error_answer(refusal: CommandRefusal, headers: Mapping[str, str] | None = None) -> Answer:
    body = ErrorAnswer(ErrorBody(refusal.code, refusal.message, refusal.param or None, refusal.remedy or None))
    return Answer(body, refusal.status, headers=headers or {})


def page_answer(page: Page, columns: Sequence[str], form: str, name: str) -> Answer:
    """A page of the audit's rows as the list object, or as CSV with the cursor in `X-Next-Cursor`."""
    if form != "csv":
        return Answer(ListAnswer[Row](list(page.rows), page.next_cursor))
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    if page.next_cursor is not None:
        headers["X-Next-Cursor"] = page.next_cursor
    return Answer(render_csv(columns, page.rows), content_type=CSV_TYPE, headers=headers)


def render_csv(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """RFC 4180 with a header line. Columns that a row lacks stay empty."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue().encode("utf-8", "replace")


def _cell(value: Cell) -> str:
    """Text as a spreadsheet should show it: what it would take for a formula gets an apostrophe in front."""
    if value is None:
        return ""
    text = str(value)
    if text.startswith(_FORMULA_STARTS) and _NUMBER.match(text) is None:
        return f"'{text}"
    return text
