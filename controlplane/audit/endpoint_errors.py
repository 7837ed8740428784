"""Errors of the endpoint in ClickHouse's own terms: number, name, HTTP status, wording."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class ErrorCode(enum.IntEnum):
    """The ClickHouse error numbers that the endpoint itself answers with."""

    BAD_ARGUMENTS = 36
    NOT_IMPLEMENTED = 48
    SYNTAX_ERROR = 62
    TIMEOUT_EXCEEDED = 159
    READONLY = 164
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    CANNOT_DECOMPRESS = 271
    TOO_MANY_BYTES = 307
    QUERY_WAS_CANCELLED = 394
    SETTING_CONSTRAINT_VIOLATION = 452
    ACCESS_DENIED = 497
    AUTHENTICATION_FAILED = 516
    UNKNOWN_EXCEPTION = 1002


#: As ClickHouse's HTTP handler maps them; whatever is missing is 500.
_STATUSES: Final[Mapping[int, int]] = {
    **dict.fromkeys((6, 26, 27, 33, 36, 38, 41, 42, 43, 47, 53, 62, 69, 70, 72, 117, 130, 170, 271, 456, 457), 400),
    **dict.fromkeys((46, 50, 60, 63, 75, 81, 115), 404),
    **dict.fromkeys((164, 192, 193, 452, 497, 516), 403),
    48: 501,
    159: 408,
    202: 503,
    307: 413,
    394: 499,
}

_CODE: Final = re.compile(r"Code: (\d+)\. (?:DB::Exception|DB::NetException|Coordination::Exception): ")
_NAME: Final = re.compile(r"\(([A-Z][A-Z0-9_]+)\)\s*(?:\(version [^)]*\)\s*)?$")
#: What the function that canonicalises a statement adds to a syntax error: the statement, quoted once more.
_CANONICALISED: Final = re.compile(r": In scope SELECT (?:formatQuerySingleLine|parseQueryToJSON)\(.*\)\.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class QueryError:
    """A refused or failed statement: a value, not an exception."""

    code: int
    message: str
    name: str = ""

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return _STATUSES.get(self.code, 500)

    def text(self, version: str) -> str:
        """The body that clients show: `Code: 62. DB::Exception: ... (SYNTAX_ERROR) (version 26.9.2.1)`."""
        return f"Code: {int(self.code)}. DB::Exception: {self.message}. ({self._name()}) (version {version})"

    def _name(self) -> str:
        if self.name:
            return self.name
        try:
            return ErrorCode(self.code).name
        except ValueError:
            return ErrorCode.UNKNOWN_EXCEPTION.name


def read_engine_error(text: str) -> QueryError:
    """Read an engine's message (`Code: 47. DB::Exception: Unknown ... (UNKNOWN_IDENTIFIER)`)."""
    codes = list(_CODE.finditer(text))
    name = _NAME.search(text)
    if not codes:
        return QueryError(ErrorCode.UNKNOWN_EXCEPTION, text.strip()[:2_000])
    message = text[codes[-1].end() : name.start() if name else len(text)]
    message = re.sub(r"\s*\([A-Z0-9_]+\) \(version [^)]*\)\.?\s*$", "", _CANONICALISED.sub(".", message))
    return QueryError(int(codes[0].group(1)), message.strip().rstrip("."), name.group(1) if name else "")
