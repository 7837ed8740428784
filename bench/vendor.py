"""A simulated vendor for what nginx cannot play: streams of events, slow answers, TLS. Raw protocol on uvloop.

Run as a program: `python -m bench.vendor '{"port": ..., ...}'` with a `VendorSettings`.
"""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.children import running
from bench.payload import MODEL, answer_body

REPO = Path(__file__).parents[1]


class VendorSettings(msgspec.Struct, frozen=True):
    """`delay_s`: before each answer. A stream has `chunks` chunks, `pause_s` apart; the usage is in the last."""

    port: int
    delay_s: float = 0.0
    chunks: int = 200
    pause_s: float = 0.01
    certificate: str = ""
    key: str = ""


def _chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(fields: dict[str, object]) -> bytes:
    base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": MODEL}
    return _chunked(b"data: " + msgspec.json.encode({**base, **fields}) + b"\n\n")


_PIECE = _event({"choices": [{"index": 0, "delta": {"content": " jumps"}, "finish_reason": None}]})
_USAGE = {"prompt_tokens": 60, "completion_tokens": 30, "total_tokens": 90}
_LAST = _event({"choices": [], "usage": _USAGE}) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_BODY = answer_body()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY


class _Connection(asyncio.Protocol):
    """Knows the shape of the bench's requests: one whole request in one read, or its head and then its body."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        end = data.find(b"\r\n\r\n")
        at = data[: max(end, 0)].lower().find(b"content-length:")
        if end < 0 or len(data) < end + 4 + int(data[at + 15 :].split(b"\r\n", 1)[0]):
            self._held = data
            return
        self._held = b""
        answer = self._begin_stream if b'"stream":true' in data[end:] else self._answer
        if self._settings.delay_s:
            self._loop.call_later(self._settings.delay_s, answer)
        else:
            answer()

    def _answer(self) -> None:
        if self._transport is not None:
            self._transport.write(_ANSWER)

    def _begin_stream(self) -> None:
        if self._transport is not None:
            self._transport.write(_STREAM_HEAD)
            self._left = self._settings.chunks
            self._next()

    def _next(self) -> None:
        if self._transport is None:
            return
        if not self._left:
            self._transport.write(_LAST)
            return
        self._left -= 1
        self._transport.write(_PIECE)
        self._loop.call_later(self._settings.pause_s, self._next)


@contextlib.contextmanager
def vendor(directory: Path, core: int, settings: VendorSettings) -> Iterator[int]:
    """Run one; yields its port."""
    command = [sys.executable, "-m", "bench.vendor", msgspec.json.encode(settings).decode()]
    with running(command, core=core, port=settings.port, log=directory / f"vendor-{settings.port}.log", cwd=REPO):
        yield settings.port


async def serve(settings: VendorSettings) -> None:
    """Serve until the process is ended."""
    context = None
    if settings.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.certificate, settings.key)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: _Connection(settings), "127.0.0.1", settings.port, ssl=context, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(sys.argv[1].encode(), type=VendorSettings)))
