"""The body on its way: back-pressure, time-outs, aborting, draining."""

import asyncio
import os

import pytest
from support.misbehaving_server import Peer, answering, eventually, misbehaving, on_both_loops

from dataplane.upstream import (
    Aborted,
    BodyTooLarge,
    ConnectionLost,
    FirstByteTimeout,
    IdleTimeout,
    Origin,
    TotalTimeout,
    UpstreamClient,
    UpstreamResponse,
    UpstreamSettings,
)

HIGH_WATER = 64 * 1024
ONE_READ = 256 * 1024  # the most that either loop reads from a socket at once
SETTINGS = UpstreamSettings(read_high_water_bytes=HIGH_WATER)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = os.urandom(1 << 20) * 12


def framed(framing: str) -> bytes:
    if framing == "length":
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE)
    if framing == "until close":
        return b"HTTP/1.1 200 OK\r\n\r\n" + LARGE
    chunks = [LARGE[i : i + 60_000] for i in range(0, len(LARGE), 60_000)]
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def open_answer(client: UpstreamClient, server_origin: Origin, body: bytes = b"") -> UpstreamResponse:
    return await client.send(server_origin, "POST", b"/", [], body, before_send=lambda: None)


@on_both_loops
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
async def test_a_slow_reader_slows_the_upstream_down(framing: str) -> None:
    then = "finish" if framing == "until close" else "next"
    async with misbehaving(answering(framed(framing), then=then)) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        await eventually(lambda: response.buffered_bytes > HIGH_WATER)
        # With nobody reading, the server must get stuck with most of the body.
        writer = server.peers[0].writer
        stuck_at = -1
        while stuck_at != (stuck_at := writer.transport.get_write_buffer_size()):
            await asyncio.sleep(0.02)
        assert stuck_at > len(LARGE) // 4
        assert response.buffered_bytes <= HIGH_WATER + ONE_READ
        received = bytearray()
        async for chunk in response:
            assert len(chunk) <= HIGH_WATER + ONE_READ
            received += chunk
        assert bytes(received) == LARGE
        assert response.keep_alive is (framing != "until close")
        if response.keep_alive:
            assert await (await open_answer(client, server.origin)).read(len(LARGE)) == LARGE
            assert len(server.peers) == 1
        await client.close()


@on_both_loops
async def test_chunks_are_passed_on_as_they_come() -> None:
    more = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for number in range(5):
            await more.wait()
            more.clear()
            await peer.send(b"8\r\ndata: %d\n\r\n" % number)
        await peer.send(b"0\r\n\r\n")
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        assert response.content_length is None
        for number in range(5):
            more.set()
            assert await response.read_chunk() == b"data: %d\n" % number
        assert await response.read_chunk() == b""
        assert await response.read_chunk() == b""
        assert response.complete
        await client.close()


@on_both_loops
async def test_a_cancelled_read_loses_nothing() -> None:
    more = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\na\r\n")
        await more.wait()
        await peer.send(b"1\r\nb\r\n0\r\n\r\n")
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        assert await response.read_chunk() == b"a"
        reading = asyncio.create_task(response.read_chunk())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader"):
            await response.read_chunk()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        more.set()
        assert await response.read(9) == b"b"
        await client.close()


@on_both_loops
async def test_an_answer_can_be_drained_when_its_own_client_has_gone() -> None:
    """The relay is cancelled; another task goes on reading the same answer to its end."""
    async with misbehaving(answering(framed("chunked"))) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        first = bytearray()

        async def relay() -> None:
            async for chunk in response:
                first.extend(chunk)
                await asyncio.Event().wait()  # the client reads no more

        task = asyncio.create_task(relay())
        await eventually(lambda: first)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert bytes(first) + await response.read(len(LARGE)) == LARGE
        assert client.stats()[server.origin] == (1, 1, 0)
        await client.close()


@on_both_loops
async def test_aborting_wakes_the_reader_and_closes_the_connection() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\na\r\n")
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        assert await response.read_chunk() == b"a"
        reading = asyncio.create_task(response.read_chunk())
        await asyncio.sleep(0)
        response.abort()
        with pytest.raises(Aborted) as caught:
            await reading
        assert caught.value.sent
        await eventually(server.peers[0].gone.is_set)
        response.abort()
        assert client.stats()[server.origin] == (0, 0, 0)
        await client.close()


@on_both_loops
async def test_aborting_a_complete_answer_hurts_nobody() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        read = await open_answer(client, server.origin)
        assert await read.read(9) == b"ok"
        unread = await open_answer(client, server.origin)
        await eventually(lambda: unread.complete)
        third = asyncio.create_task(open_answer(client, server.origin))
        await asyncio.sleep(0)
        read.abort()
        unread.abort()
        assert await (await third).read(9) == b"ok"
        assert await read.read_chunk() == b""
        with pytest.raises(Aborted):
            await unread.read_chunk()
        assert len(server.peers) == 1
        await client.close()


@on_both_loops
async def test_leaving_a_with_block_aborts_what_was_not_read() -> None:
    async with misbehaving(answering(framed("length"))) as server:
        client = UpstreamClient(SETTINGS)
        with await open_answer(client, server.origin) as response:
            assert await response.read_chunk()
        with pytest.raises(Aborted):
            await response.read_chunk()
        assert client.stats()[server.origin] == (0, 0, 0)
        with await open_answer(client, server.origin) as response:
            await response.read(len(LARGE))
        assert client.stats()[server.origin] == (1, 1, 0)
        await client.close()


@on_both_loops
async def test_bodies_over_the_readers_limit() -> None:
    long, chunked, exact = framed("length"), CHUNKED + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", PLAIN
    async with misbehaving(answering(long, chunked, exact)) as server:
        client = UpstreamClient(SETTINGS)
        for limit_bytes in (len(LARGE) - 1, 5):
            response = await open_answer(client, server.origin)
            with pytest.raises(BodyTooLarge) as caught:
                await response.read(limit_bytes)
            assert caught.value.sent
        response = await open_answer(client, server.origin)
        assert await response.read(2) == b"ok"
        await client.close()


@on_both_loops
async def test_what_has_arrived_can_be_taken_without_waiting() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        await eventually(lambda: response.complete)
        assert (response.take_buffered(), response.take_buffered()) == (b"ok", b"")
        await client.close()


# Time-outs.


@on_both_loops
@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nX-Half", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_no_head_in_time(beginning: bytes) -> None:
    async with misbehaving(answering(beginning)) as server:
        client = UpstreamClient(UpstreamSettings(first_byte_timeout_s=0.1))
        with pytest.raises(FirstByteTimeout) as caught:
            await open_answer(client, server.origin)
        assert caught.value.sent
        assert not caught.value.retryable
        await eventually(server.peers[0].gone.is_set)
        assert client.stats()[server.origin].open == 0
        await client.close()


@on_both_loops
async def test_dripping_does_not_put_off_the_first_byte_time_out() -> None:
    async def drip(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await peer.send(b"x")
            await asyncio.sleep(0.01)

    async with misbehaving(drip) as server:
        client = UpstreamClient(UpstreamSettings(first_byte_timeout_s=0.1))
        with pytest.raises(FirstByteTimeout):
            await open_answer(client, server.origin)
        await client.close()


@on_both_loops
async def test_nothing_more_comes() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    async with misbehaving(answering(answer)) as server:
        client = UpstreamClient(UpstreamSettings(idle_timeout_s=0.1))
        response = await open_answer(client, server.origin)
        assert await response.read_chunk() == b"half"
        with pytest.raises(IdleTimeout) as caught:
            await response.read_chunk()
        assert caught.value.sent
        assert not response.complete
        await eventually(server.peers[0].gone.is_set)
        await client.close()


@on_both_loops
async def test_what_came_before_the_time_out_is_read_first() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    async with misbehaving(answering(answer)) as server:
        client = UpstreamClient(UpstreamSettings(idle_timeout_s=0.05))
        response = await open_answer(client, server.origin)
        await eventually(lambda: client.stats()[server.origin].open == 0)
        assert await response.read_chunk() == b"half"
        with pytest.raises(IdleTimeout):
            await response.read_chunk()
        await client.close()


@on_both_loops
async def test_it_takes_too_long_altogether() -> None:
    async def drip(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    async with misbehaving(drip) as server:
        client = UpstreamClient(UpstreamSettings(total_timeout_s=0.2, idle_timeout_s=10))
        response = await open_answer(client, server.origin)
        with pytest.raises(TotalTimeout) as caught:
            async for _ in response:
                pass
        assert caught.value.sent
        await client.close()


@on_both_loops
async def test_a_lagging_reader_is_not_taken_for_an_idle_upstream() -> None:
    async with misbehaving(answering(framed("length"))) as server:
        client = UpstreamClient(UpstreamSettings(read_high_water_bytes=HIGH_WATER, idle_timeout_s=0.2))
        response = await open_answer(client, server.origin)
        await eventually(lambda: response.buffered_bytes > HIGH_WATER)
        await asyncio.sleep(0.6)  # three times the idle limit, with most of the body still to come
        assert client.stats()[server.origin].open == 1
        assert await response.read(len(LARGE)) == LARGE
        await client.close()


@on_both_loops
async def test_a_reader_that_never_reads_is_ended_by_the_total_time() -> None:
    async with misbehaving(answering(framed("length"))) as server:
        client = UpstreamClient(UpstreamSettings(read_high_water_bytes=HIGH_WATER, total_timeout_s=0.5))
        response = await open_answer(client, server.origin)
        await eventually(lambda: client.stats()[server.origin].open == 0)
        with pytest.raises(TotalTimeout):
            await response.read(len(LARGE))
        await client.close()


@on_both_loops
async def test_each_request_has_its_own_time() -> None:
    """Deadlines of one exchange do not reach into the next on the same connection."""
    now_s = [0.0]
    limits = UpstreamSettings(first_byte_timeout_s=200, idle_timeout_s=200, total_timeout_s=200, keepalive_s=1000)
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(limits, clock=lambda: now_s[0])
        for _ in range(8):
            assert await (await open_answer(client, server.origin)).read(9) == b"ok"
            now_s[0] += 150
            client._watchdog._fire()  # what its timer would do now
        assert len(server.peers) == 1
        await client.close()


@on_both_loops
async def test_an_answer_that_nobody_reads_fails_when_the_upstream_goes() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    async with misbehaving(answering(answer, then="reset")) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        await eventually(lambda: client.stats()[server.origin].open == 0)
        assert response.take_buffered() in {b"half", b""}
        with pytest.raises(ConnectionLost):
            await response.read(9)
        await client.close()
