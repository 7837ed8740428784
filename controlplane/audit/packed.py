"""Columns packed for ClickHouse ahead of their insert, while it does something else."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lz4.frame  # type: ignore[import-untyped]  # ships no types; comes with clickhouse-connect

from controlplane.audit.columns import TABLES
from controlplane.audit.native import pack_block

PLAIN_BYTES = 1 << 18
"""Larger inserts are compressed."""


class Packed(dict[str, Sequence[Any]]):
    """Columns, and what is sent for them. `compression` as in Content-Encoding; None for plain bytes."""

    body: bytes
    compression: str | None


async def pack(table: str, columns: Mapping[str, Sequence[Any]]) -> Packed:
    """Pack columns of equal length of a table of TABLES. In many turns of the loop."""
    pieces = []
    for piece in pack_block(columns, TABLES[table]):
        pieces.append(piece)
        await asyncio.sleep(0)  # a large column takes some milliseconds
    packed = Packed(columns)
    if sum(map(len, pieces)) > PLAIN_BYTES:
        packed.body, packed.compression = await asyncio.to_thread(_compressed, pieces), "lz4"
    else:
        packed.body, packed.compression = b"".join(pieces), None
    return packed


def _compressed(pieces: Iterable[bytes]) -> bytes:
    frame = lz4.frame.LZ4FrameCompressor()
    return b"".join((frame.begin(), *map(frame.compress, pieces), frame.flush()))
