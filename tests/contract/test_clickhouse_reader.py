"""What a reader can and cannot do at the embedded ClickHouse: the walls, attacked one by one and together."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from support.clickhouse_endpoint import COLUMNS, READER, SCHEMA, WRITER, Endpoint, create_schema, endpoint

#: Where the statements below would write, if they could.
OUTFILE = Path("/tmp/ringfence-reader-outfile")  # noqa: S108 -- nobody ever creates it

ROWS: list[list[Any]] = [
    [n, f"agent-{n % 2}", datetime(2026, 1, 1 + n, tzinfo=UTC), Decimal(n), None, {}] for n in range(4)
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(tmp_path_factory.mktemp("reader") / "data") as running:
        client = running.client()
        create_schema(client)
        client.insert("ringfence.events", ROWS, column_names=COLUMNS)
        client.close()
        yield running


@pytest.fixture(scope="module")
def reader(served: Endpoint) -> Iterator[Any]:
    client = served.client(READER)
    yield client
    client.close()


ALLOWED: list[tuple[str, Any]] = [
    ("SELECT count() FROM ringfence.requests", [(4,)]),
    ("select COUNT(*) from requests -- with a comment", [(4,)]),
    ("/* x */ SELECT sum(spent) FROM spend_daily WHERE agent = 'agent-1'", [(Decimal(4),)]),
    (
        "SELECT agent, count() AS n FROM `ringfence`.`requests` GROUP BY agent ORDER BY agent",
        [("agent-0", 2), ("agent-1", 2)],
    ),
    ("WITH x AS (SELECT seq FROM requests WHERE seq > 1) SELECT count() FROM x", [(2,)]),
    ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT sum(n) FROM r", [(6,)]),
    ("SELECT a.seq FROM requests AS a JOIN requests AS b ON a.seq = b.seq + 2 ORDER BY a.seq", [(2,), (3,)]),
    ("SELECT count() FROM requests WHERE seq IN (SELECT seq FROM ringfence.requests WHERE seq < 2)", [(2,)]),
    (
        "SELECT (SELECT max(seq) FROM requests), quantile(0.5)(seq), sumIf(usd, agent = 'agent-1') FROM requests",
        [(3, 1.5, Decimal(4))],
    ),
    ("SELECT row_number() OVER (PARTITION BY agent ORDER BY seq DESC) AS n FROM requests QUALIFY n = 1", [(1,), (1,)]),
    ("SELECT * EXCEPT (at, usd, note) REPLACE (seq * 2 AS seq) FROM requests ORDER BY seq LIMIT 1", [(0, "agent-0")]),
    (
        "SELECT arrayMap(x -> x + 1, [1, 2]), CASE WHEN 1 THEN 'a' ELSE 'b' END, toStartOfHour(at) = at FROM requests LIMIT 1",
        [([2, 3], "a", 1)],
    ),
    ("SELECT 1 UNION ALL SELECT 1", [(1,), (1,)]),
    ("SELECT seq FROM requests ORDER BY seq LIMIT 1 BY agent", [(0,), (1,)]),
    (
        "SELECT 'SELECT * FROM ringfence.events; DROP TABLE ringfence.events'",
        [("SELECT * FROM ringfence.events; DROP TABLE ringfence.events",)],
    ),
    ("SELECT count() FROM requests SETTINGS max_threads = 1, join_use_nulls = 1", [(4,)]),
    ("SHOW TABLES", [("requests",), ("spend_daily",)]),
    ("SHOW TABLES FROM ringfence LIKE 'req%'", [("requests",)]),
    ("SHOW DATABASES", [("ringfence",)]),
    ("SELECT name FROM system.tables WHERE database = 'ringfence' ORDER BY name", [("requests",), ("spend_daily",)]),
    ("SELECT name FROM system.columns WHERE database = 'ringfence' AND name = 'secret'", []),
    ("SELECT name FROM system.databases", [("ringfence",)]),
    ("EXISTS TABLE ringfence.requests", [(1,)]),
    ("SELECT currentUser(), timezone(), version() != ''", [("default", "UTC", 1)]),
    ("SELECT 1 IN (1, 2), 1 IN [3]", [(1, 0)]),
]


@pytest.mark.parametrize(("sql", "expected"), ALLOWED)
def test_a_reader_may(reader: Any, sql: str, expected: Any) -> None:
    assert reader.query(sql).result_rows == expected


def test_a_reader_may_describe_and_parameterise(reader: Any) -> None:
    described = reader.query("DESCRIBE TABLE ringfence.requests").result_rows
    assert [row[0] for row in described] == ["seq", "agent", "at", "usd", "note"]
    sql = "SELECT count() FROM {db:Identifier}.{t:Identifier} WHERE {c:Identifier} = {a:String}"
    given = {"db": "ringfence", "t": "requests", "c": "agent", "a": "agent-1"}
    assert reader.query(sql, parameters=given).result_rows == [(2,)]
    assert reader.query("SELECT 1", settings={"max_threads": 2, "join_use_nulls": 1}).result_rows == [(1,)]
    assert reader.query_arrow("SELECT seq FROM requests").num_rows == 4
    assert reader.raw_query("SELECT seq FROM requests", fmt="Parquet").startswith(b"PAR1")


async def test_a_reader_may_use_the_async_client(served: Endpoint) -> None:
    client = await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=served.port, username=READER[0], password=READER[1]
    )
    assert (await client.query("SELECT count() FROM requests")).result_rows == [(4,)]
    await client.close()


FORBIDDEN = [
    # the table itself, and views that are not for readers, however they are named
    "SELECT * FROM ringfence.events",
    "SELECT * FROM events",
    "select * from RINGFENCE.EVENTS",
    'SELECT * FROM "ringfence"."events"',
    "SELECT * FROM `ringfence`.`events`",
    "SELECT * FROM `ringfence.events`",
    "SELECT * FROM ringfence/**/./**/events",
    "SELECT * FROM ringfence.internal",
    "SELECT * FROM requests, ringfence.events",
    "SELECT * FROM requests UNION ALL SELECT seq, agent, at, usd, note FROM ringfence.events",
    "SELECT (SELECT count() FROM ringfence.events)",
    "SELECT 1 FROM requests WHERE seq IN (SELECT seq FROM ringfence.events)",
    "SELECT 1 FROM requests WHERE seq IN ringfence.events",
    "SELECT 1 FROM requests WHERE seq IN events",
    "SELECT 1 FROM requests WHERE seq GLOBAL NOT IN events",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM ringfence.events))",
    "WITH x AS (SELECT * FROM ringfence.events) SELECT * FROM x",
    "WITH events AS (SELECT 1 AS n) SELECT * FROM events AS e, (SELECT count() FROM ringfence.events) AS f",
    "SELECT * FROM events WHERE 1 IN (WITH events AS (SELECT 1 AS n) SELECT n FROM events)",
    "SELECT exists(SELECT 1 FROM ringfence.events)",
    "SELECT joinGet('ringfence.events', 'secret', 1)",
    "SELECT dictGet('ringfence.d', 'x', 1)",
    "DESCRIBE TABLE ringfence.events",
    "DESCRIBE TABLE (SELECT * FROM ringfence.events)",
    "DESCRIBE TABLE file('/etc/passwd')",
    "SHOW CREATE TABLE ringfence.events",
    "EXPLAIN SELECT * FROM requests",
    "SELECT * FROM (EXPLAIN SELECT * FROM requests)",
    # what is not ours
    "SELECT * FROM system.processes",
    "SELECT * FROM SYSTEM.processes",
    "SELECT * FROM system.`processes`",
    "SELECT 1 IN system.processes",
    "SELECT * FROM system.users",
    "SELECT * FROM system.parts",
    "SELECT * FROM system.server_settings",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.TABLES",
    "SELECT * FROM default.`/etc/passwd`",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "SHOW USERS",
    "SHOW CLUSTERS",
    # files, networks, programs, other processes' memory
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM FILE('/etc/passwd')",
    "SELECT * FROM `file`('/etc/passwd')",
    "SELECT * FROM file/* */('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key')",
    "SELECT * FROM remote('127.0.0.1', 'ringfence.events')",
    "SELECT * FROM remoteSecure('127.0.0.1', 'ringfence', 'events')",
    "SELECT * FROM cluster('default', 'ringfence.events')",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
    "SELECT * FROM python(Engine)",
    "SELECT * FROM Python('secrets')",
    "SELECT * FROM sqlite('/tmp/x', 't')",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM merge('ringfence', '.*')",
    "SELECT * FROM view(SELECT * FROM ringfence.events)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM loop(ringfence.events)",
    "SELECT * FROM mergeTreeIndex('ringfence', 'events')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM numbers((SELECT count() FROM ringfence.events))",
    "SELECT * FROM numbers(length(file('/etc/passwd')))",
    # functions, called or only named
    "SELECT file('/etc/passwd')",
    "SELECT FILE('/etc/passwd')",
    "SELECT \"file\"('/etc/passwd')",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT arrayMap(File, ['/etc/passwd'])",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "SELECT arrayFilter(hasThreadFuzzer, [1])",
    "WITH file AS f SELECT f",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd' AS x)",
    "SELECT * APPLY file FROM (SELECT '/etc/passwd' AS x)",
    "SELECT * APPLY(x -> file(x)) FROM (SELECT '/etc/passwd' AS x)",
    "SELECT COLUMNS('x') APPLY(file) FROM (SELECT '/etc/passwd' AS x)",
    "SELECT * REPLACE (file(x) AS x) FROM (SELECT '/etc/passwd' AS x)",
    "SELECT 1 FROM requests ORDER BY file('/etc/passwd')",
    "SELECT 1 FROM requests GROUP BY file('/etc/passwd')",
    "SELECT 1 FROM requests LIMIT length(file('/etc/passwd'))",
    "SELECT 1 FROM requests HAVING file('/etc/passwd') != ''",
    "SELECT sum(1) OVER (ORDER BY file('/etc/passwd')) FROM requests",
    "SELECT 1 FROM requests ARRAY JOIN [file('/etc/passwd')] AS x",
    "SELECT 1 FROM requests AS a JOIN requests AS b ON file('/etc/passwd') = ''",
    "SELECT quantile(length(file('/etc/passwd')))(seq) FROM requests",
    "SELECT seq FROM requests ORDER BY seq WITH FILL INTERPOLATE (seq AS length(file('/etc/passwd')))",
    "SHOW TABLES WHERE file('/etc/passwd') != ''",
    "SELECT getSetting('log_comment')",
    "SELECT getServerSetting('max_server_memory_usage')",
    "SELECT hasColumnInTable('127.0.0.1', 'u', 'p', 'd', 't', 'c')",
    "SELECT sleep(1)",
    "SELECT hostName(), serverUUID()",
    "SELECT addressToSymbol(1)",
    "SELECT catboostEvaluate('/x', 1)",
    "SELECT formatRow('Template', 1)",
    "SELECT aiGenerate('c', 'p')",
    "SELECT nosuchfunction(1)",
    # results to files and in formats that read files
    "SELECT 1 INTO OUTFILE '/tmp/ringfence-reader-outfile'",
    "SELECT 1 INTO OUTFILE '/tmp/ringfence-reader-outfile' TRUNCATE FORMAT CSV",
    "SHOW TABLES INTO OUTFILE '/tmp/ringfence-reader-outfile'",
    "DESCRIBE TABLE ringfence.requests INTO OUTFILE '/tmp/ringfence-reader-outfile'",
    "SELECT 1 FORMAT Template",
    "SELECT 1 FORMAT Protobuf",
    "SELECT 1 FORMAT CapnProto",
    "SELECT 1 FORMAT SQLInsert",
    # statements that are no questions
    "INSERT INTO ringfence.events (seq) VALUES (9)",
    "INSERT INTO ringfence.events (seq) SELECT 9",
    "INSERT INTO FUNCTION file('/tmp/ringfence-reader-outfile', 'CSV') SELECT 1",
    "CREATE TABLE ringfence.t (a Int32) ENGINE = Memory",
    "CREATE TEMPORARY TABLE t AS SELECT 1",
    "CREATE VIEW ringfence.v AS SELECT * FROM ringfence.events",
    "CREATE FUNCTION f AS x -> file(x)",
    "CREATE USER u",
    "DROP TABLE ringfence.events",
    "DROP VIEW ringfence.requests",
    "TRUNCATE TABLE ringfence.events",
    "ALTER TABLE ringfence.events DELETE WHERE 1",
    "DELETE FROM ringfence.events WHERE 1",
    "UPDATE ringfence.events SET agent = '' WHERE 1",
    "OPTIMIZE TABLE ringfence.events",
    "RENAME TABLE ringfence.events TO ringfence.x",
    "ATTACH TABLE ringfence.x",
    "DETACH TABLE ringfence.events",
    "SYSTEM SHUTDOWN",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "BACKUP DATABASE ringfence TO File('/tmp/ringfence-reader-outfile')",
    "RESTORE DATABASE ringfence FROM File('/tmp/x')",
    "SET readonly = 0",
    "SET ROLE owner",
    "SET ROLE ALL",
    "SET DEFAULT ROLE owner TO default",
    "USE system",
    "GRANT ALL ON *.* TO default",
    "EXECUTE AS default SELECT 1",
    "BEGIN TRANSACTION",
    "CHECK TABLE ringfence.events",
    "SELECT 1 PARALLEL WITH DROP TABLE ringfence.events",
    # more than one statement
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE ringfence.events",
    "SELECT 1;; SET ROLE owner",
    "SELECT 1 -- \n; DROP TABLE ringfence.events",
    # settings
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS readonly = 1",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "SELECT 1 SETTINGS max_memory_usage = 100000000000",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 SETTINGS log_comment = 'x'",
    "SELECT 1 SETTINGS allow_introspection_functions = 1",
    "SELECT 1 SETTINGS dialect = 'prql'",
    "SELECT 1 SETTINGS format_template_row = '/etc/passwd'",
    "SELECT 1 SETTINGS max_threads = DEFAULT",
    "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_a_reader_may_not(served: Endpoint, reader: Any, sql: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        reader.raw_query(sql)
    # 62: more than one statement, 164 and 452: settings. All else is refused for what it asks, not for how it is spelt.
    assert raised.value.code in {62, 164, 452, 497}, str(raised.value)
    assert (raised.value.code == 62) == (";" in sql)
    assert not OUTFILE.exists()


def test_nothing_of_it_had_an_effect(served: Endpoint) -> None:
    client = served.client()
    assert client.command("SELECT count() FROM ringfence.events") == 4
    assert client.command("SELECT count() FROM system.tables WHERE database = 'ringfence'") == 4
    client.close()


PARAMETERS: list[tuple[str, dict[str, str]]] = [
    ("SELECT * FROM {t:Identifier}", {"t": "events"}),
    ("SELECT * FROM {t:Identifier}", {"t": "ringfence.events"}),
    ("SELECT * FROM {t:Identifier}", {"t": "`ringfence`.`events`"}),
    ("SELECT * FROM {t:Identifier}", {"t": "requests, ringfence.events"}),
    ("SELECT * FROM {t:Identifier}", {"t": "file('/etc/passwd')"}),
    ("SELECT * FROM ringfence.{t:Identifier}", {"t": "events"}),
    ("SELECT * FROM {d:Identifier}.{t:Identifier}", {"d": "ringfence", "t": "events"}),
    ("SELECT * FROM {d:Identifier}.{t:Identifier}", {"d": "system", "t": "processes"}),
    ("SELECT * FROM {d:Identifier}.processes", {"d": "system"}),
    ("SELECT 1 IN {t:Identifier}", {"t": "events"}),
    ("SELECT 1 IN {d:Identifier}.processes", {"d": "system"}),
    ("SELECT arrayMap({f:Identifier}, ['/etc/passwd'])", {"f": "file"}),
    ("SELECT arrayMap({f:Identifier}, ['/etc/passwd'])", {"f": "FILE"}),
    ("DESCRIBE TABLE {t:Identifier}", {"t": "events"}),
    ("SELECT 1 SETTINGS max_memory_usage = {m:UInt64}", {"m": "0"}),
    ("SELECT {x:String} FROM ringfence.events", {"x": "requests"}),
]


@pytest.mark.parametrize(("sql", "given"), PARAMETERS)
def test_a_parameter_is_no_way_around(reader: Any, sql: str, given: dict[str, str]) -> None:
    with pytest.raises(DatabaseError) as raised:
        reader.query(sql, parameters=given)
    assert raised.value.code in {452, 497}, str(raised.value)


REQUESTS: list[tuple[dict[str, str], int]] = [
    ({"readonly": "0"}, 164),
    ({"log_comment": "x"}, 164),
    ({"dialect": "prql"}, 164),
    ({"format_schema": "/etc/passwd"}, 164),
    ({"profile": "default"}, 164),
    ({"implicit_select": "0"}, 164),
    ({"max_memory_usage": "0"}, 452),
    ({"max_memory_usage": "100000000000"}, 452),
    ({"max_result_bytes": "-1"}, 452),
    ({"max_execution_time": "nan"}, 452),
    ({"max_threads": "1'; SET readonly = 0; --"}, 452),
    ({"database": "system"}, 497),
    ({"default_format": "Template"}, 497),
    ({"role": "owner"}, 48),
]


@pytest.mark.parametrize(("parameters", "code"), REQUESTS)
async def test_a_request_parameter_is_no_way_around(served: Endpoint, parameters: dict[str, str], code: int) -> None:
    login = {"X-ClickHouse-User": READER[0], "X-ClickHouse-Key": READER[1]}
    async with (
        aiohttp.ClientSession(headers=login) as session,
        session.post(f"http://127.0.0.1:{served.port}/", params=parameters, data="SELECT 1") as answer,
    ):
        assert answer.headers.get("X-ClickHouse-Exception-Code") == str(code), await answer.text()


def test_the_grants_alone_hold_without_the_rules(tmp_path: Path) -> None:
    """The first wall by itself: what reaches the engine in a reader's session without having been judged."""
    code = """
import json, pathlib, sys
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.engine import Engine
from controlplane.audit.engine_session import EngineError, SessionSpec
path, schema, statements = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
engine = Engine.open(path, EndpointLimits(), ("requests", "spend_daily"))
writer = engine.session(SessionSpec(tag="w", role=None, database=None, readonly=False))
for statement in schema:
    writer.ask(statement)
reader = engine.session(SessionSpec(tag="r", role="reader", database="ringfence", readonly=True))
codes = {}
for statement in statements:
    try:
        reader.ask(statement)
        codes[statement] = 0
    except EngineError as error:
        codes[statement] = error.error.code
print(json.dumps(codes))
"""
    denied = [
        "SELECT * FROM ringfence.events",
        "SELECT 1 IN ringfence.events",
        "SELECT * FROM ringfence.internal",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM remote('127.0.0.1', 'ringfence.events')",
        "SELECT * FROM executable('id', 'TSV', 'a String')",
        "SELECT * FROM view(SELECT * FROM ringfence.events)",
        "SELECT * FROM system.users",
        "INSERT INTO ringfence.events (seq) SELECT 1",
        "DROP TABLE ringfence.events",
        "CREATE TEMPORARY TABLE t (a Int32)",
        "SYSTEM FLUSH LOGS",
        "SET readonly = 0",
    ]
    allowed = ["SELECT * FROM ringfence.requests", "SELECT * FROM spend_daily"]
    arguments = [str(tmp_path / "data"), json.dumps(SCHEMA), json.dumps([*denied, *allowed])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    codes = json.loads(done.stdout)
    assert {sql: codes[sql] in {164, 497} for sql in denied} == dict.fromkeys(denied, True), codes
    assert [codes[sql] for sql in allowed] == [0, 0]


def test_the_writer_is_not_held_by_any_of_this(served: Endpoint) -> None:
    client = served.client(WRITER)
    assert client.command("SELECT count() FROM ringfence.events") == 4
    assert client.query("SELECT count() FROM system.processes").result_rows == [(1,)]
    assert "MergeTree" in str(client.command("SHOW CREATE TABLE ringfence.events"))
    client.close()
