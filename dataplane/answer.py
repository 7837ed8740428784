"""Answers to the client: the head as bytes, and one write for what fits into one.

aiohttp's own responses build header dictionaries and write in parts. A proxy has the bytes already, so an answer is a
`StreamResponse` (the server insists on one) that writes what it was given, once.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, StreamResponse

Header = tuple[bytes, bytes]

REQUEST_ID = b"X-Ringfence-Request-Id"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}

BODILESS = frozenset({204, 304})
"""Answers that have no body and announce none."""

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


def lags(request: BaseRequest) -> bool:
    """Whether the client has so much left unread that whoever writes should wait for it (`client_keeps_up`)."""
    transport = request.transport
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
        if request is not None and not (self.send(request) and await client_keeps_up(request)):
            raise ConnectionResetError

    def send(self, request: BaseRequest) -> bool:
        """Write at once, unless that was done before. False: the client has gone."""
        if self._eof_sent:
            return True
        self._eof_sent = True
        return not self._data or write(request, self._data)


def head(status: int, headers: Sequence[Header], framing: bytes, request: BaseRequest, *, keep_alive: bool) -> bytes:
    """Status line and headers. `framing`: the header line that says where the body ends, with its line end, or b""."""
    return _head(status, headers, framing + _connection(request, keep_alive=keep_alive))


def message(status: int, headers: Sequence[Header], body: bytes, last: bytes) -> bytes:
    """A complete answer as bytes. `last`: header lines of the connection, each with its line end, or b""."""
    return _head(status, headers, b"Content-Length: %d\r\n" % len(body) + last) + body


def _head(status: int, headers: Sequence[Header], last: bytes) -> bytes:
    lines = [b": ".join(header) for header in headers]
    lines.append(last)
    return (_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status) + b"\r\n".join(lines) + b"\r\n"


def write(request: BaseRequest, data: bytes) -> bool:
    """Write a part of an answer at once. False: the client has gone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return False
    transport.write(data)
    return True


def whole(status: int, headers: Sequence[Header], body: bytes, request: BaseRequest, *, keep_alive: bool) -> Answer:
    """A complete answer. For HEAD the length is announced and the body left out."""
    framing = b"" if status in BODILESS else b"Content-Length: %d\r\n" % len(body)
    data = head(status, headers, framing, request, keep_alive=keep_alive)
    if body and request.method != "HEAD" and status not in BODILESS:
        data += body
    return Answer(data, status=status, keep_alive=keep_alive)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def keeps_alive(request: BaseRequest) -> bool:
    """Whether the connection can serve another request: the client wants it, and its body has arrived whole."""
    return request.keep_alive and request.content.is_eof()


def _connection(request: BaseRequest, *, keep_alive: bool) -> bytes:
    if not keep_alive:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if request.version < (1, 1) else b""
