"""Answers to the client: the head as bytes, and one write for what fits into one.

aiohttp's own responses build header dictionaries and write in parts. A proxy has the bytes already, so an answer is
what is to be written, once.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, final

from dataplane.heads import BODILESS, Header, head, write
from dataplane.incoming import Incoming

UNREAD_BYTES: Final = 64 * 1024
"""What a client may leave unread; above it whoever writes waits for the client."""

STALLED_S = 300.0
"""A client that takes nothing for so long has gone."""

MAX_UNREAD_BYTES: Final = 256 * 1024 * 1024
"""Of all clients that are being waited for together: beyond it the next one that does not read is given up."""


async def client_keeps_up(request: Incoming) -> bool:
    """Wait until the client has read enough. False: it has gone, or is given up."""
    transport = request.transport
    if transport is None:
        return False
    size = transport.get_write_buffer_size()
    if size <= UNREAD_BYTES:
        return True
    unread = request.connection.unread
    if size > MAX_UNREAD_BYTES - unread.held_bytes:
        transport.abort()
        return False
    unread.held_bytes += size
    try:
        async with asyncio.timeout(STALLED_S):
            await request.connection.drained()
    except TimeoutError:
        transport.abort()
        return False
    except ConnectionError:
        return False
    finally:
        unread.held_bytes -= size
    return True


def lags(transport: asyncio.Transport | None) -> bool:
    """Whether a client has so much left unread that whoever writes should wait for it (`client_keeps_up`)."""
    return transport is not None and transport.get_write_buffer_size() > UNREAD_BYTES


@final
class Answer:
    """`data`: a whole message, or the rest of one, or nothing. `keep_alive`: another may follow on its connection."""

    __slots__ = ("data", "keep_alive", "status")

    def __init__(self, data: bytes, *, status: int, keep_alive: bool) -> None:
        self.data: Final = data
        self.status: Final = status
        self.keep_alive: Final = keep_alive

    def send(self, transport: asyncio.Transport | None) -> bool:
        """Write it at once. False: the client has gone."""
        return not self.data or write(transport, self.data)


def whole(status: int, headers: Sequence[Header], body: bytes, request: Incoming, *, keep_alive: bool) -> Answer:
    """A complete answer. For HEAD the length is announced and the body left out."""
    framing = b"" if status in BODILESS else b"Content-Length: %d\r\n" % len(body)
    data = head(status, headers, framing, request, keep_alive=keep_alive)
    if body and request.method != "HEAD" and status not in BODILESS:
        data += body
    return Answer(data, status=status, keep_alive=keep_alive)
