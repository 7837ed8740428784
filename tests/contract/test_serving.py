"""The loop of a connection, against a handler of the test's own."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import pytest

from dataplane.answer import Answer, whole
from dataplane.heads import keeps_alive
from dataplane.incoming import Incoming
from dataplane.server import Listening, listen

LIMIT_S = 20.0
MB = 1024 * 1024

Handler = Callable[[Incoming], Awaitable[Answer]]


def reply(request: Incoming, body: bytes) -> Answer:
    return whole(200, [], body, request, keep_alive=keeps_alive(request))


async def echo(request: Incoming) -> Answer:
    body = b"".join([piece async for piece in request.content.iter_any()])
    return reply(request, request.raw_path.encode() + b" %d" % len(body))


def post(path: str, body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return await reader.readexactly(length)


def served(
    handler: Handler, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter, Listening], Awaitable[None]]
) -> None:
    async def main() -> None:
        listening = await listen(handler, os.urandom, "127.0.0.1", 0, shared=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
        async with asyncio.timeout(LIMIT_S):
            await talk(reader, writer, listening)
        writer.close()
        await listening.close(0.1)

    asyncio.run(main())


def test_requests_that_come_together_are_answered_in_their_order() -> None:
    """More than the parser lets wait: it pauses, and goes on as they are served."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listening) -> None:
        writer.write(b"".join(post(f"/{number}", b"x" * (number % 5)) for number in range(200)))
        for number in range(200):
            assert await answer(reader) == b"/%d %d" % (number, number % 5)

    served(echo, talk)


def test_a_body_beyond_every_buffer_is_read_to_its_end() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listening) -> None:
        for path in ("/first", "/second"):
            writer.write(post(path, bytes(5 * MB)))
            assert await answer(reader) == f"{path} {5 * MB}".encode()

    served(echo, talk)


def test_requests_of_a_connection_share_its_task() -> None:
    tasks: set[asyncio.Task[object] | None] = set()

    async def note(request: Incoming) -> Answer:
        tasks.add(asyncio.current_task())
        return reply(request, b"")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listening) -> None:
        for _n in range(3):
            writer.write(post("/"))
            assert await answer(reader) == b""

    served(note, talk)
    assert len(tasks) == 1


def test_a_body_that_nobody_wants_does_not_cost_the_answer() -> None:
    async def refuse(request: Incoming) -> Answer:
        return reply(request, b"no")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listening) -> None:
        body = bytes(2 * MB)
        writer.write(post("/", body)[: MB // 2])
        assert await answer(reader) == b"no"
        writer.write(body[: MB // 2])
        writer.write_eof()
        assert await reader.read() == b""  # closed: the rest of the body was not to be had

    served(refuse, talk)


@pytest.mark.parametrize("error", [RuntimeError("secret"), ConnectionResetError("secret")])
def test_a_handler_that_fails_costs_its_connection_alone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Incoming) -> Answer:
        if request.raw_path == "/fails":
            raise error
        return reply(request, b"well")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listening: Listening) -> None:
        writer.write(post("/fails"))
        assert await reader.read() == b""
        again, other = await asyncio.open_connection("127.0.0.1", listening.port)
        other.write(post("/"))
        assert await answer(again) == b"well"
        other.close()

    with caplog.at_level(logging.DEBUG):
        served(fail, talk)
    assert "secret" not in caplog.text


def test_closing_waits_for_the_answer_under_way() -> None:
    entered = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(request: Incoming) -> Answer:
        entered.set()
        await go_on.wait()
        return reply(request, b"done")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listening: Listening) -> None:
        writer.write(post("/"))
        await entered.wait()
        closing = asyncio.ensure_future(listening.close(LIMIT_S))
        await asyncio.sleep(0.05)
        assert not closing.done()
        go_on.set()
        assert await answer(reader) == b"done"
        await closing

    served(slow, talk)


def test_a_client_that_goes_does_not_stop_what_was_begun() -> None:
    """What the vendor says to a request that is out must be read for the books."""
    entered = asyncio.Event()
    finished = asyncio.Event()

    async def slow(request: Incoming) -> Answer:
        entered.set()
        await asyncio.sleep(0.1)
        finished.set()
        return reply(request, b"done")

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Listening) -> None:
        writer.write(post("/"))
        await entered.wait()
        writer.transport.abort()
        await finished.wait()

    served(slow, talk)


def test_whoever_asks_for_an_upgrade_is_answered_and_disconnected() -> None:
    """What he sends behind it may be of another protocol, and is read by nobody."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listening) -> None:
        asks = b"GET /up HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        writer.write(asks + post("/next"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in head
        assert await reader.read() == b"/up 0"

    served(echo, talk)
