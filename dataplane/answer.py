"""Answers to the client: the head as bytes, and one write for what fits into one.

aiohttp's own responses build header dictionaries and write in parts. A proxy has the bytes already, so an answer is a
`StreamResponse` (the server insists on one) that writes what it was given, once.
"""

import asyncio
from collections.abc import Sequence

from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, StreamResponse

from dataplane.heads import BODILESS, Header, head, write

UNREAD_BYTES = 64 * 1024
"""What a client may leave unread; above it whoever writes waits for the client."""

STALLED_S = 300.0
"""A client that takes nothing for so long has gone."""

MAX_UNREAD_BYTES = 256 * 1024 * 1024
"""Of all clients that are being waited for together: beyond it the next one that does not read is given up."""


class Unread:
    """The bytes that clients are being waited for to read, of one node."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0


async def client_keeps_up(request: BaseRequest) -> bool:
    """Wait until the client has read enough. False: it has gone, or is given up."""
    transport = request.transport
    if transport is None:
        return False
    size = transport.get_write_buffer_size()
    if size <= UNREAD_BYTES:
        return True
    # The server's connection knows where its node counts.
    unread: Unread = getattr(request.protocol, "unread", None) or Unread()
    if size > MAX_UNREAD_BYTES - unread.held_bytes:
        transport.abort()
        return False
    unread.held_bytes += size
    try:
        async with asyncio.timeout(STALLED_S):
            await request.writer.drain()
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


class Answer(StreamResponse):
    """Writes `data` (a whole message, or the rest of one, or nothing) and is done."""

    def __init__(self, data: bytes, *, status: int, keep_alive: bool) -> None:
        # StreamResponse's own __init__ would build the dictionaries that are to be avoided; its defaults are class
        # attributes, and the server asks a response for nothing but what stands here.
        self._data = data
        self._status = status
        self._keep_alive = keep_alive
        self._request: BaseRequest | None = None

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Nothing goes out before the end."""
        self._request = request
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - the server passes none
        """Write. Raises ConnectionError if the client has gone."""
        request = self._request
        if request is not None and not (self.send(request.transport) and await client_keeps_up(request)):
            raise ConnectionResetError

    def send(self, transport: asyncio.Transport | None) -> bool:
        """Write at once, unless that was done before. False: the client has gone."""
        if self._eof_sent:
            return True
        self._eof_sent = True
        return not self._data or write(transport, self._data)


def whole(status: int, headers: Sequence[Header], body: bytes, request: BaseRequest, *, keep_alive: bool) -> Answer:
    """A complete answer. For HEAD the length is announced and the body left out."""
    framing = b"" if status in BODILESS else b"Content-Length: %d\r\n" % len(body)
    data = head(status, headers, framing, request, keep_alive=keep_alive)
    if body and request.method != "HEAD" and status not in BODILESS:
        data += body
    return Answer(data, status=status, keep_alive=keep_alive)
