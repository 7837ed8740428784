"""ClickHouse's HTTP interface, as far as it needs no network: what a request asks, and what an answer says.

Sources: ClickHouse's documentation of the HTTP interface, and the requests that clickhouse-connect 1.12 sends. Not
offered, and refused with error 48: external tables, sessions that last, ClickHouse's own block compression
(`compress=1`), and `role`. `session_id` is accepted, because clients send one by themselves, and means nothing:
statements that only change a session are refused (`session_only`).
"""

import base64
import binascii
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.audit.endpoint_codecs import ANSWER_ENCODINGS
from controlplane.audit.endpoint_errors import ErrorCode, QueryError
from controlplane.audit.engine_session import Figures

DEFAULT_FORMAT: Final = "TabSeparated"

#: Parameters of the interface that are no settings of the engine; those not read below have no meaning here.
_INTERFACE: Final = frozenset(
    {
        *("add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close"),
        *("client_protocol_version", "close_session", "database", "default_format", "enable_http_compression"),
        *("http_headers_progress_interval_ms", "http_zlib_compression_level", "password", "query", "query_id"),
        *("quota_key", "send_progress_in_http_headers", "session_check", "session_id", "session_timeout"),
        *("stacktrace", "user", "wait_end_of_query"),
    }
)
_NOT_OFFERED: Final = frozenset({"compress", "decompress", "role"})

_QUERY_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")

#: Output formats of which every block stands for itself, so that a result can be sent block by block.
_STREAMED: Final = frozenset(
    {
        *("csv", "jsoncompacteachrow", "jsoneachrow", "jsonlines", "jsonstringseachrow", "native", "ndjson"),
        *("rowbinary", "tabseparated", "tabseparatedraw", "tsv", "tsvraw"),
    }
)

_CONTENT_TYPES: Final = (
    ("json", "application/json; charset=UTF-8"),
    ("ndjson", "application/x-ndjson; charset=UTF-8"),
    ("csv", "text/csv; charset=UTF-8; header=absent"),
    ("tabseparated", "text/tab-separated-values; charset=UTF-8"),
    ("tsv", "text/tab-separated-values; charset=UTF-8"),
    ("xml", "application/xml; charset=UTF-8"),
    ("markdown", "text/markdown; charset=UTF-8"),
    *((name, "text/plain; charset=UTF-8") for name in ("pretty", "vertical", "values")),
)


@dataclass(frozen=True, slots=True)
class Login:
    """What a request signs in with. The password appears in no `repr`."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request without its body."""

    #: The statement, or its beginning, from the URL or the form.
    query: str
    database: str | None
    #: `param_x=...` as `x`, values as the engine reads them (escaped as in TSV).
    params: Mapping[str, str]
    settings: Mapping[str, str]
    query_id: str
    default_format: str
    #: What the answer is packed with; None for plain.
    answer_encoding: str | None
    #: Hold the result back until the statement has ended, so that an error can still be told as one.
    wait_end: bool


def read_login(headers: Mapping[str, str], query: Mapping[str, str]) -> Login | QueryError:
    """The request's login: `X-ClickHouse-User` and `-Key`, Basic, or `user` and `password` in the URL; one of them."""
    basic = headers.get("Authorization")
    own = "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers
    in_url = "user" in query or "password" in query
    if (basic is not None) + own + in_url > 1:
        return _login_failed("the request signs in in more than one way")
    if basic is not None:
        return _read_basic(basic)
    given, names = (headers, ("X-ClickHouse-User", "X-ClickHouse-Key")) if own else (query, ("user", "password"))
    login = Login(given.get(names[0], "default"), given.get(names[1], ""))
    try:
        (login.user + login.password).encode()
    except UnicodeEncodeError:
        return _login_failed("user or password is not valid UTF-8")
    return login


def _read_basic(header: str) -> Login | QueryError:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return _login_failed("of the Authorization schemes only Basic is supported")
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return _login_failed("the Authorization header is not valid")
    return Login(user, password) if colon else _login_failed("the Authorization header is not valid")


def _login_failed(why: str) -> QueryError:
    return QueryError(ErrorCode.AUTHENTICATION_FAILED, f"Authentication failed: {why}")


def login_refused(user: str) -> QueryError:
    """The answer to a login that is not known: never says whether the user exists."""
    return _login_failed(f"{user[:64]!r} is not known, or the password is wrong")


def read_asked(headers: Mapping[str, str], query: Sequence[tuple[str, str]]) -> Asked | QueryError:
    """Read the URL (and form) parameters; of a name given twice the last counts."""
    given = dict(query)
    refused = sorted(name for name in _NOT_OFFERED & given.keys() if given[name] not in {"0", ""})
    if refused:
        return QueryError(ErrorCode.NOT_IMPLEMENTED, f"{refused[0]} is not offered by the embedded ClickHouse")
    query_id = given.get("query_id") or str(uuid.uuid4())
    if not _QUERY_ID.fullmatch(query_id):
        return QueryError(ErrorCode.BAD_ARGUMENTS, "query_id may hold letters, digits and _.:- only, 128 at most")
    database = given.get("database") or headers.get("X-ClickHouse-Database") or None
    default_format = given.get("default_format") or headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT
    if not (database or "").isprintable() or not re.fullmatch(r"\w{1,64}", default_format):
        return QueryError(ErrorCode.BAD_ARGUMENTS, "the name of the database or of the default format is not valid")
    names = [name for name in given if name not in _INTERFACE | _NOT_OFFERED and not name.startswith("param_")]
    return Asked(
        query=given.get("query", ""),
        database=database,
        params={name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")},
        settings={name: given[name] for name in names},
        query_id=query_id,
        default_format=default_format,
        answer_encoding=_answer_encoding(headers.get("Accept-Encoding", ""), given.get("enable_http_compression", "0")),
        wait_end=given.get("wait_end_of_query", "0") == "1",
    )


def _answer_encoding(accepted: str, enabled: str) -> str | None:
    offers = {offer.partition(";")[0].strip().lower() for offer in accepted.split(",")}
    return next((e for e in ANSWER_ENCODINGS if e in offers), None) if enabled == "1" else None


def session_only(canonical: str) -> QueryError | None:
    """Refuse what would change a session that ends with the request: it would silently do nothing."""
    for start in ("SET ", "USE ", "BEGIN", "COMMIT", "ROLLBACK", "CREATE TEMPORARY ", "EXECUTE AS "):
        if canonical.startswith(start) or canonical == start.strip():
            return QueryError(
                ErrorCode.NOT_IMPLEMENTED,
                f"{start.strip()} has no effect beyond its own request here; send settings and database as parameters",
            )
    return None


def output_format(canonical: str, tree: Mapping[str, object] | None, default: str) -> str:
    """The format that a statement's result has."""
    if tree is not None:
        chosen = tree.get("format_ast")
        return str(chosen["name"]) if isinstance(chosen, Mapping) else default
    named = re.search(r" FORMAT `?(\w+)`?$", canonical)
    return named.group(1) if named else default


def is_streamed(name: str) -> bool:
    """True if a result in this format can be sent block by block."""
    return name.lower() in _STREAMED


def content_type(name: str) -> str:
    """The Content-Type of a result in this format."""
    lower = name.lower()
    return next((kind for start, kind in _CONTENT_TYPES if lower.startswith(start)), "application/octet-stream")


def summary(figures: Figures, *, result_bytes: int, elapsed_ns: int) -> str:
    """`X-ClickHouse-Summary`: figures as decimal strings, as the server writes them."""
    shown = {
        "read_rows": figures.read_rows,
        "read_bytes": figures.read_bytes,
        "written_rows": figures.written_rows,
        "written_bytes": figures.written_bytes,
        "total_rows_to_read": figures.read_rows,
        "result_rows": figures.result_rows or figures.written_rows,
        "result_bytes": result_bytes or figures.written_bytes,
        "elapsed_ns": elapsed_ns,
    }
    return json.dumps({name: str(value) for name, value in shown.items()}, separators=(",", ":"))


def late_error(message: str, tag: str) -> bytes:
    """An error after the result has begun, in the form that clients look for (`X-ClickHouse-Exception-Tag`)."""
    text = message.encode()
    mark = tag.encode()
    return b"\r\n__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n" % (mark, text, len(text), mark)
