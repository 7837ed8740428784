"""Lists, newest first, in pages. A cursor names the last record of its page by (sequence, id)."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Collection, Iterator
from itertools import groupby
from typing import NamedTuple, TypeVar

import msgspec

from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid

R = TypeVar("R")

SLICE = 2000
"""Records looked at before others get their turn: about two milliseconds of this thread."""


class Place(NamedTuple):
    """Where a record stands: the control log sequence that made it, and its id (one message makes several)."""

    seq: int
    id: str


_decoder = msgspec.json.Decoder(tuple[int, str])


def encode_cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(tuple(place))).decode().rstrip("=")


def decode_cursor(cursor: str) -> Place | CommandRefusal | None:
    """The place after which the page begins; None for the first page."""
    if not cursor:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return Place(*_decoder.decode(raw))
    except (binascii.Error, ValueError):  # msgspec's and Unicode errors are ValueErrors
        return invalid("cursor", "the cursor is not one of this list", "Use next_cursor of the page before.")


async def take_page(
    records: Collection[R], place: Callable[[R], Place], fits: Callable[[R], bool], limit: int, after: Place | None
) -> tuple[list[R], str | None]:
    """The first `limit` records that fit, newest first, after `after`; and the cursor if more follow.

    `records` are in ascending order of sequence. They are copied first, so they may change meanwhile; long scans
    let other work run in between.
    """
    found: list[R] = []
    for looked_at, record in enumerate(_newest_first(list(records), place)):
        if looked_at % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if (after is not None and place(record) >= after) or not fits(record):
            continue
        if len(found) == limit:
            return found, encode_cursor(place(found[-1]))
        found.append(record)
    return found, None


def _newest_first(records: list[R], place: Callable[[R], Place]) -> Iterator[R]:
    """Descending by place: by sequence as they come, and by id among those of one message."""
    for _, group in groupby(reversed(records), key=lambda record: place(record).seq):
        yield from sorted(group, key=place, reverse=True)
