"""An HTTP server made of raw bytes, for everything that a real one would refuse to do.

    async with misbehaving(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        ...  server.origin, server.requests, server.peers

A handler gets each accepted connection as a `Peer` and does what it likes: answer early, late, in pieces, twice, not
at all, reset. When the block ends every connection is closed and an error of a handler is raised.
"""

import asyncio
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import uvloop

from dataplane.upstream import Origin

DEADLINE_S = 20.0  # of a whole test, so that what hangs fails


class Received(NamedTuple):
    """A request as it came: its first line, its headers (lower-case names), its body, and on which connection."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    peer: int

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Peer:
    """One accepted connection, number `number`."""

    def __init__(self, server: "Server", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = len(server.peers)
        self.server = server
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.finishing = False

    async def head(self) -> Received:
        """Read a request's head only. Raises EOFError when the client has closed instead."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            raise EOFError from None
        first, *lines = raw[:-4].split(b"\r\n")
        headers = [(line.partition(b": ")[0].lower(), line.partition(b": ")[2]) for line in lines]
        return Received(first, headers, b"", self.number)

    async def request(self) -> Received:
        """Read a whole request and note it."""
        head = await self.head()
        length = int((head.header(b"content-length") or [b"0"])[0])
        try:
            request = head._replace(body=await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise EOFError from None
        self.server.requests.append(request)
        return request

    async def send(self, *pieces: bytes) -> None:
        """Write the pieces, letting the other side run after each."""
        for piece in pieces:
            if self.writer.transport.is_closing():  # uvloop refuses to write then
                return
            self.writer.write(piece)
            with suppress(ConnectionError):
                await self.writer.drain()
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Close properly, once everything is written: FIN, or close_notify."""
        self.finishing = True
        self.writer.close()

    def cut(self) -> None:
        """Close the socket with nothing said: with TLS no close_notify."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """RST."""
        peer: socket.socket = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_closed(self) -> bytes:
        """What the client still sends until it closes."""
        rest = b""
        with suppress(ConnectionError):
            rest = await self.reader.read()
        self.gone.set()
        return rest


Handler = Callable[[Peer], Awaitable[None]]


class Server:
    """See the module's page."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.requests: list[Received] = []
        self.failures: list[BaseException] = []
        self.stopping = asyncio.Event()  # never set: what waits for it is cancelled when the test ends
        self.port = 0

    @property
    def origin(self) -> Origin:
        return Origin("http", "127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._handler(peer)
            if peer.finishing:
                await writer.wait_closed()
        except (EOFError, ConnectionError):
            pass  # the client closed: the usual end
        except asyncio.CancelledError:
            pass  # the test is over
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            peer.gone.set()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.sleep(0)


@asynccontextmanager
async def misbehaving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(handler)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.stop()
    if server.failures:
        raise server.failures[0]


def answering(*answers: bytes | Iterable[bytes], then: str = "next") -> Handler:
    """Read a request, send an answer (bytes, or pieces), and so on: the first connection's first request gets the
    first answer, and each later request, on whatever connection, the next one (the last for ever).

    then: "next" goes on with the connection; "finish", "cut", "reset" close it after each answer.
    """
    queue = list(answers)

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            await peer.send(*([answer] if isinstance(answer, bytes) else answer))
            if then != "next":
                getattr(peer, then)()
                return

    return handle


async def silent(peer: Peer) -> None:
    """Read everything, say nothing."""
    await peer.until_closed()


async def eventually(condition: Callable[[], object], what: str = "condition") -> None:
    """Wait until the condition holds, letting the loop run; fail after a generous deadline."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DEADLINE_S / 2
    while not condition():
        if loop.time() > deadline_s:
            raise AssertionError(f"never came true: {what}")
        await asyncio.sleep(0.002)


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test once on asyncio's loop and once on uvloop, each in a loop of its own."""

    @functools.wraps(test)
    def run(*, loop_kind: str, **arguments: Any) -> None:
        factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            problems: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
            runner.run(asyncio.wait_for(test(**arguments), DEADLINE_S))
            assert not problems, problems

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]  # pytest reads it
    both: Callable[..., None] = pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])(run)
    return both
