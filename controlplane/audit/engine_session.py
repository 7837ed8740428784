"""One request's connection to chDB: its role, limits and settings, and the one statement that it runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from controlplane.audit.endpoint_errors import ErrorCode, QueryError, read_engine_error
from controlplane.audit.reader_rules import Node

_SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: How a parameter's value is written for the engine, which reads it as one field of a TSV line.
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0", "\b": "\\b", "\f": "\\f"}
)


class EngineError(Exception):
    """The engine refused or failed a statement; `error` is what the client is told."""

    def __init__(self, error: QueryError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """How a session is set up, in this order: role, database, settings, read-only."""

    #: Carried in `log_comment`, so that the statement can be found and ended.
    tag: str
    #: The only role of the session; None keeps all.
    role: str | None
    database: str | None
    #: `readonly = 2`: no writes, no DDL, and `readonly` itself can no longer be changed.
    readonly: bool
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Figures:
    """What a statement read and wrote, as far as it has come."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0

    def add(self, result: Any) -> None:
        """Add one result, or one block of a streamed one."""
        self.read_rows += result.storage_rows_read()
        self.read_bytes += result.storage_bytes_read()
        self.written_rows += result.rows_written()
        self.written_bytes += result.bytes_written()
        self.result_rows += result.rows_read()


class Session:
    """A connection and its statement, for one thread at a time. Everything may raise `EngineError`."""

    def __init__(self, connection: Any, spec: SessionSpec) -> None:
        self._connection = connection
        self._stream: Any = None
        self.tag = spec.tag
        self.figures = Figures()
        try:
            self._set_up(spec)
        except EngineError:
            connection.close()
            raise

    def _set_up(self, spec: SessionSpec) -> None:
        if spec.role is not None:
            self._call(self._connection.query, f"SET ROLE {spec.role}", "Null")
        if spec.database is not None:
            self._call(self._connection.query, f"USE {sql_name(spec.database)}", "Null")
        settings = {"session_timezone": "UTC", **spec.settings, "log_comment": spec.tag}
        for name in settings:
            if not _SETTING_NAME.fullmatch(name):
                raise EngineError(QueryError(ErrorCode.BAD_ARGUMENTS, f"{name[:80]!r} is not the name of a setting"))
        changes = ", ".join(f"{name} = {sql_string(value)}" for name, value in settings.items())
        self._call(self._connection.query, f"SET {changes}", "Null")
        if spec.readonly:
            self._call(self._connection.query, "SET readonly = 2", "Null")

    def ask(self, sql: str, params: Mapping[str, str] | None = None) -> str:
        """Run a statement of our own; its one value as text."""
        text: str = self._call(self._connection.query, sql, "TSVRaw", params=dict(params or {})).data()
        return text.removesuffix("\n")

    def canonical(self, sql: str) -> str:
        """The statement as the engine reads it: one statement, no comments. Error 62 if it is not one statement."""
        return self.ask("SELECT formatQuerySingleLine({q:String})", {"q": sql.translate(_ESCAPES)})

    def tree(self, canonical: str) -> Node | None:
        """The engine's parse of a canonical statement; None if it has none to show."""
        try:
            text = self.ask("SELECT parseQueryToJSON({q:String})", {"q": canonical.translate(_ESCAPES)})
            tree: Node = msgspec.json.decode(text, type=dict[str, Any])
        except EngineError as error:
            if error.error.code == ErrorCode.BAD_ARGUMENTS:
                return None
            raise
        except (msgspec.DecodeError, RecursionError):
            # No tree is no reason for the writer to be refused; readers are refused without one.
            return None
        return tree

    def cap_result(self, max_bytes: int) -> None:
        """Bound a result that is built whole (error 396)."""
        self._call(self._connection.query, f"SET max_result_bytes = {max_bytes}", "Null")

    def run(self, sql: str, output_format: str, params: Mapping[str, str]) -> bytes:
        """Run a statement to its end; the whole result."""
        result = self._call(self._connection.query, sql, output_format, params=dict(params))
        self.figures.add(result)
        body: bytes = result.bytes()
        return body

    def start(self, sql: str, output_format: str, params: Mapping[str, str]) -> None:
        """Start a statement of which `next_block` gives the result."""
        self._stream = self._call(self._connection.send_query, sql, output_format, params=dict(params))

    def next_block(self) -> bytes | None:
        """The next block of the result; None after the last."""
        block = self._call(self._stream.fetch)
        if block is None:
            self._stream = None
            return None
        self.figures.add(block)
        body: bytes = block.bytes()
        return body

    def insert(self, statement: str, input_format: str, pieces: Iterable[bytes]) -> None:
        """Run `INSERT INTO t (columns)` with data in `input_format`; of a single block all is inserted, or nothing."""
        inserter = self._call(self._connection.send_insert, statement, input_format)
        finished = False
        try:
            for piece in pieces:
                self._call(inserter.append, piece)
            result = self._call(inserter.finish)
            finished = True
        finally:
            if not finished:
                self._cancel(inserter)
        self.figures.written_rows += result.rows_written
        self.figures.written_bytes += result.bytes_written

    @property
    def is_streaming(self) -> bool:
        """True while a streamed result has not been read to its end; it must be killed before `close`."""
        return self._stream is not None

    def close(self) -> None:
        """End whatever still runs, and the connection. Waits for a statement that nobody kills."""
        if self._stream is not None:
            self._cancel(self._stream)
            self._stream = None
        self._connection.close()

    def _cancel(self, running: Any) -> None:
        try:
            self._call(running.cancel)
        except EngineError:
            # It had failed or ended by itself; the connection is closed in any case.
            return

    @staticmethod
    def _call(method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except RuntimeError as error:
            raise EngineError(read_engine_error(str(error))) from None


def sql_string(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def sql_name(value: str) -> str:
    """A quoted identifier."""
    return "`" + value.replace("\\", "\\\\").replace("`", "\\`") + "`"
