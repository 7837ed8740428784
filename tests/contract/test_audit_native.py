"""What is packed for ClickHouse is what its tables then hold, whatever the values."""

from random import Random

import pytest
from contract.test_audit_writer import LINES, NOW_NS, empty_store, table
from support import audit_rows
from support.audit_store import served
from support.clickhouse_endpoint import Endpoint
from support.varied_events import varied_messages

from controlplane.audit.columns import COLUMNS, TABLES, Columns, Rows
from controlplane.audit.memory import Memory
from controlplane.audit.rows import add_rows
from controlplane.audit.told import Told

__all__ = ["served"]


async def test_every_kind_of_event_stands_in_the_table_as_the_log_tells_it(served: Endpoint) -> None:
    messages = varied_messages(Random(1), 60, NOW_NS)
    rows, expected, memory = Rows(), [], audit_rows.Memory()
    add_rows(rows, Told(), "nodes", messages, Memory())
    for message, batch in messages:
        expected += [audit_rows.as_values(row) for row in audit_rows.rows_of("nodes", message, batch, memory)]
    async with empty_store(served) as store:
        await store.insert("ringfence.events", rows.columns(), "all")
        assert await table(store) == expected


@pytest.mark.parametrize("different", [1, 255, 256, 257, 65_536, 65_537])
async def test_however_many_values_a_column_has(served: Endpoint, different: int) -> None:
    agents = [f"agent-{n}" for n in range(different)]
    columns: Columns = {"seq": list(range(different)), "stored_at": [NOW_NS] * different, "agent": agents}
    async with empty_store(served) as store:
        await store.insert("ringfence.events", columns, "all")
        assert await store.query("SELECT agent FROM ringfence.events ORDER BY seq") == [(name,) for name in agents]


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 1_000_000])
async def test_however_long_a_text_is(served: Endpoint, length: int) -> None:
    async with empty_store(served) as store:
        columns: Columns = {"seq": [1, 2], "stored_at": [NOW_NS] * 2, "data": ["ä" * length, "b"]}
        await store.insert("ringfence.events", columns, "all")
        sql = "SELECT lengthUTF8(data), data = repeat('ä', {n:UInt64}) OR data = 'b' FROM ringfence.events ORDER BY seq"
        assert await store.query(sql, {"n": length}) == [(length, 1), (1, 1)]


async def test_columns_are_told_with_the_types_of_the_tables(served: Endpoint) -> None:
    async with empty_store(served) as store:
        for name, types in TABLES.items():
            found = {row[0]: row[1] for row in await store.query(f"DESCRIBE TABLE {name}")}
            assert {column: found.get(column) for column in types} == types
            if name == "ringfence.events":
                assert list(found) == list(COLUMNS) == LINES.split(", ")
