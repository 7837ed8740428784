"""Handing an answer over as it arrives: nothing is lost, doubled or reordered, however pieces, stops and ends fall."""

import asyncio
import random

import pytest
from support.misbehaving_server import Peer, answering, misbehaving, on_both_loops

from dataplane.upstream import ConnectionLost, Origin, UpstreamClient, UpstreamSettings
from dataplane.upstream.errors import UpstreamError
from dataplane.upstream.framing import Framing
from dataplane.upstream.response import UpstreamResponse

FRAMING = Framing(None, bodiless=False, until_close=False, keep_alive=True, keepalive_s=None)
SETTINGS = UpstreamSettings(read_high_water_bytes=64 * 1024)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = [random.Random(1).randbytes(60_000) for _ in range(50)]
LARGE = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES) + b"0\r\n\r\n"


async def open_answer(client: UpstreamClient, origin: Origin) -> UpstreamResponse:
    return await client.send(origin, "GET", b"/", [], b"", before_send=lambda: None)


class _Source:
    """A connection that has nothing to resume."""

    def resume(self, response: UpstreamResponse) -> None:
        assert response.buffered_bytes == 0

    def abort(self, response: UpstreamResponse) -> None:
        response.fail(ConnectionLost("aborted", sent=True))


@on_both_loops
async def test_a_reader_that_stops_now_and_then_gets_the_whole_body() -> None:
    async with misbehaving(answering(LARGE)) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        received = bytearray()
        draw = random.Random(7)

        def take(piece: bytes) -> bool:
            received.extend(piece)
            return draw.random() < 0.7

        while not await response.hand_over(take):
            await asyncio.sleep(0.001)
        assert bytes(received) == b"".join(PIECES)
        assert response.complete
        await client.close()


@on_both_loops
async def test_an_answer_that_breaks_off_is_handed_over_as_far_as_it_came() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"4\r\nhalf\r\n")

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await open_answer(client, server.origin)
        received = bytearray()

        def take(piece: bytes) -> bool:
            received.extend(piece)
            return True

        with pytest.raises(ConnectionLost):
            await response.hand_over(take)
        assert bytes(received) == b"half"
        await client.close()


@on_both_loops
async def test_what_the_taker_raises_is_its_readers() -> None:
    """Not the connection's, whose callback it happens in: that would be logged, and the reader would wait for ever."""
    more = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await more.wait()
        await peer.send(b"1\r\na\r\n")
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        with await open_answer(client, server.origin) as response:
            reading = asyncio.create_task(response.hand_over(lambda piece: 1 // len(piece.strip(b"a")) > 0))
            await asyncio.sleep(0)
            more.set()
            with pytest.raises(ZeroDivisionError):
                await reading
        assert client.stats()[server.origin] == (0, 0, 0)
        await client.close()


@pytest.mark.parametrize("seed", range(300))
def test_every_order_of_pieces_turns_stops_and_ends(seed: int) -> None:
    """Among them: a piece that comes when the reader has been woken and has not run yet."""
    asyncio.run(_random_order(random.Random(seed)))


async def _random_order(draw: random.Random) -> None:
    response = UpstreamResponse(_Source(), asyncio.get_running_loop())
    response.take_head(200, b"OK", [], FRAMING)
    received = bytearray()
    told: list[bool] = []

    def take(piece: bytes) -> bool:
        assert piece
        assert not told or told[-1], "a piece came after the taker had stopped"
        received.extend(piece)
        told.append(draw.random() < 0.8)
        return told[-1]

    async def read() -> str:
        try:
            while not await response.hand_over(take):
                assert not told.pop()
                if draw.random() < 0.5:
                    await asyncio.sleep(0)
        except UpstreamError:
            return "failed"
        return "ended"

    reading = asyncio.get_running_loop().create_task(read())
    sent = bytearray()
    for number in range(draw.randrange(1, 30)):
        pieces = draw.choice((0, 1, 1, 1, 2))
        for _ in range(pieces):
            piece = b"%d," % number
            sent.extend(piece)
            response.take_body(piece)
        response.wake()
        for _ in range(draw.choice((0, 0, 1, 2, 3))):
            await asyncio.sleep(0)
        if draw.random() < 0.05:
            reading.cancel()  # a cancelled reader loses nothing; the next one goes on
            await asyncio.wait({reading})
            if told and not told[-1]:
                told.pop()
            reading = asyncio.get_running_loop().create_task(read())
    if ended := draw.random() < 0.5:
        response.finish()
    else:
        response.fail(ConnectionLost("lost", sent=True))
    async with asyncio.timeout(5):
        assert await reading == ("ended" if ended else "failed")
    assert bytes(received) == bytes(sent)
