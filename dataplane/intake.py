"""Taking a request in: what HTTP allows and the gateway does not, and the body, whole and bounded.

Bodies are gathered before anything is decided about their cost: a body that is judged by its first half is not judged.
What would let a vendor read another body than the adapter did (compression, other transfer codings) is refused.
"""

import asyncio
from typing import Final

from aiohttp.web import RequestPayloadError

from dataplane.adapters.scan import Seen
from dataplane.incoming import Incoming
from schemas.refusals import Refusal, refuse

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

UPGRADES: Final = frozenset({b"websocket", b"tcp"})
"""Those that the server's parser would follow; other offers (h2c) are ignored, as HTTP allows."""

MAX_HELD_BYTES = 512 * 1024 * 1024
"""Bodies of all requests in flight together: above it a node would rather refuse than be killed for its memory."""

SMALL_BYTES: Final = 64 * 1024
"""Smaller bodies are not counted once they are here: the lanes bound their number. While they arrive all are."""

BODY_TIMEOUT_S = 120.0
"""A body must have arrived by then: 32 MB at 2 Mbit/s."""

_RARE: Final = frozenset({b"upgrade", b"transfer-encoding", b"content-encoding", b"expect"})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_METHOD: Final = refuse("request_malformed", "the method is not one that vendors' APIs use")
_REPEATED_HOST: Final = refuse("request_malformed", "the request names more than one Host")
_UPGRADE: Final = refuse("request_malformed", "upgrades of the connection (websockets) are not accepted")
_CODING: Final = refuse("request_malformed", "the body's transfer coding is not accepted: send it plain or chunked")
_ENCODED: Final = refuse("body_unparseable", "the body is compressed: send it without Content-Encoding")
_EXPECT: Final = refuse("request_malformed", "the Expect header asks for something else than 100-continue")
_CUT_OFF: Final = refuse("request_malformed", "the body ended before its announced end")
_SLOW: Final = refuse("request_timeout", "the body did not arrive in time")
_FULL: Final = refuse("overloaded", "too many large bodies are in flight here; nothing was sent")


def check_message(method: str, seen: Seen) -> Refusal | None:
    """Refuse messages that are not plain HTTP requests. (The server's parser has refused the malformed ones.)"""
    if method not in METHODS:
        return _METHOD
    special = seen.special
    if len(special.get(b"host", ())) > 1:
        return _REPEATED_HOST
    return _check_rare(special) if not _RARE.isdisjoint(special) else None


def _check_rare(special: dict[bytes, list[bytes]]) -> Refusal | None:
    """Headers that change what a message means, and that few clients send."""
    if any(value in UPGRADES for value in _values(special, b"upgrade")):
        return _UPGRADE
    if any(value != b"chunked" for value in _values(special, b"transfer-encoding")):
        return _CODING
    if any(value not in {b"identity", b""} for value in _values(special, b"content-encoding")):
        return _ENCODED
    if any(value != b"100-continue" for value in _values(special, b"expect")):
        return _EXPECT
    return None


def _values(special: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    return [value.strip().lower() for value in special.get(name, ())]


class Bodies:
    """Reads bodies and counts the bytes that are held: of those that arrive piece by piece, and of the large ones."""

    def __init__(self) -> None:
        self.held_bytes = 0

    def ready(self, request: Incoming, limit_bytes: int) -> bytes | Refusal | None:
        """The whole body if it is here already; None: `read` it. Whoever got bytes calls `done` with them, once."""
        content = request.content
        if not content.is_eof() or content.exception() is not None:
            return None
        body = content.read_nowait()
        request.taken = True
        size = len(body)
        if size > SMALL_BYTES:
            if size > limit_bytes:
                return _too_large(limit_bytes)
            if size > MAX_HELD_BYTES - self.held_bytes:
                return _FULL
            self.held_bytes += size
        return body if size <= limit_bytes else _too_large(limit_bytes)

    async def read(self, request: Incoming, limit_bytes: int) -> bytes | Refusal:
        """The whole body, waited for. Whoever got bytes calls `done` with them, once."""
        length = request.announced_bytes
        if length > limit_bytes:
            return _too_large(limit_bytes)
        if length > MAX_HELD_BYTES - self.held_bytes:
            return _FULL
        if request.expects_continue and request.transport is not None:
            request.transport.write(_CONTINUE)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._gather(request, limit_bytes)
        except TimeoutError:
            return _SLOW
        except RequestPayloadError:
            return _CUT_OFF

    def done(self, body: bytes) -> None:
        if len(body) > SMALL_BYTES:
            self.held_bytes -= len(body)

    async def _gather(self, request: Incoming, limit_bytes: int) -> bytes | Refusal:
        parts: list[bytes] = []
        size = 0
        try:
            while piece := await request.content.readany():
                size += len(piece)
                self.held_bytes += len(piece)
                if size > limit_bytes:
                    return _too_large(limit_bytes)
                if self.held_bytes > MAX_HELD_BYTES:
                    return _FULL
                parts.append(piece)
            body = b"".join(parts)
        finally:
            self.held_bytes -= size
        # Nothing is awaited between here and whoever calls `done`.
        if size > SMALL_BYTES:
            self.held_bytes += size
        return body


def _too_large(limit_bytes: int) -> Refusal:
    return refuse("body_too_large", f"the body is larger than {limit_bytes} bytes", limit_bytes=str(limit_bytes))
