"""The head of an answer as bytes, and its framing.

Apart from the answers themselves, which are aiohttp's: what is here can be compiled (setup.py).
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from dataplane.incoming import Incoming

Header = tuple[bytes, bytes]

REQUEST_ID: Final = b"X-Ringfence-Request-Id"

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}

BODILESS: Final = frozenset({204, 304})
"""Answers that have no body and announce none."""


def head(status: int, headers: Sequence[Header], framing: bytes, request: Incoming, *, keep_alive: bool) -> bytes:
    """Status line and headers. `framing`: the header line that says where the body ends, with its line end, or b""."""
    return _head(status, headers, framing + _connection(request, keep_alive=keep_alive))


def message(status: int, headers: Sequence[Header], body: bytes, last: bytes) -> bytes:
    """A complete answer as bytes. `last`: header lines of the connection, each with its line end, or b""."""
    return _head(status, headers, b"Content-Length: %d\r\n" % len(body) + last) + body


def _head(status: int, headers: Sequence[Header], last: bytes) -> bytes:
    lines = [b": ".join(header) for header in headers]
    lines.append(last)
    return (_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status) + b"\r\n".join(lines) + b"\r\n"


def write(transport: asyncio.Transport | None, data: bytes) -> bool:
    """Write an answer, or a part of one, to its client at once. False: the client has gone."""
    if transport is None or transport.is_closing():
        return False
    transport.write(data)
    return True


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"


def keeps_alive(request: Incoming) -> bool:
    """Whether the connection can serve another request: the client wants it, and its body has arrived whole."""
    return request.keep_alive and request.complete


def _connection(request: Incoming, *, keep_alive: bool) -> bytes:
    if not keep_alive:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if request.version < (1, 1) else b""
