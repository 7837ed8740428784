"""Reading a request's body, and telling what it holds: a statement, or an INSERT with its data."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from aiohttp import BodyPartReader, web

from controlplane.audit.endpoint_codecs import UnpackError, is_known, unpack
from controlplane.audit.endpoint_errors import ErrorCode, QueryError
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.insert_statement import InsertSplit, split_insert


@dataclass(frozen=True, slots=True)
class Body:
    """A body as it came, still packed; or the fields of a form, which clients use for long parameters."""

    packed: bytes = b""
    encoding: str = ""
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT, and its data, unpacked while it is read (`UnpackError`)."""

    split: InsertSplit
    data: Iterator[bytes]


async def read_body(request: web.Request, *, max_bytes: int, timeout_s: float) -> Body | QueryError:
    """Read a body of at most `max_bytes`. For one that is cut off it raises what aiohttp raises; nothing has run."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if not is_known(encoding):
        return QueryError(ErrorCode.NOT_IMPLEMENTED, f"Content-Encoding {encoding[:40]!r} is not supported")
    if (request.content_length or 0) > max_bytes:
        return _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            if request.content_type == "multipart/form-data":
                return await _read_form(request, max_bytes)
            packed = await _read(request.content.readany, max_bytes)
    except TimeoutError:
        return QueryError(ErrorCode.TIMEOUT_EXCEEDED, f"The request's body did not arrive within {timeout_s:g} s")
    return _too_large(max_bytes) if packed is None else Body(packed, encoding)


async def _read(read_some: Callable[[], Awaitable[bytes]], max_bytes: int) -> bytes | None:
    """Read to the end; None if there is more than `max_bytes`."""
    pieces, size = [], 0
    while piece := await read_some():
        size += len(piece)
        if size > max_bytes:
            return None
        pieces.append(piece)
    return b"".join(pieces)


async def _read_form(request: web.Request, max_bytes: int) -> Body | QueryError:
    """A form's text fields. Files are external tables, which are not offered."""
    fields, left = [], max_bytes
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None or part.filename is not None:
            return QueryError(ErrorCode.NOT_IMPLEMENTED, "External tables are not offered by the embedded ClickHouse")
        value = await _read(part.read_chunk, left)
        if value is None:
            return _too_large(max_bytes)
        left -= len(value)
        fields.append((part.name, value.decode("utf-8", "replace")))
    return Body(fields=tuple(fields))


def read_statement(query: str, body: Body, limits: EndpointLimits, *, may_insert: bool) -> Insert | str | QueryError:
    """What to run. `query` is the statement's beginning from the URL, as ClickHouse allows.

    Only as much of the body is unpacked here as a statement may be long; an INSERT's data is unpacked as it is read.
    """
    pieces = unpack(body.encoding, body.packed, limits.unpacked_max_bytes if may_insert else limits.query_max_bytes)
    try:
        first = next(pieces, b"")
        start = b"\n".join(part for part in (query.encode(), first) if part)
        split = split_insert(start) if may_insert else None
        if split is not None:
            return Insert(split, chain([start[split.data_start :]], pieces))
        text = start
        while len(text) <= limits.query_max_bytes and (piece := next(pieces, b"")):
            text += piece
    except UnpackError as error:
        return QueryError(ErrorCode.CANNOT_DECOMPRESS, str(error))
    if len(text) > limits.query_max_bytes:
        return QueryError(ErrorCode.TOO_MANY_BYTES, f"The statement is larger than {limits.query_max_bytes} bytes")
    try:
        return text.decode("utf-8").strip()
    except UnicodeDecodeError:
        return QueryError(ErrorCode.SYNTAX_ERROR, "The statement is not valid UTF-8")


def _too_large(max_bytes: int) -> QueryError:
    return QueryError(ErrorCode.TOO_MANY_BYTES, f"The request's body is larger than {max_bytes} bytes")
