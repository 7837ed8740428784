"""The embedded ClickHouse through both real clients, and through plain HTTP."""

import asyncio
import gzip
import json
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]  # ships no types
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from support.clickhouse_endpoint import COLUMNS, READER, WRITER, Endpoint, create_schema, endpoint, launch

AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
LATE_FAILURE = "SELECT throwIf(number = 900000) FROM numbers(1000000)"


EVERYTHING = "SELECT seq, agent, at, usd, note, tags FROM ringfence.events ORDER BY seq"


def rows(first: int, count: int) -> list[list[Any]]:
    return [
        [n, f"agent-{n % 3}", AT, Decimal("0.000000001") * n, None if n % 2 else "a\n'\t\\ü", {"k": str(n)}]
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(tmp_path_factory.mktemp("clickhouse") / "data") as running:
        client = running.client()
        create_schema(client)
        client.close()
        yield running


@pytest.fixture
def writer(served: Endpoint) -> Iterator[Any]:
    client = served.client()
    client.command("TRUNCATE TABLE ringfence.events")
    yield client
    client.close()


@asynccontextmanager
async def async_client(served: Endpoint, **options: Any) -> AsyncIterator[AsyncClient]:
    client = await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=served.port, username=WRITER[0], password=WRITER[1], **options
    )
    try:
        yield client
    finally:
        await client.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def basic(login: tuple[str, str]) -> str:
    return f"Basic {b64encode(':'.join(login).encode()).decode()}"


async def http(
    served: Endpoint, method: str = "POST", *, login: tuple[str, str] | None = WRITER, **request: Any
) -> tuple[int, dict[str, str], bytes]:
    request["headers"] = {**({"Authorization": basic(login)} if login else {}), **request.get("headers", {})}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, f"http://127.0.0.1:{served.port}{request.pop('path', '/')}", **request) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


# -- the clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
def test_rows_come_back_as_they_went_in_with_the_sync_client(served: Endpoint, writer: Any, compression: Any) -> None:
    client = served.client(compress=compression)
    summary = client.insert("ringfence.events", rows(0, 5000), column_names=COLUMNS)
    back = client.query(EVERYTHING, tz_mode="aware")
    assert summary.written_rows == 5000
    assert [list(row) for row in back.result_rows] == rows(0, 5000)
    assert int(back.summary["read_rows"]) == 5000
    client.close()


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
async def test_rows_come_back_as_they_went_in_with_the_async_client(
    served: Endpoint, writer: Any, compression: Any
) -> None:
    async with async_client(served, compress=compression) as client:
        await client.insert("ringfence.events", rows(0, 5000), column_names=COLUMNS)
        back = await client.query(EVERYTHING, tz_mode="aware")
    assert [list(row) for row in back.result_rows] == rows(0, 5000)


def test_a_block_sent_twice_under_its_token_is_stored_once(writer: Any) -> None:
    for token, count in (("a", 10), ("a", 10), ("b", 20), ("a", 20)):
        writer.insert(
            "ringfence.events", rows(0, 10), column_names=COLUMNS, settings={"insert_deduplication_token": token}
        )
        assert writer.command("SELECT count() FROM ringfence.events") == count


def test_parameters_of_every_kind_reach_the_engine(writer: Any) -> None:
    text = "it's\ta \\ line\nand {another:String} ü \x00"
    sql = "SELECT {t:String} AS t, {a:Array(String)} AS a, {n:Nullable(String)} AS n, {i:Int64} AS i, {d:DateTime64(3)} AS d"
    row = writer.query(sql, parameters={"t": text, "a": ["x", "y'"], "n": None, "i": -5, "d": AT}).first_row
    assert row[:4] == (text, ["x", "y'"], None, -5)
    assert writer.query("SELECT count() FROM {t:Identifier}", parameters={"t": "one"}, settings={"database": "system"})


def test_a_parameter_too_long_for_a_url_comes_as_a_form(writer: Any) -> None:
    long = "x" * 50_000
    assert writer.query("SELECT length({t:String})", parameters={"t": long}).first_row == (50_000,)


def test_every_output_that_the_clients_offer(writer: Any) -> None:
    pytest.importorskip("pyarrow")
    writer.insert("ringfence.events", rows(0, 100), column_names=COLUMNS)
    table = writer.query_arrow("SELECT seq, agent FROM ringfence.events ORDER BY seq")
    assert table.num_rows == 100
    assert writer.query_df("SELECT seq FROM ringfence.events").shape == (100, 1)
    assert sum(batch.num_rows for batch in writer.query_arrow_stream("SELECT seq FROM ringfence.events").gen) == 100
    assert writer.raw_query("SELECT seq FROM ringfence.events", fmt="Parquet").startswith(b"PAR1")
    lines = writer.raw_query("SELECT seq, usd FROM ringfence.events ORDER BY seq LIMIT 2", fmt="JSONEachRow")
    assert [json.loads(line)["seq"] for line in lines.splitlines()] == [0, 1]
    assert writer.raw_query("SELECT 1 AS a, 'x' AS b", fmt="CSVWithNames") == b'"a","b"\n1,"x"\n'
    assert json.loads(writer.raw_query("SELECT 1 AS a", fmt="JSON"))["data"] == [{"a": 1}]


def test_empty_results_and_results_without_rows_to_fetch(writer: Any) -> None:
    assert writer.query("SELECT seq FROM ringfence.events").result_rows == []
    assert writer.query("SELECT seq, agent FROM ringfence.events LIMIT 0").column_names == ("seq", "agent")


def test_a_long_result_is_streamed(writer: Any) -> None:
    with writer.query_row_block_stream("SELECT number, toString(number) FROM numbers(2000000)") as blocks:
        assert sum(len(block) for block in blocks) == 2_000_000


async def test_many_requests_at_once(served: Endpoint, writer: Any) -> None:
    async with async_client(served) as client:
        answers = await asyncio.gather(*(client.query(f"SELECT {n}, sleep(0.01)") for n in range(40)))
    assert sorted(answer.result_rows[0][0] for answer in answers) == list(range(40))


# -- errors --------------------------------------------------------------------------------------------------------

ERRORS = [
    ("SELECT nosuch", 47, 400),
    ("SELEC 1 1", 62, 400),
    ("SELECT 1; SELECT 2", 62, 400),
    ("SELECT * FROM ringfence.nosuch", 60, 404),
    ("SELECT * FROM nosuch.nosuch", 81, 404),
    ("SELECT nosuch(1)", 46, 404),
    ("SELECT {x:String}", 456, 400),
    ("SELECT throwIf(1)", 395, 500),
    ("INSERT INTO ringfence.nosuch FORMAT CSV 1", 60, 404),
    ("INSERT INTO ringfence.events (seq) FORMAT CSV x", 117, 400),
    ("SET max_threads = 1", 48, 501),
    ("USE system", 48, 501),
    ("CREATE TEMPORARY TABLE t (a Int32)", 48, 501),
    ("SELECT groupArray(number) FROM numbers(100000000)", 241, 500),
]


@pytest.mark.parametrize(("sql", "code", "status"), ERRORS)
async def test_errors_have_clickhouses_code_and_status(served: Endpoint, sql: str, code: int, status: int) -> None:
    got, headers, body = await http(served, data=sql)
    assert (got, int(headers["X-ClickHouse-Exception-Code"])) == (status, code), body
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert b"formatQuerySingleLine" not in body


async def test_the_clients_raise_the_code(served: Endpoint, writer: Any) -> None:
    with pytest.raises(DatabaseError) as raised:
        writer.query("SELECT nosuch")
    assert (raised.value.code, raised.value.name) == (47, "UNKNOWN_IDENTIFIER")
    async with async_client(served) as client:
        with pytest.raises(DatabaseError) as raised:
            await client.query("SELECT nosuch")
    assert raised.value.code == 47


@pytest.mark.parametrize("compression", ["lz4", False])
async def test_an_error_in_the_middle_of_a_result_is_raised_and_never_a_short_result(
    served: Endpoint, compression: Any
) -> None:
    with (
        served.client(compress=compression) as client,
        pytest.raises(StreamFailureError) as raised,
        client.query_row_block_stream(LATE_FAILURE) as blocks,
    ):
        for _ in blocks:
            pass
    assert raised.value.code == 395
    async with async_client(served, compress=compression) as async_one:
        with pytest.raises(StreamFailureError) as raised:
            await drain(async_one, LATE_FAILURE)
    assert raised.value.code == 395


async def drain(client: AsyncClient, sql: str) -> None:
    async with await client.query_row_block_stream(sql) as stream:
        async for _ in stream:
            pass


async def test_a_client_that_does_not_know_the_tag_sees_a_broken_transfer(served: Endpoint) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await http(served, data=LATE_FAILURE)


async def test_a_client_that_waits_for_the_end_gets_a_late_error_as_an_error(served: Endpoint) -> None:
    status, headers, _ = await http(served, data=LATE_FAILURE, params={"wait_end_of_query": "1"})
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "395")


# -- the interface -------------------------------------------------------------------------------------------------


async def test_ping_needs_no_login(served: Endpoint) -> None:
    for path in ("/ping", "/replicas_status", "/"):
        status, _, body = await http(served, "GET", path=path, login=None)
        assert (status, body) == (200, b"Ok.\n")
    assert (await http(served, "GET", path="/play", login=None))[0] == 404
    assert (await http(served, "DELETE", params={"query": "SELECT 1"}))[0] == 404


LOGINS: list[tuple[dict[str, Any], int]] = [
    ({}, 200),
    ({"login": None, "headers": {"X-ClickHouse-User": WRITER[0], "X-ClickHouse-Key": WRITER[1]}}, 200),
    ({"login": None, "params": {"user": WRITER[0], "password": WRITER[1]}}, 200),
    ({"login": None}, 403),
    ({"login": (WRITER[0], "wrong")}, 403),
    ({"login": ("nobody", WRITER[1])}, 403),
    ({"login": None, "headers": {"Authorization": "Bearer x"}}, 403),
    ({"login": None, "headers": {"Authorization": "Basic !!"}}, 403),
    ({"params": {"user": READER[0], "password": READER[1]}}, 403),
    ({"login": None, "params": {"user": WRITER[0], "password": READER[1]}}, 403),
]


@pytest.mark.parametrize(("signed", "status"), LOGINS)
async def test_logins(served: Endpoint, signed: dict[str, Any], status: int) -> None:
    got, headers, body = await http(served, data="SELECT 1", **signed)
    assert got == status
    if status == 403:
        assert headers["X-ClickHouse-Exception-Code"] == "516"
        assert WRITER[1].encode() not in body


async def test_a_login_that_is_no_text_is_refused_like_any_other(served: Endpoint) -> None:
    reader, sender = await asyncio.open_connection("127.0.0.1", served.port)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: writer\r\nX-ClickHouse-Key: \xff\xfe\r\nContent-Length: 0\r\n\r\n"
    sender.write(head)
    assert b" 403 " in await reader.readline()
    sender.close()
    await sender.wait_closed()


async def test_get_reads_and_writes_nothing(served: Endpoint, writer: Any) -> None:
    status, headers, body = await http(
        served, "GET", params={"query": "SELECT 1 AS a", "default_format": "JSONEachRow"}
    )
    assert (status, body, headers["X-ClickHouse-Format"]) == (200, b'{"a":1}\n', "JSONEachRow")
    for sql in ("DROP TABLE ringfence.events", "INSERT INTO ringfence.events (seq) VALUES (1)"):
        status, headers, _ = await http(served, "GET", params={"query": sql})
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "164")
    assert writer.command("SELECT count() FROM ringfence.events") == 0


INSERTS: list[tuple[str, bytes]] = [
    ("INSERT INTO ringfence.events (seq, agent) FORMAT CSV", b'1,"a\nb"\n2,c\n'),
    ("INSERT INTO ringfence.events (seq, agent) VALUES", b"(1, 'a;b'), (2, 'c')"),
    ("", b"INSERT INTO ringfence.events (seq, agent) VALUES (1, 'FORMAT'), (2, 'x')"),
    ("", b'/* FORMAT x */ INSERT INTO ringfence.events (seq, agent) FORMAT JSONEachRow\n{"seq":1}\n{"seq":2}\n'),
    ("", b"insert into ringfence.events (seq, agent) settings max_threads=1 format TSV\r\n1\ta\n2\tb\n"),
    ("", b"INSERT INTO ringfence.events (seq, agent) SELECT number, 'x' FROM numbers(2)"),
    ("INSERT INTO `ringfence`.`events` (`seq`, `agent`) FORMAT TSV", b"1\tSELECT\n2\tb"),
]


@pytest.mark.parametrize(("query", "body"), INSERTS)
async def test_statement_and_data_may_share_the_body_or_not(
    served: Endpoint, writer: Any, query: str, body: bytes
) -> None:
    status, headers, text = await http(served, data=body, params={"query": query} if query else {})
    assert status == 200, text
    assert json.loads(headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert writer.command("SELECT count() FROM ringfence.events WHERE seq < 3") == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4"])
async def test_answers_are_packed_when_asked(served: Endpoint, encoding: str) -> None:
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, "lz4": lz4.frame.decompress}[encoding]
    for sql in ("SELECT number FROM numbers(200000)", "SELECT number FROM numbers(200000) FORMAT JSONCompact"):
        asked: dict[str, Any] = {"headers": {"Accept-Encoding": encoding}, "params": {"enable_http_compression": "1"}}
        _, headers, packed = await http(served, data=sql, **asked)
        _, _, plain = await http(served, data=sql, headers={"Accept-Encoding": encoding})
        assert headers["Content-Encoding"] == encoding
        assert unpack(packed).split(b'"statistics"')[0] == plain.split(b'"statistics"')[0]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"headers": {"Content-Encoding": "lz4"}, "data": b"not lz4"}, "271"),
    ({"headers": {"Content-Encoding": "gzip"}, "data": gzip.compress(b"SELECT 1")[:-4]}, "271"),
    ({"headers": {"Content-Encoding": "snappy"}, "data": b"x"}, "48"),
    ({"data": b"SELECT '\xff'"}, "62"),
    ({"data": b"SELECT 1", "params": {"compress": "1"}}, "48"),
    ({"data": b"SELECT 1", "params": {"role": "owner"}}, "48"),
    ({"data": b"SELECT 1", "params": {"query_id": "a b"}}, "36"),
    ({"data": b"SELECT 1", "params": {"nosuchsetting": "1"}}, "115"),
    ({"data": b"SELECT 1", "params": {"max_threads": "many"}}, "27"),
    ({"data": b"SELECT 1", "params": {"a'b": "1"}}, "36"),
    ({"data": b"SELECT '" + b"x" * 300_000 + b"'"}, "307"),
    ({"headers": {"Content-Encoding": "gzip"}, "data": gzip.compress(b"SELECT '" + b"x" * 50_000_000)}, "307"),
]


@pytest.mark.parametrize(("request_", "code"), BROKEN)
async def test_what_is_not_understood_is_refused(served: Endpoint, request_: dict[str, Any], code: str) -> None:
    status, headers, body = await http(served, **request_)
    assert (status >= 400, headers["X-ClickHouse-Exception-Code"]) == (True, code), body


async def test_a_broken_insert_stores_nothing(served: Endpoint, writer: Any) -> None:
    block = writer.raw_query("SELECT number AS seq, 'x' AS agent FROM numbers(1000)", fmt="Native")
    statement = {"query": "INSERT INTO ringfence.events (seq, agent) FORMAT Native"}
    for data, headers in (
        (block[:-10], {}),
        (lz4.frame.compress(block)[:-10], {"Content-Encoding": "lz4"}),
        (b"garbage" * 100, {}),
    ):
        assert (await http(served, data=data, params=statement, headers=headers))[0] >= 400
    _, sender = await asyncio.open_connection("127.0.0.1", served.port)
    head = f"POST /?query=INSERT+INTO+ringfence.events+(seq)+FORMAT+TSV HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(WRITER)}\r\n"
    sender.write(f"{head}Content-Length: 100\r\n\r\n1\n2\n".encode())
    await sender.drain()
    sender.close()
    await sender.wait_closed()
    assert (await http(served, data=block, params=statement))[0] == 200
    assert writer.command("SELECT count() FROM ringfence.events") == 1000


async def test_several_packed_frames_are_one_body(served: Endpoint, writer: Any) -> None:
    data = lz4.frame.compress(b"INSERT INTO ringfence.events (seq) FORMAT TSV\n1\n") + lz4.frame.compress(b"2\n3\n")
    assert (await http(served, data=data, headers={"Content-Encoding": "lz4"}))[0] == 200
    assert writer.command("SELECT sum(seq) FROM ringfence.events") == 6


# -- bounds --------------------------------------------------------------------------------------------------------


def running(client: Any, part: str) -> int:
    sql = "SELECT count() FROM system.processes WHERE query LIKE {p:String} AND query NOT LIKE '%processes%'"
    return int(client.query(sql, parameters={"p": f"%{part}%"}).first_row[0])


FOREVER = "SELECT sum(sipHash64(number, {tag})) FROM numbers(1000000000000)"


async def test_the_query_of_a_client_that_goes_away_is_ended(served: Endpoint, writer: Any) -> None:
    task = asyncio.create_task(http(served, data=FOREVER.replace("{tag}", "41")))
    await asyncio.to_thread(until, lambda: running(writer, "number, 41") == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(until, lambda: running(writer, "number, 41") == 0)


async def test_readers_who_take_every_thread_neither_stop_the_writer_nor_queue_without_bound(tmp_path: Path) -> None:
    with endpoint(tmp_path / "data", waiting_max=1, waiting_timeout_s=60, read_timeout_s=60) as served:
        client = served.client()
        create_schema(client)
        asked = [asyncio.create_task(http(served, data=FOREVER.replace("{tag}", "42"), login=READER)) for _ in range(4)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()[0] for task in done] == [503]
        assert next(iter(done)).result()[1]["X-ClickHouse-Exception-Code"] == "202"
        await asyncio.to_thread(until, lambda: running(client, "number, 42") == 2)
        for n in range(5):
            await asyncio.to_thread(client.insert, "ringfence.events", rows(n, 100), COLUMNS)
        assert running(client, "number, 42") == 2
        assert client.command("SELECT count() FROM ringfence.events") == 500
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.to_thread(until, lambda: running(client, "number, 42") == 0)
        client.close()
        assert served.stop() == 0


async def test_a_query_is_ended_at_its_time_and_a_result_at_its_size(tmp_path: Path) -> None:
    with endpoint(tmp_path / "data", read_timeout_s=0.5, buffered_result_max_bytes=1_000_000) as served:
        status, headers, _ = await http(served, data=FOREVER.replace("{tag}", "43"))
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (408, "159")
        status, headers, _ = await http(served, data="SELECT number FROM numbers(1000000) FORMAT JSON")
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "396")


def test_memory_after_200_000_rows_and_a_large_group_by_stays_under_the_limit(served: Endpoint, writer: Any) -> None:
    for n in range(20):
        writer.command(
            "INSERT INTO ringfence.events (seq, agent, at, usd, note) SELECT number + {n:UInt64}, toString(number % 50), "
            "now64(9), number / 7, repeat('x', 300) FROM numbers(10000)",
            parameters={"n": n * 10_000},
        )
    assert writer.command("SELECT count() FROM ringfence.events") == 200_000
    assert writer.query("SELECT seq, count() FROM ringfence.events GROUP BY seq").row_count == 200_000
    assert served.resident_bytes() < 1_000_000_000


# -- the process ---------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_a_directory_that_opens_again_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "data"
    token = {"insert_deduplication_token": "block-1"}
    with endpoint(path) as first:
        client = first.client()
        create_schema(client)
        client.insert("ringfence.events", rows(0, 1000), column_names=COLUMNS, settings=token)

        process, said = launch(path)
        process.wait(timeout=30)
        assert said["kind"] == "DataDirectoryInUseError"
        assert f"process {first.process.pid}" in said["error"]

        client.insert("ringfence.events", rows(1000, 1000), column_names=COLUMNS)
        client.close()
        first.kill()
    with endpoint(path) as second:
        client = second.client()
        assert client.command("SELECT count() FROM ringfence.events") == 2000
        client.insert("ringfence.events", rows(0, 1000), column_names=COLUMNS, settings=token)
        assert client.command("SELECT count() FROM ringfence.events") == 2000
        reader = second.client(READER)
        assert reader.command("SELECT count() FROM ringfence.requests") == 2000
        reader.close()
        client.close()
        assert second.stop() == 0


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_importing_loads_no_chdb_and_without_it_the_error_names_the_extra(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys
from controlplane.audit.embedded import EmbeddedClickHouse
from controlplane.audit.endpoint_limits import EndpointLimits
assert "chdb" not in sys.modules and "pandas" not in sys.modules
sys.modules["chdb"] = None
served = EmbeddedClickHouse(pathlib.Path(sys.argv[1]), lambda user, password: None, limits=EndpointLimits())
try:
    asyncio.run(served.start("127.0.0.1", 0))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = run_python(code, str(tmp_path / "data"))
    assert said.startswith("EngineUnavailableError")
    assert "pip install 'ringfence[embedded]'" in said


def test_a_process_opens_one_directory_and_the_next_after_it_has_closed_the_first(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.engine import Engine, EngineUnavailableError
first, second = (pathlib.Path(path) for path in sys.argv[1:])
engine = Engine.open(first, EndpointLimits(), ("requests",))
try:
    Engine.open(second, EndpointLimits(), ("requests",))
except EngineUnavailableError as error:
    print(error)
engine.close()
engine.close()
Engine.open(second, EndpointLimits(), ("requests",)).close()
print("opened")
"""
    said = run_python(code, str(tmp_path / "a"), str(tmp_path / "b"))
    assert "a process can open one ClickHouse directory only" in said
    assert said.endswith("opened\n")


def test_a_process_that_is_told_to_stop_finishes_its_insert(tmp_path: Path) -> None:
    path, statement = (
        tmp_path / "data",
        "INSERT INTO ringfence.events (seq, note) SELECT number, repeat('x', 100) FROM numbers(300000)",
    )
    with endpoint(path) as first:
        client = first.client()
        create_schema(client)
        with ThreadPoolExecutor(1) as pool:
            inserted = pool.submit(client.command, statement)
            watcher = first.client()
            until(lambda: running(watcher, "INSERT INTO") == 1 or inserted.done())
            watcher.close()
            assert first.stop() == 0
            inserted.result()
        client.close()
    with endpoint(path) as second:
        client = second.client()
        assert client.command("SELECT count() FROM ringfence.events") == 300_000
        client.close()
