"""chDB: one data directory, open in this process. Everything here blocks; `lanes` gives it threads.

What chDB 4.4 offers, as read from its source and measured:
- A process has one engine on one path, and any number of connections to it. Each connection has settings, a current
  database and roles of its own, costs 0.2 ms to open, and runs beside the others; one statement at a time each. So
  every request gets a connection of its own, and nothing a request sets can reach the next one.
- The engine lives as long as its last connection: `Engine` holds one open. `close` ends it.
- The directory's lock (`status`) goes with the process, so a killed one reopens. chDB reports a lock held by another
  process on standard error only; our own lock makes it an error that names the process.
- Results come whole, or block by block, each block a document of its own in the output format.
- A running statement is ended from another connection, by KILL QUERY; ours carry a tag in `log_comment` for that.
"""

import contextlib
import fcntl
import importlib
import os
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self
from urllib.parse import quote

from controlplane.audit.endpoint_errors import read_engine_error
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.engine_config import READER_ROLE, written_config
from controlplane.audit.engine_session import EngineError, Session, SessionSpec, sql_string
from controlplane.audit.reader_rules import FunctionNames, sort_functions
from controlplane.audit.roles import DATABASE

_LOCK_FILE: Final = "ringfence.lock"

#: What a reader's session must not be granted; asked when the engine starts, so that an engine that does not
#: enforce roles is found before it serves anybody.
_MUST_LACK: Final = (
    "SELECT ON *.*",
    f"SELECT ON {DATABASE}.events",
    "INSERT ON *.*",
    "ALTER ON *.*",
    "CREATE TEMPORARY TABLE ON *.*",
    "SOURCES ON *.*",
    "SYSTEM ON *.*",
    "SHOW USERS ON *.*",
)


class EngineUnavailableError(Exception):
    """The engine cannot be started; the message says what the operator can do."""


class DataDirectoryInUseError(EngineUnavailableError):
    """Another live process has the data directory."""


class Engine:
    """An open data directory. Made by `Engine.open`; all methods may be called from any thread."""

    def __init__(self, chdb: ModuleType, path: Path, lock_fd: int, keeper: Any) -> None:
        self._chdb = chdb
        self._path = path
        self._lock_fd = lock_fd
        self._keeper = keeper
        self._kill_lock = threading.Lock()
        self.version: str = keeper.query("SELECT version()", "RawBLOB").data()

    @classmethod
    def open(cls, path: Path, limits: EndpointLimits, views: Sequence[str]) -> Self:
        """Open (or create) the directory. Raises `EngineUnavailableError`, `DataDirectoryInUseError`.

        Loading chDB takes about a second and changes the working directory meanwhile, so nothing else should run.
        """
        path = path.absolute()
        if "?" in str(path):
            raise EngineUnavailableError(
                f"{path}: the embedded ClickHouse cannot use a path that holds a question mark"
            )
        if any(not re.fullmatch(r"[A-Za-z_]\w*", view) for view in views):
            raise ValueError(f"not the names of views: {views}")
        chdb = _load_chdb()
        path.mkdir(parents=True, exist_ok=True)
        lock_fd = _lock(path)
        try:
            with written_config(limits, views) as config:
                keeper = chdb.connect(f"{path}?config-file={quote(str(config))}")
        except RuntimeError as error:
            os.close(lock_fd)
            raise EngineUnavailableError(_why_not_opened(path, str(error))) from error
        engine = cls(chdb, path, lock_fd, keeper)
        try:
            engine._verify_roles(views)
        except EngineUnavailableError:
            engine.close()
            raise
        return engine

    def session(self, spec: SessionSpec) -> Session:
        """A connection of its own, set up as `spec` says. Raises `EngineError` for settings the engine refuses."""
        return Session(self._chdb.connect(str(self._path)), spec)

    def kill(self, tag: str) -> None:
        """Ask the engine to end the statement with that tag; it may have ended already."""
        with self._kill_lock, contextlib.suppress(RuntimeError):
            self._keeper.query(f"KILL QUERY WHERE Settings['log_comment'] = {sql_string(tag)} ASYNC", "Null")

    def function_names(self) -> FunctionNames:
        """The engine's functions, sorted into those that readers may name and the others."""
        rows = self._rows("SELECT name, alias_to, categories, is_aggregate FROM system.functions")
        combinators = [row[0] for row in self._rows("SELECT name FROM system.aggregate_function_combinators")]
        return sort_functions(((n, alias, group, agg == "1") for n, alias, group, agg in rows), combinators)

    def close(self) -> None:
        """End the engine; sessions must be closed before. Idempotent."""
        if self._lock_fd < 0:
            return
        self._keeper.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _rows(self, sql: str) -> Iterable[list[str]]:
        text: str = self._keeper.query(sql, "TabSeparatedRaw").data()
        return [line.split("\t") for line in text.split("\n")[:-1]]

    def _verify_roles(self, views: Sequence[str]) -> None:
        session = self.session(SessionSpec(tag="start", role=READER_ROLE, database=None, readonly=False))
        try:
            granted = [g for g in _MUST_LACK if session.ask(f"CHECK GRANT {g}") != "0"]
            lacking = [v for v in views if session.ask(f"CHECK GRANT SELECT ON {DATABASE}.{v}") != "1"]
        except EngineError as error:
            raise EngineUnavailableError(f"this chDB cannot say what it grants: {error}") from error
        finally:
            session.close()
        if granted or lacking:
            raise EngineUnavailableError(
                f"this chDB does not enforce roles (granted to readers: {granted}, missing: {lacking}); "
                "use chdb>=4.4,<5 with chdb-core 26.9, or a ClickHouse server"
            )


def _load_chdb() -> ModuleType:
    try:
        return importlib.import_module("chdb")
    except ImportError as error:
        raise EngineUnavailableError(
            "the embedded ClickHouse needs chDB: pip install 'ringfence[embedded]' (or configure a ClickHouse server)"
        ) from error


def _lock(path: Path) -> int:
    """Take our lock, and make sure that nobody holds chDB's. A lock goes with its process, however that ends."""
    fd = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _take(fd):
        holder = os.pread(fd, 32, 0)
        os.close(fd)
        raise _in_use(path, holder)
    with contextlib.suppress(FileNotFoundError), (path / "status").open("rb") as status:
        # Another program than ours: clickhouse-local, or chDB by itself.
        if not _take(status.fileno()):
            os.close(fd)
            raise _in_use(path, status.read(256))
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"PID: %d\n" % os.getpid(), 0)
    return fd


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(path: Path, holder: bytes) -> DataDirectoryInUseError:
    pid = re.search(rb"PID: (\d+)", holder)
    shown = f"process {int(pid.group(1))}" if pid else "another process"
    return DataDirectoryInUseError(f"{path} is in use by {shown}: stop that process, or choose another directory")


def _why_not_opened(path: Path, text: str) -> str:
    if "already initialized with path" in text:
        return f"{path}: a process can open one ClickHouse directory only, and this process has another one open"
    reason = read_engine_error(text.partition("Failed to create connection: ")[2] or text).message
    return f"{path} cannot be opened by the embedded ClickHouse: {reason} (its own report is on standard error)"
