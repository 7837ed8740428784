"""The parts of the embedded ClickHouse that need no engine."""

import asyncio
import gzip
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import lz4.frame  # type: ignore[import-untyped]  # ships no types
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit.endpoint_codecs import PIECE_BYTES, Packer, UnpackError, unpack
from controlplane.audit.endpoint_errors import ErrorCode, QueryError, read_engine_error
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.endpoint_protocol import Asked, Login, output_format, read_asked, read_login, session_only
from controlplane.audit.insert_statement import first_word, split_insert
from controlplane.audit.lanes import Lane, LaneBusyError
from controlplane.audit.reader_rules import FunctionNames, ReaderRules, sort_functions

# -- INSERT and its data -------------------------------------------------------------------------------------------

SPLITS: list[tuple[bytes, str, str, bytes]] = [
    (b"INSERT INTO t FORMAT Native\n\x00\xff", "INSERT INTO t ", "Native", b"\x00\xff"),
    (b"INSERT INTO t (a, b) FORMAT CSV 1,2", "INSERT INTO t (a, b) ", "CSV", b"1,2"),
    (b"INSERT INTO t FORMAT TSV \r\n1", "INSERT INTO t ", "TSV", b"1"),
    (b"INSERT INTO t FORMAT TSV\n\n1", "INSERT INTO t ", "TSV", b"\n1"),
    (b"insert into t values (1)", "insert into t ", "Values", b" (1)"),
    (b"INSERT INTO `FORMAT x` FORMAT CSV\n1", "INSERT INTO `FORMAT x` ", "CSV", b"1"),
    (b'INSERT INTO "VALUES" (`FORMAT`) VALUES (1)', 'INSERT INTO "VALUES" (`FORMAT`) ', "Values", b" (1)"),
    (b"INSERT INTO t (format, values) FORMAT CSV\n1", "INSERT INTO t (format, values) ", "CSV", b"1"),
    (b"-- FORMAT\n/* VALUES */INSERT INTO t FORMAT CSV\n", "-- FORMAT\n/* VALUES */INSERT INTO t ", "CSV", b""),
    (b"INSERT INTO t SETTINGS a = 'VALUES' FORMAT CSV\n1", "INSERT INTO t SETTINGS a = 'VALUES' ", "CSV", b"1"),
    (b"INSERT INTO `a``b` FORMAT CSV\n1", "INSERT INTO `a``b` ", "CSV", b"1"),
    (b"INSERT INTO FUNCTION f('FORMAT') FORMAT CSV\n1", "INSERT INTO FUNCTION f('FORMAT') ", "CSV", b"1"),
]


@pytest.mark.parametrize(("text", "statement", "input_format", "data"), SPLITS)
def test_an_insert_is_split_from_its_data(text: bytes, statement: str, input_format: str, data: bytes) -> None:
    split = split_insert(text)
    assert split is not None
    assert (split.statement, split.input_format, text[split.data_start :]) == (statement, input_format, data)


WITHOUT_DATA = [
    b"",
    b"SELECT 1 FORMAT CSV",
    b"INSERT INTO t SELECT 1 FORMAT CSV",
    b"INSERT INTO t WITH x AS (SELECT 1) SELECT 1",
]


@pytest.mark.parametrize(
    "text", [*WITHOUT_DATA, b"INSERT", b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", b"INSERT INTO t FORMAT"]
)
def test_other_statements_have_no_data(text: bytes) -> None:
    assert split_insert(text) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(text: bytes) -> None:
    split = split_insert(b"INSERT INTO t " + text)
    assert split is None or split.data_start <= len(text) + 14


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"select 1", "SELECT"),
        (b" ((/* x */ With", "WITH"),
        (b"-- a\n# b\nDROP", "DROP"),
        (b"1 + SELECT", ""),
        (b"'a' SELECT", ""),
    ],
)
def test_first_words(text: bytes, word: str) -> None:
    assert first_word(text) == word


# -- compression ---------------------------------------------------------------------------------------------------

PACK: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "": bytes,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", PACK)
@given(parts=st.lists(st.binary(min_size=1, max_size=2_000), min_size=1, max_size=5))
def test_frames_one_after_the_other_unpack_to_all_of_them(encoding: str, parts: list[bytes]) -> None:
    body = b"".join(PACK[encoding](part) for part in parts)
    assert b"".join(unpack(encoding, body, 100_000)) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_what_is_cut_off_or_false_or_too_large_is_an_error(encoding: str) -> None:
    body = PACK[encoding](bytes(range(256)) * 100)
    for broken in (body[:-1], body[: len(body) // 2], b"\x00" + body, body + b"more"):
        with pytest.raises(UnpackError):
            list(unpack(encoding, broken, 100_000))
    with pytest.raises(UnpackError, match="more than"):
        list(unpack(encoding, body, 25_599))


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_a_bomb_is_noticed_at_its_first_pieces(encoding: str) -> None:
    pieces = unpack(encoding, PACK[encoding](bytes(50 * PIECE_BYTES)), 2 * PIECE_BYTES)
    assert len(next(pieces)) <= PIECE_BYTES
    with pytest.raises(UnpackError):
        list(pieces)


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate", None])
@given(blocks=st.lists(st.binary(max_size=500), max_size=5))
def test_a_packed_answer_unpacks_to_its_blocks(encoding: str | None, blocks: list[bytes]) -> None:
    packer = Packer(encoding)
    packed = b"".join(packer.pack(block) for block in blocks) + packer.end()
    assert b"".join(unpack(encoding or "", packed, 100_000)) == b"".join(blocks)


# -- requests ------------------------------------------------------------------------------------------------------


def test_a_password_shows_in_no_repr() -> None:
    login = read_login({"Authorization": f"Basic {b64encode(b'me:se:cret').decode()}"}, {})
    assert login == Login("me", "se:cret")
    assert "cret" not in repr(login)


def test_parameters_are_sorted_by_what_they_are() -> None:
    query = [("query", "SELECT 1"), ("param_a", "1"), ("max_threads", "2"), ("session_id", "s"), ("database", "d")]
    asked = read_asked({"Accept-Encoding": "gzip, lz4;q=1"}, [*query, ("enable_http_compression", "1")])
    assert isinstance(asked, Asked)
    assert (asked.query, asked.params, asked.settings, asked.database) == (
        "SELECT 1",
        {"a": "1"},
        {"max_threads": "2"},
        "d",
    )
    assert asked.answer_encoding == "lz4"


def test_the_format_of_a_statement() -> None:
    assert output_format("SELECT 1", {"type": "SelectWithUnionQuery", "format_ast": {"name": "CSV"}}, "TSV") == "CSV"
    assert output_format("SELECT ' FORMAT CSV'", {"type": "SelectWithUnionQuery"}, "TSV") == "TSV"
    assert output_format("DESCRIBE TABLE t FORMAT Native", None, "TSV") == "Native"


@pytest.mark.parametrize("statement", ["SET a = 1", "USE x", "BEGIN TRANSACTION", "COMMIT", "CREATE TEMPORARY TABLE t"])
def test_statements_without_effect_are_refused(statement: str) -> None:
    assert session_only(statement) is not None
    assert session_only(f"SELECT '{statement}'") is None


ENGINE_ERRORS: list[tuple[str, int, str, str]] = [
    ("Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)", 60, "Table x does not exist", "UNKNOWN_TABLE"),
    ("Streaming insert finish failed: Code: 33. DB::Exception: Cut off. (A_B) (version 1.2)", 33, "Cut off", "A_B"),
    (
        "Code: 164. DB::Exception: Code: 164. DB::Exception: No. (READONLY) (version 1). (READONLY)",
        164,
        "No",
        "READONLY",
    ),
    ("something else", 1002, "something else", ""),
]


@pytest.mark.parametrize(("text", "code", "message", "name"), ENGINE_ERRORS)
def test_engine_errors_are_read(text: str, code: int, message: str, name: str) -> None:
    assert read_engine_error(text) == QueryError(code, message, name)


def test_limits_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="more than server_memory_bytes"):
        EndpointLimits(read_memory_bytes=500_000_000)
    with pytest.raises(ValueError, match="waiting_max must be above zero"):
        EndpointLimits(waiting_max=0)


# -- the rules, on trees that no engine has sent so far ------------------------------------------------------------

NAMES = FunctionNames(frozenset({"plus", "sum"}), frozenset({"file"}), frozenset({"sum"}), ("ornull", "if"))
RULES = ReaderRules(frozenset({"requests"}), NAMES, EndpointLimits())


def select(*columns: Any, **more: Any) -> dict[str, Any]:
    query = {"type": "SelectQuery", "select": {"type": "ExpressionList", "children": list(columns)}, **more}
    return {"type": "SelectWithUnionQuery", "list_of_selects": {"type": "ExpressionList", "children": [query]}}


LITERAL = {"type": "Literal", "value": {"field_type": "UInt64", "value": 1}}
STRANGE: list[Any] = [
    {"type": "SomethingNew"},
    {"type": "Literal", "value": {}, "also": 1},
    {"no_type": 1},
    [LITERAL],
    7,
    {"type": "Function"},
    {"type": "Function", "name": "plus", "arguments": []},
    {"type": "Function", "name": "in", "arguments": {"type": "ExpressionList", "children": [LITERAL, 1]}},
    {"type": "Function", "name": "file"},
    {"type": "Function", "name": "sumFile"},
    {"type": "Identifier", "name": "file"},
    {"type": "Identifier"},
    {"type": "SetQuery", "changes": [{"name": "max_threads"}]},
    {"type": "SetQuery", "changes": [{"name": "max_threads", "value": None}]},
]


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_not_understood_is_refused(strange: Any) -> None:
    assert RULES.check_statement("", select(LITERAL), {}) is None
    refused = RULES.check_statement("", select(LITERAL, strange), {})
    assert refused is not None
    assert refused.code == ErrorCode.ACCESS_DENIED


def test_a_field_that_says_outfile_is_refused() -> None:
    assert RULES.check_statement("", {**select(LITERAL), "is_outfile_append": False}, {}) is None
    for field in ("is_outfile_append", "is_into_outfile_with_stdout"):
        assert RULES.check_statement("", {**select(LITERAL), field: True}, {}) is not None
    assert RULES.check_statement("", {**select(LITERAL), "out_file": LITERAL}, {}) is not None


def test_functions_are_sorted_by_category_and_a_doubtful_name_is_closed() -> None:
    rows = [
        ("plus", "", "Arithmetic", False),
        ("add", "plus", "", False),
        ("file", "", "Other", False),
        ("FILE2", "file", "", False),
        ("formatRow", "", "Type Conversion", False),
        ("sum", "", "Aggregate Functions", True),
        ("twin", "", "Arithmetic", False),
        ("TWIN", "", "Other", False),
        ("version", "", "Other", False),
    ]
    names = sort_functions(rows, ["If", "OrNull"])
    admitted = ["plus", "ADD", "sum", "sumIf", "sumOrNullIf", "version", "lambda"]
    refused = ["file", "file2", "formatRow", "twin", "plusIf", "sumFile", "If", "unheard_of"]
    assert [name for name in [*admitted, *refused] if names.admits(name)] == admitted


# -- lanes ---------------------------------------------------------------------------------------------------------


async def test_a_lane_bounds_who_waits() -> None:
    lane = Lane("test", 1, waiting_max=1, waiting_timeout_s=60)
    async with lane.slot():
        waiting = asyncio.create_task(lane.slot().__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(LaneBusyError):
            await lane.slot().__aenter__()
    await waiting
    impatient = Lane("test", 1, waiting_max=1, waiting_timeout_s=0.01)
    async with impatient.slot():
        with pytest.raises(LaneBusyError):
            await impatient.slot().__aenter__()


async def test_a_cancelled_caller_waits_until_its_work_has_ended() -> None:
    lane = Lane("test", 1, waiting_max=1, waiting_timeout_s=60)
    started, interrupted, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert interrupted.wait(20)
        ended.set()

    async with lane.slot():
        task = asyncio.create_task(lane.run(work, interrupt=interrupted.set))
        await asyncio.to_thread(started.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
    await lane.close()
    with pytest.raises(LaneBusyError):
        await lane.slot().__aenter__()


async def test_closing_a_lane_waits_for_its_slots() -> None:
    lane = Lane("test", 2, waiting_max=1, waiting_timeout_s=60)
    async with lane.slot():
        closing = asyncio.create_task(lane.close())
        await asyncio.sleep(0)
        assert not closing.done()
        assert await lane.run(lambda: "work") == "work"
    await closing
