"""The audit as the control plane's API reads it: lists, single requests and reports, from the views.

Text of a caller never becomes SQL: filters travel as ClickHouse's own query parameters, and column names come from
the tables below.
"""

import base64
import binascii
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from controlplane.api.ports import (
    CHANGE_COLUMNS,
    FIGURE_COLUMNS,
    REQUEST_COLUMNS,
    AuditUnavailable,
    BadCursor,
    Filters,
    Page,
    ReportName,
    Row,
)
from controlplane.audit.store import Store, StoreUnavailable
from schemas.money import NANOS_PER_USD, format_usd

_FILTERS = {
    "agent": ("agent = {agent:String}", "agent"),
    "team": ("owner = {team:String}", "team"),
    "purpose": ("purpose = {purpose:String}", "purpose"),
    "key": ("key = {key:String}", "key"),
    "run": ("run = {run:String}", "run"),
    "user": ("user = {user:String}", "user"),
    "upstream": ("upstream = {upstream:String}", "upstream"),
    "model": ("model = {model:String}", "model"),
    "status": ("status = {status:UInt16}", "status"),
    "outcome": ("outcome = {outcome:String}", "outcome"),
    "refusal": ("refusal = {refusal:String}", "refusal"),
    "from_ns": ("at >= fromUnixTimestamp64Nano({from_ns:Int64})", "from_ns"),
    "to_ns": ("at < fromUnixTimestamp64Nano({to_ns:Int64})", "to_ns"),
}

_GROUP_COLUMNS = {
    "agent": "agent", "team": "owner", "purpose": "purpose", "cost_center": "cost_center", "key": "key", "run": "run",
    "user": "user", "feature": "feature", "upstream": "upstream", "model": "model",
    "day": "toString(toDate(at, 'UTC'))",
}  # fmt: skip

_FIGURES = (
    "countIf(outcome != 'refused') AS admitted, countIf(outcome = 'settled') AS settled, "
    "countIf(outcome = 'released') AS released, sum(refused_count) AS refused, "
    "countIf(outcome = 'unknown') AS unknown, sum(actual_usd) AS settled_usd, sum(held_usd) AS held_usd, "
    "sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens"
)

_REQUEST_SELECT = ", ".join(
    {"latency_ms": "latency_us / 1000 AS latency_ms", "overhead_ms": "overhead_us / 1000 AS overhead_ms"}.get(
        name, name
    )
    for name in REQUEST_COLUMNS
    if name != "at"
)
_DETAIL_COLUMNS = (
    "cost_center", "feature", "client", "operation", "message", "refused_count", "held_usd", "refund_usd",
    "cached_tokens", "tool_calls",
)  # fmt: skip
"""What a single request shows beyond its row in a list."""


FIRST_SPAN_NS = 86_400 * 1_000_000_000
LATER_SPAN_NS = 7 * FIRST_SPAN_NS
KEPT_NS = 91 * FIRST_SPAN_NS
"""Lists are looked for in the last day first, then week by week; beyond what is kept (a wrong clock) all at once."""

_SPAN = ("at >= fromUnixTimestamp64Nano({begin_ns:Int64})", "at < fromUnixTimestamp64Nano({end_ns:Int64})")


class ClickHouseReader:
    """Implements controlplane.api.ports.AuditReader."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def requests(self, filters: Filters, limit: int, cursor: str | None) -> Page:
        where, parameters = _where(filters)
        newest_ns = filters.to_ns
        if cursor is not None:
            at_ns, request_id = _read_cursor(cursor, 2)
            where.append("(at, request_id) < (fromUnixTimestamp64Nano({at_ns:Int64}), {after:String})")
            parameters |= {"at_ns": int(at_ns), "after": request_id}
            newest_ns = int(at_ns) + 1
        found = await self._newest(where, parameters, limit + 1, filters.from_ns, newest_ns)
        names = ("at", *(name for name in REQUEST_COLUMNS if name != "at"))
        rows = [_request_row(dict(zip(names, values, strict=True)), REQUEST_COLUMNS) for values in found[:limit]]
        more = len(found) > limit
        return Page(rows, _write_cursor(found[limit - 1][0], found[limit - 1][1]) if more else None)

    async def _newest(
        self, where: list[str], parameters: dict[str, Any], limit: int, from_ns: int | None, to_ns: int | None
    ) -> list[tuple[Any, ...]]:
        """The newest rows that match, looked for span by span: the table is kept by days, and most pages end within
        the first; all days at once, in order and with all columns, are more than a query's memory.
        """
        ends = await self._query("SELECT toUnixTimestamp64Nano(min(at)), toUnixTimestamp64Nano(max(at)) "
                                 "FROM ringfence.request_rows", {})  # fmt: skip
        oldest_ns, newest_ns = int(ends[0][0]), int(ends[0][1]) + 1
        end_ns = newest_ns if to_ns is None else min(to_ns, newest_ns)
        oldest_ns = oldest_ns if from_ns is None else max(from_ns, oldest_ns)
        sql = (
            f"SELECT toUnixTimestamp64Nano(at) AS at_ns, {_REQUEST_SELECT} FROM ringfence.requests "  # noqa: S608 - names of our own
            f"{_clause([*where, *_SPAN])} ORDER BY at DESC, request_id DESC LIMIT {{limit:UInt32}}"
        )
        found: list[tuple[Any, ...]] = []
        span_ns = FIRST_SPAN_NS
        while len(found) < limit and end_ns > oldest_ns:
            begin_ns = max(oldest_ns, end_ns - span_ns)
            span = {"begin_ns": begin_ns, "end_ns": end_ns, "limit": limit - len(found)}
            found += await self._query(sql, {**parameters, **span})
            end_ns, span_ns = begin_ns, LATER_SPAN_NS if newest_ns - begin_ns < KEPT_NS else end_ns
        return found

    async def request(self, request_id: str) -> Row | None:
        names = (*REQUEST_COLUMNS, *_DETAIL_COLUMNS)
        sql = (
            f"SELECT toUnixTimestamp64Nano(at) AS at_ns, {_REQUEST_SELECT}, {', '.join(_DETAIL_COLUMNS)} "  # noqa: S608 - as above
            "FROM ringfence.requests WHERE request_id = {request_id:String}"
        )
        found = await self._query(sql, {"request_id": request_id})
        if not found:
            return None
        order = ("at", *(name for name in names if name != "at"))
        return _request_row(dict(zip(order, found[0], strict=True)), names)

    async def report(self, name: ReportName, group_by: str, filters: Filters, limit: int, cursor: str | None) -> Page:
        if name == "changes":
            return await self._changes(filters, limit, cursor)
        where, parameters = _where(filters)
        offset = _read_offset(cursor)
        order = {"spend": "settled_usd DESC, held_usd DESC", "requests": "admitted + refused DESC"}[name]
        if group_by == "day":
            order = "group DESC"
        sql = (
            f"SELECT {_GROUP_COLUMNS[group_by]} AS group, {_FIGURES} FROM ringfence.requests {_clause(where)} "  # noqa: S608 - as above
            f"GROUP BY group ORDER BY {order}, group LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}"
        )
        found = await self._query(sql, {**parameters, "limit": limit + 1, "offset": offset})
        rows = [_cells(dict(zip((group_by, *FIGURE_COLUMNS), values, strict=True))) for values in found[:limit]]
        return Page(rows, _write_cursor(offset + limit) if len(found) > limit else None)

    async def _changes(self, filters: Filters, limit: int, cursor: str | None) -> Page:
        where, parameters = _where(Filters(from_ns=filters.from_ns, to_ns=filters.to_ns))
        if filters.agent:
            where.append("subject = concat('agent:', {agent:String})")
            parameters["agent"] = filters.agent
        if cursor is not None:
            seq, idx = _read_cursor(cursor, 2)
            where.append("(seq, idx) < ({after_seq:UInt64}, {after_idx:UInt32})")
            parameters |= {"after_seq": int(seq), "after_idx": _digits(idx)}
        names = tuple(name for name in CHANGE_COLUMNS if name != "at")
        sql = (
            f"SELECT toUnixTimestamp64Nano(at) AS at_ns, idx, {', '.join(names)} FROM ringfence.control_changes "  # noqa: S608 - as above
            f"{_clause(where)} ORDER BY seq DESC, idx DESC LIMIT {{limit:UInt32}}"
        )
        found = await self._query(sql, {**parameters, "limit": limit + 1})
        rows: list[Row] = []
        for at_ns, _, *values in found[:limit]:
            rows.append({"at": _time(at_ns), **dict(zip(names, values, strict=True))})
        last = found[limit - 1] if len(found) > limit else None
        return Page(rows, _write_cursor(last[2], last[1]) if last else None)

    async def _query(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            return await self._store.query(sql, parameters)
        except StoreUnavailable as error:
            raise AuditUnavailable(str(error)) from error


def _where(filters: Filters) -> tuple[list[str], dict[str, Any]]:
    """Conditions and their parameters for the filters that are set."""
    where, parameters = [], {}
    for name, (condition, parameter) in _FILTERS.items():
        value = getattr(filters, name)
        if value not in {"", None}:
            where.append(condition)
            parameters[parameter] = value
    return where, parameters


def _clause(where: list[str]) -> str:
    return f"WHERE {' AND '.join(where)}" if where else ""


def _request_row(row: dict[str, Any], names: tuple[str, ...]) -> Row:
    row["at"] = _time(row["at"])
    cells = _cells(row)
    return {name: cells[name] for name in names}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Decimals as money strings; everything else is JSON already."""
    return {
        name: format_usd(int(value * NANOS_PER_USD)) if isinstance(value, Decimal) else value
        for name, value in row.items()
    }


def _time(at_ns: int) -> str:
    """RFC 3339 with microseconds and `Z`."""
    seconds, rest = divmod(at_ns, NANOS_PER_USD)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _write_cursor(*place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([str(part) for part in place])).decode().rstrip("=")


def _read_cursor(cursor: str, parts: int) -> list[str]:
    """The place that a cursor names. Raises BadCursor."""
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[str])
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise BadCursor("the cursor was not made by this list") from None
    if len(place) != parts:
        raise BadCursor("the cursor was not made by this list")
    _digits(place[0])
    return place


def _digits(text: str) -> int:
    """A part of a cursor that is a number."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise BadCursor("the cursor was not made by this list")
    return int(text)


def _read_offset(cursor: str | None) -> int:
    return min(int(_read_cursor(cursor, 1)[0]), 2**31) if cursor is not None else 0
