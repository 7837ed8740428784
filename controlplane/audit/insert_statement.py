"""Where an INSERT ends and its data begins.

ClickHouse's HTTP interface takes the statement and the data as one text; chDB takes them apart. The statement comes
from the writer alone (readers cannot insert), but it is split by reading tokens all the same, because a quoted name
may hold any word.
"""

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    rb"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*(?:\n|$)|\#[!\ ][^\n]*(?:\n|$)|/\*.*?\*/)
    | (?P<quoted>'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

#: After these words no data follows the statement.
_NO_DATA: Final = frozenset({b"SELECT", b"WITH", b"WATCH", b"INFILE"})


@dataclass(frozen=True, slots=True)
class InsertSplit:
    """An INSERT that is followed by data."""

    #: `INSERT INTO t (columns)`, with its SETTINGS, without FORMAT or VALUES.
    statement: str
    #: The data's format: `Native`, `JSONEachRow`, `Values`, ...
    input_format: str
    #: Where the data begins.
    data_start: int


def first_word(text: bytes) -> str:
    """The statement's first word in capitals; brackets, comments and spaces before it are skipped."""
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word":
            return token.group().decode("ascii").upper()
        if token.lastgroup not in {"space", "comment", "open"}:
            return ""
    return ""


def split_insert(text: bytes) -> InsertSplit | None:
    """Split `INSERT ... FORMAT name <data>` or `INSERT ... VALUES <data>`; None for any other statement.

    `text` holds the whole statement and the start of its data, if it has any.
    """
    if first_word(text) != "INSERT":
        return None
    depth = 0
    tokens = _TOKEN.finditer(text)
    for token in tokens:
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup != "word" or depth:
            continue
        word = token.group().upper()
        if word in _NO_DATA:
            return None
        if word == b"VALUES":
            return _split(text, token.start(), "Values", token.end())
        if word == b"FORMAT":
            name = next((t for t in tokens if t.lastgroup == "word"), None)
            return name and _split(text, token.start(), name.group().decode("ascii"), _after_format(text, name.end()))
    return None


def _split(text: bytes, statement_end: int, input_format: str, data_start: int) -> InsertSplit | None:
    try:
        statement = text[:statement_end].decode("utf-8")
    except UnicodeDecodeError:
        return None
    return InsertSplit(statement, input_format, data_start)


def _after_format(text: bytes, start: int) -> int:
    """The engine's rule: blanks, and then one line end, belong to the statement."""
    while text[start : start + 1] in {b" ", b"\t", b"\f"}:
        start += 1
    if text[start : start + 2] == b"\r\n":
        return start + 2
    return start + 1 if text[start : start + 1] == b"\n" else start
