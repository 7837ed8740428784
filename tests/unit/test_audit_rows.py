"""The audit's rows, made by column, are those that a reader of the log would write down one by one."""

from random import Random
from typing import Any

import pytest
from support import audit_rows
from support.varied_events import KINDS, varied_messages

from controlplane.audit.columns import COLUMNS, Rows
from controlplane.audit.memory import Memory, drop_oldest
from controlplane.audit.rows import add_rows
from controlplane.audit.told import Told
from events.codec import Batch
from events.log.port import Stored
from events.types import AgentRemoved, AgentSuspended, By

AT_NS = 1_763_596_800 * 10**9


@pytest.mark.parametrize("seed", range(40))
def test_rows_by_column_are_the_rows_one_by_one(seed: int) -> None:
    dice = Random(seed)
    messages = varied_messages(dice, 40, AT_NS)
    memory, one_by_one = audit_rows.Memory(), []
    for message, batch in messages:
        one_by_one += audit_rows.rows_of("nodes", message, batch, memory)
    rows, told, known = Rows(), Told(), Memory()
    while messages:
        turn, messages = messages[: (size := dice.randrange(1, 9))], messages[size:]
        add_rows(rows, told, "nodes", turn, known)
    assert as_rows(rows) == sorted(map(values_of, one_by_one))
    assert told.steps == [
        (row["request_id"], row["seq"], _begins(row), _ends(row)) for row in one_by_one if row.get("request_id")
    ]
    assert told.fenced == [row["subject"] for row in one_by_one if row["type"] == "Fenced"]
    assert told.resolved == [row["resolves"] for row in one_by_one if row.get("resolves")]
    assert told.reconciled == any(row["type"] == "RequestReconciled" for row in one_by_one)


def test_the_events_drawn_are_of_every_kind() -> None:
    drawn = {type(event) for _, batch in varied_messages(Random(0), 40, AT_NS) for event in batch.events}
    assert drawn == set(KINDS)


def as_rows(rows: Rows) -> list[list[Any]]:
    """In the log's order, text as text."""
    found = zip(*(rows.column(name) for name in COLUMNS), strict=True)
    return sorted([value.decode() if isinstance(value, bytes) else value for value in row] for row in found)


def values_of(row: audit_rows.Row) -> list[Any]:
    return [row.get(name, "" if "String" in kind else 0) for name, kind in COLUMNS.items()]


def _begins(row: audit_rows.Row) -> bool:
    return row["type"] == "RequestRefused" or (row["type"] == "RequestAdmitted" and '"attempt":' not in row["data"])


def _ends(row: audit_rows.Row) -> bool:
    return row["type"] in {"RequestReleased", "RequestRefused"} or row.get("outcome") == "settled"


def test_a_change_of_an_agent_names_the_agent() -> None:
    by = By("op_1", "Ada")
    events = (AgentSuspended("bot", by), AgentRemoved("bot", by))
    rows = Rows()
    message = Stored(7, "rf.control", b"", AT_NS)
    add_rows(rows, Told(), "control", [(message, Batch("control", 1, AT_NS, events))], Memory())
    assert rows.column("subject") == ["agent:bot", "agent:bot"]


def test_some_rows_are_picked_with_all_their_values() -> None:
    rows = Rows()
    rows.put(2, {"seq": [1, 1], "idx": [0, 1], "agent": ["", "a"]})
    rows.put(1, {"seq": [2], "n": [9], "idx": [0]})
    assert rows.places() == [(1, 0), (1, 1), (2, 0)]
    assert rows.picked([1, 2]) == {"seq": [1, 2], "idx": [1, 0], "n": [0, 9], "agent": ["a", ""]}


def test_the_oldest_entries_are_dropped_first() -> None:
    entries = {"a": 1, "b": 2, "c": 3}
    assert drop_oldest(entries, 2) == {"a": 1}
    assert drop_oldest(entries, 2) == {}
    assert drop_oldest(entries, -1) == {"b": 2, "c": 3}
    assert not entries
