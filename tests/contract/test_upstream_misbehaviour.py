"""Everything an upstream can do wrong: which error, where it is raised, and that no connection survives it."""

import asyncio
import os
import socket
from typing import NamedTuple

import pytest
from support.misbehaving_server import Peer, answering, eventually, misbehaving, on_both_loops

from dataplane.upstream import (
    ConnectionLost,
    HeaderTooLarge,
    ProtocolViolation,
    UpstreamClient,
    UpstreamError,
    UpstreamSettings,
)

SETTINGS = UpstreamSettings(max_header_bytes=4096, read_high_water_bytes=1 << 20)
OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Case(NamedTuple):
    name: str
    answer: bytes
    error: type[UpstreamError]
    body: bytes | None = None  # None: `send` raises; else what is read before the error
    then: str = "next"
    method: str = "POST"


CASES = [
    # No answer, or half of one.
    Case("closed at once", b"", ConnectionLost, then="finish"),
    Case("reset at once", b"", ConnectionLost, then="reset"),
    Case("closed in the status line", b"HTTP/1.1 20", ConnectionLost, then="finish"),
    Case("closed in the head", OK + b"Content-Le", ConnectionLost, then="finish"),
    Case("closed before the blank line", OK + b"Content-Length: 2\r\n", ConnectionLost, then="finish"),
    Case("closed after an interim answer", b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionLost, then="finish"),
    Case("closed in the body", OK + b"Content-Length: 9\r\n\r\nhalf", ConnectionLost, b"half", "finish"),
    Case("closed before the body", OK + b"Content-Length: 9\r\n\r\n", ConnectionLost, b"", "finish"),
    Case("reset in the body", OK + b"Content-Length: 9\r\n\r\nhalf", ConnectionLost, b"half", "reset"),
    Case("reset, body until the end", OK + b"\r\nhalf", ConnectionLost, b"half", "reset"),
    Case("closed between chunks", CHUNKED + b"4\r\nhalf\r\n", ConnectionLost, b"half", "finish"),
    Case("closed in a chunk", CHUNKED + b"9\r\nhalf", ConnectionLost, b"half", "finish"),
    Case("closed in a chunk size", CHUNKED + b"4\r\nhalf\r\n1", ConnectionLost, b"half", "finish"),
    Case("closed before the last line", CHUNKED + b"4\r\nhalf\r\n0\r\n", ConnectionLost, b"half", "finish"),
    Case("closed in the trailers", CHUNKED + b"4\r\nhalf\r\n0\r\nX: y\r\n", ConnectionLost, b"half", "finish"),
    # Not HTTP, or not this HTTP.
    Case("noise", b"\x00\x01\x02\x03 what?\r\n\r\n", ProtocolViolation),
    Case("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", ProtocolViolation),
    Case("a request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ProtocolViolation),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ProtocolViolation),
    Case("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("HTTP/0.9", b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", ProtocolViolation),
    Case("status 20", b"HTTP/1.1 20 OK\r\n\r\n", ProtocolViolation),
    Case("status 099", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("status abc", b"HTTP/1.1 abc OK\r\n\r\n", ProtocolViolation),
    Case("switching protocols", b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw", ProtocolViolation),
    Case("switching, bare", b"HTTP/1.1 101 Go\r\n\r\n", ProtocolViolation),
    # Heads that can be read in two ways.
    Case("length twice", OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", ProtocolViolation),
    Case("two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", ProtocolViolation),
    Case("length list", OK + b"Content-Length: 2, 2\r\n\r\nok", ProtocolViolation),
    Case("length -1", OK + b"Content-Length: -1\r\n\r\n", ProtocolViolation),
    Case("length +2", OK + b"Content-Length: +2\r\n\r\nok", ProtocolViolation),
    Case("length 0x2", OK + b"Content-Length: 0x2\r\n\r\nok", ProtocolViolation),
    Case("length empty", OK + b"Content-Length:\r\n\r\n", ProtocolViolation),
    Case("length beyond 64 bits", OK + b"Content-Length: 99999999999999999999\r\n\r\n", ProtocolViolation),
    Case("length beyond 63 bits", OK + b"Content-Length: 9999999999999999999\r\n\r\n", ProtocolViolation),
    Case("both, length first", OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("both, chunked first", OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("gzip, chunked", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("chunked, gzip", OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("chunked twice", OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("xchunked", OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("identity", OK + b"Transfer-Encoding: identity\r\n\r\nok", ProtocolViolation, then="finish"),
    Case("chunked in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ProtocolViolation),
    Case("folded header", OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("blank before colon", OK + b"Content-Length : 2\r\n\r\nok", ProtocolViolation),
    Case("blank before name", OK + b" A: b\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("no name", OK + b": b\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("no colon", OK + b"nonsense\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("NUL in a value", OK + b"A: \x00\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("CR in a value", OK + b"A: b\rC: d\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("interim with a body", b"HTTP/1.1 104 X\r\nContent-Length: 3\r\n\r\nabc" + PLAIN, ProtocolViolation),
    Case("interim chunked", b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + PLAIN, ProtocolViolation),
    # Bodies that break off the rails.
    Case("chunk size xyz", CHUNKED + b"4\r\nfine\r\nxyz\r\n", ProtocolViolation, b"fine"),
    Case("chunk size -1", CHUNKED + b"-1\r\n", ProtocolViolation, b""),
    Case("chunk size overflow", CHUNKED + b"fffffffffffffffff\r\n", ProtocolViolation, b""),
    Case("chunk longer than said", CHUNKED + b"4\r\nfine!!\r\n0\r\n\r\n", ProtocolViolation, b"fine"),
    Case("chunk line by LF", CHUNKED + b"4\nfine\r\n0\r\n\r\n", ProtocolViolation, b""),
    Case("length in the trailers", CHUNKED + b"4\r\nfine\r\n0\r\nContent-Length: 4\r\n\r\n", ProtocolViolation, b"fine"),
    # Too much of it.
    Case("one huge header", OK + b"A: " + b"x" * 5000 + b"\r\nContent-Length: 0\r\n\r\n", HeaderTooLarge),
    Case("many headers", OK + b"A: b\r\n" * 1000 + b"Content-Length: 0\r\n\r\n", HeaderTooLarge),
    Case("endless head", OK + b"A: " + b"x" * 9000, HeaderTooLarge),
    Case("endless reason", b"HTTP/1.1 200 " + b"x" * 9000, HeaderTooLarge),
    Case("endless blank lines", b"\r\n" * 5000, HeaderTooLarge),
    Case("endless interim answers", b"HTTP/1.1 103 Hint\r\nLink: </x>\r\n\r\n" * 200, HeaderTooLarge),
    Case("endless head to HEAD", OK + b"A: " + b"x" * 9000, HeaderTooLarge, method="HEAD"),
    Case("noise to HEAD", b"what?\r\n\r\n", ProtocolViolation, method="HEAD"),
    Case("half a head to HEAD", OK + b"Content-Length: 2\r\n", ConnectionLost, then="finish", method="HEAD"),
    Case("endless extension", CHUNKED + b"4;" + b"x" * 600_000, ProtocolViolation, b""),
    Case("endless trailers", CHUNKED + b"4\r\nfine\r\n0\r\n" + b"A: b\r\n" * 100_000, ProtocolViolation, b"fine"),
]  # fmt: skip


@on_both_loops
@pytest.mark.parametrize("cut", ["whole", "pieces"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_misbehaviour(case: Case, cut: str) -> None:
    step = 7 if len(case.answer) < 2000 else 1 + len(case.answer) // 20
    pieces = [case.answer[i : i + step] for i in range(0, len(case.answer), step)] if cut == "pieces" else [case.answer]
    async with misbehaving(answering(pieces, then=case.then)) as server:
        client = UpstreamClient(SETTINGS)
        read = bytearray()
        returned: list[int] = []

        async def exchange() -> None:
            body = b"x" if case.method == "POST" else b""
            response = await client.send(server.origin, case.method, b"/", [], body, before_send=lambda: None)
            returned.append(response.status)
            async for chunk in response:
                read.extend(chunk)

        with pytest.raises(case.error) as caught:
            await exchange()
        assert len(returned) == (case.body is not None), "send raises, or reading does"
        assert read == (case.body or b"")
        assert caught.value.sent
        assert not caught.value.retryable
        assert len(server.requests) == 1, "a request that was sent is not sent again"
        assert client.stats()[server.origin].open == 0
        await eventually(server.peers[0].gone.is_set, "the server sees the connection closed")
        await client.close()


STRAY = {
    "a second answer": PLAIN + PLAIN,
    "a second answer that says 1xx": PLAIN + b"HTTP/1.1 100 Continue\r\n\r\n",
    "the beginning of one": PLAIN + b"H",
    "noise": PLAIN + b"garbage",
    "body of a 204": b"HTTP/1.1 204 No\r\n\r\nok",
    "body of a 304": b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\nok",
    "after chunks": CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + PLAIN,
    "after close": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok" + PLAIN,
}


@on_both_loops
@pytest.mark.parametrize("name", STRAY)
async def test_bytes_after_an_answer_in_the_same_read(name: str) -> None:
    """The answer stands; its connection is not used again, so the stray bytes answer nobody."""
    async with misbehaving(answering(STRAY[name])) as server:
        client = UpstreamClient(SETTINGS)
        for number in range(2):
            response = await client.send(server.origin, "GET", b"/", [], b"", before_send=lambda: None)
            assert await response.read(100) in {b"ok", b""}
            assert not response.keep_alive
            assert server.requests[-1].peer == number
        assert client.stats()[server.origin].idle == 0
        await client.close()


@on_both_loops
@pytest.mark.parametrize("answer", [OK + b"Content-Length: 5\r\n\r\nhello", OK + b"Content-Length: 5\r\n\r\n" + PLAIN])
async def test_body_after_the_head_to_head_requests(answer: bytes) -> None:
    async with misbehaving(answering(answer)) as server:
        client = UpstreamClient(SETTINGS)
        for number in range(2):
            response = await client.send(server.origin, "HEAD", b"/", [], b"", before_send=lambda: None)
            assert await response.read(100) == b""
            assert server.requests[-1].peer == number
        await client.close()


@on_both_loops
@pytest.mark.parametrize("stray", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\r\n", b"x"])
async def test_unsolicited_bytes_on_an_idle_connection(stray: bytes) -> None:
    answered = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(PLAIN)
        if peer.number == 0:
            await answered.wait()
            await peer.send(stray)
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], b"1", before_send=lambda: None)
        assert await response.read(100) == b"ok"
        assert client.stats()[server.origin].idle == 1
        answered.set()
        await eventually(lambda: client.stats()[server.origin].idle == 0, "the connection is discarded")
        response = await client.send(server.origin, "POST", b"/", [], b"2", before_send=lambda: None)
        assert await response.read(100) == b"ok"
        assert [request.peer for request in server.requests] == [0, 1]
        await client.close()


@on_both_loops
async def test_stray_bytes_that_the_loop_has_not_seen_yet() -> None:
    """Between the arrival of bytes and the loop's next look at its sockets a request must not be sent either."""

    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], b"1", before_send=lambda: None)
        assert await response.read(100) == b"ok"
        other_end: socket.socket = server.peers[0].writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(other_end.fileno())) as raw:
            raw.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            )  # no turn of the loop from here to the next send
        response = await client.send(server.origin, "POST", b"/", [], b"2", before_send=lambda: None)
        assert await response.read(100) == b"ok"
        assert [request.peer for request in server.requests] == [0, 1]
        await client.close()
