"""Well-formed answers of every framing: what is read, and whether the connection serves the next request."""

import random
from typing import NamedTuple

import pytest
from support.misbehaving_server import answering, misbehaving, on_both_loops

from dataplane.upstream import Origin, UpstreamClient, UpstreamResponse, UpstreamSettings

SETTINGS = UpstreamSettings()
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Case(NamedTuple):
    name: str
    answer: bytes
    status: int
    body: bytes
    kept: bool
    method: str = "GET"
    length: int | None = None  # what content_length says
    closes: bool = False  # the server closes after the answer


CASES = [
    Case("length", PLAIN, 200, b"ok", True, length=2),
    Case("length 0", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", True, length=0),
    Case("length with blanks", b"HTTP/1.1 200 OK\r\nContent-Length:  2 \r\n\r\nok", 200, b"ok", True, length=2),
    Case("no reason", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True, length=2),
    Case("error", b"HTTP/1.1 402 No\r\nContent-Length: 2\r\n\r\nno", 402, b"no", True, "POST", 2),
    Case("redirect", b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 307, b"", True, length=0),
    Case("chunked", CHUNKED + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok", True),
    Case("many chunks", CHUNKED + b"1\r\na\r\n00002\r\nbc\r\nA\r\n0123456789\r\n0\r\n\r\n", 200, b"abc0123456789", True),
    Case("extensions", CHUNKED + b'2;a=b;c="d;e"\r\nok\r\n0;last\r\n\r\n', 200, b"ok", True),
    Case("trailers", CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\nStatus: 500\r\n\r\n", 200, b"ok", True),
    Case("empty chunked", CHUNKED + b"0\r\n\r\n", 200, b"", True),
    Case("CHUNKED", CHUNKED.replace(b"chunked", b"CHUNKED") + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok", True),
    Case("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, "DELETE", 0),
    Case("204 with length 0", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, b"", True, length=0),
    Case("204 announcing", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b"", False, length=0),
    Case("304", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 99\r\n\r\n', 304, b"", True, length=0),
    Case("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 200, b"", True, "HEAD", 0),
    Case("HEAD chunked", CHUNKED, 200, b"", True, "HEAD", 0),
    Case("HEAD bare", b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", 200, b"", True, "HEAD", 0),
    Case("HEAD after 103", b"HTTP/1.1 103 Hint\r\nLink: </a>\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n", 404, b"", True, "HEAD", 0),
    Case("HEAD close", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n", 200, b"", False, "HEAD", 0),
    Case("100 first", b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, 200, b"ok", True, "POST", 2),
    Case("102, 103, 104", b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: </x>\r\n\r\nHTTP/1.1 104 U\r\n\r\n" + PLAIN, 200, b"ok", True, length=2),
    Case("100 then 204", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", 204, b"", True, "PUT", 0),
    Case("close with length", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, length=2),
    Case("Close in a list", b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, length=2),
    Case("close, chunked", CHUNKED[:-2] + b"Connection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok", False),
    Case("keep-alive over", b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, length=2),
    Case("keep-alive hint", b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60, max=9\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True, length=2),
    Case("until close", b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end", False, closes=True),
    Case("until close, empty", b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", 200, b"", False, closes=True),
    Case("HTTP/1.0", b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nold", 200, b"old", False, closes=True),
    Case("HTTP/1.0 length", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", 200, b"old", False, length=3),
    Case("HTTP/1.0 keep-alive", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold", 200, b"old", False, length=3),
    Case("upgrade offered", b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True, length=2),
    Case("status 599", b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", 599, b"", True, length=0),
    Case("binary", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff", 200, b"\x1f\x8b\x00\xff", True, length=4),
]  # fmt: skip


async def exchange(client: UpstreamClient, origin: Origin, method: str) -> tuple[UpstreamResponse, bytes]:
    body = b"body" if method in {"POST", "PUT"} else b""
    response = await client.send(origin, method, b"/x", [(b"A", b"b")], body, before_send=lambda: None)
    return response, await response.read(1 << 20)


def pieces_of(answer: bytes, seed: int) -> list[bytes]:
    """The answer cut at random places; seed 0: whole, seed 1: byte by byte."""
    if seed == 0:
        return [answer]
    if seed == 1:
        return [answer[i : i + 1] for i in range(len(answer))]
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(len(answer)), k=chance.randint(1, 8)))
    return [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]


@on_both_loops
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_answer(case: Case, seed: int) -> None:
    then = "finish" if case.closes else "next"
    async with misbehaving(answering(pieces_of(case.answer, seed), then=then)) as server:
        client = UpstreamClient(SETTINGS)
        for _ in range(2):
            response, body = await exchange(client, server.origin, case.method)
            assert (response.status, body) == (case.status, case.body)
            assert response.content_length == case.length
            assert response.complete
            assert response.keep_alive is case.kept
        assert [request.peer for request in server.requests] == ([0, 0] if case.kept else [0, 1])
        assert client.stats()[server.origin].open == (1 if case.kept else 0)
        await client.close()
        assert client.stats()[server.origin] == (0, 0, 0)


@on_both_loops
async def test_names_values_order_and_repeats_are_as_sent() -> None:
    head = (
        b"HTTP/1.1 200 Very Well\r\nX-B: 2\r\nset-cookie: a\r\nX-A:\r\nSet-Cookie: b\xff\r\nContent-Length: 0\r\n\r\n"
    )
    for seed in range(4):
        async with misbehaving(answering(pieces_of(head, seed))) as server:
            client = UpstreamClient(SETTINGS)
            response, _ = await exchange(client, server.origin, "GET")
            assert response.reason == b"Very Well"
            assert response.headers == [
                (b"X-B", b"2"),
                (b"set-cookie", b"a"),
                (b"X-A", b""),
                (b"Set-Cookie", b"b\xff"),
                (b"Content-Length", b"0"),
            ]
            await client.close()


@on_both_loops
async def test_interim_heads_and_trailers_leave_no_trace() -> None:
    answer = (
        b"HTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\n"
        b"HTTP/1.1 200 Late\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    for seed in range(4):
        async with misbehaving(answering(pieces_of(answer, seed))) as server:
            client = UpstreamClient(SETTINGS)
            response, body = await exchange(client, server.origin, "GET")
            assert (response.reason, response.headers, body) == (b"Late", [(b"Transfer-Encoding", b"chunked")], b"a")
            await client.close()


@on_both_loops
async def test_many_exchanges_on_one_connection() -> None:
    """Random framings one after the other, each split at random: no answer leaks into the next."""
    chance = random.Random(20260117)
    answers, expected = [], []
    kept = [case for case in CASES if case.kept and case.method in {"GET", "POST"}]
    for number in range(60):
        case = chance.choice(kept)
        answers.append(pieces_of(case.answer, 2 + number))
        expected.append((case.status, case.body))
    async with misbehaving(answering(*answers)) as server:
        client = UpstreamClient(SETTINGS)
        seen = []
        for _ in answers:
            response, body = await exchange(client, server.origin, "GET")
            seen.append((response.status, body))
        assert seen == expected
        assert len(server.peers) == 1
        await client.close()
