"""What is written, when, and how often: `before_send`, hostile headers, dead connections, large bodies."""

import asyncio
import os
import socket
from typing import Any, cast

import pytest
from support.misbehaving_server import Peer, Received, answering, eventually, misbehaving, on_both_loops, silent

from dataplane.upstream import (
    RESERVED_HEADERS,
    Aborted,
    ConnectFailed,
    ConnectionLost,
    FirstByteTimeout,
    Origin,
    RequestInvalid,
    UpstreamClient,
    UpstreamError,
    UpstreamSettings,
)

SETTINGS = UpstreamSettings()
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = os.urandom(1 << 20) * 6  # several times what two sockets buffer


class Forbidden(Exception):
    pass


class Gate:
    """A `before_send` that counts its calls and forbids those listed."""

    def __init__(self, *forbidden_calls: int) -> None:
        self.calls = 0
        self.forbidden_calls = forbidden_calls

    def __call__(self) -> None:
        self.calls += 1
        if self.calls in self.forbidden_calls:
            raise Forbidden


async def post(client: UpstreamClient, origin: Origin, body: bytes = b"x", gate: Gate | None = None) -> bytes:
    response = await client.send(origin, "POST", b"/", [], body, before_send=gate or Gate())
    return await response.read(1 << 30)


WIRE = [
    ("GET", [], b"", b"GET /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"),
    ("DELETE", [(b"X", b"")], b"", b"DELETE /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX: \r\n\r\n"),
    ("POST", [], b"", b"POST /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"),
    ("PUT", [], b"", b"PUT /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"),
    ("PATCH", [], b"", b"PATCH /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"),
    ("QUERY", [], b"{}", b"QUERY /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n{}"),
    (
        "POST",
        [(b"x-KEY", b"a\tb \xff"), (b"X-Key", b"2")],
        b"\x00\r\n",
        b"POST /a?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nx-KEY: a\tb \xff\r\nX-Key: 2\r\nContent-Length: 3\r\n\r\n\x00\r\n",
    ),
]


@on_both_loops
@pytest.mark.parametrize(("method", "headers", "body", "wire"), WIRE)
async def test_bytes_on_the_wire(method: str, headers: list[tuple[bytes, bytes]], body: bytes, wire: bytes) -> None:
    received = bytearray()

    async def record(peer: Peer) -> None:
        while not received.endswith(wire[-4:]):
            received.extend(await peer.reader.read(4096))
        await peer.send(PLAIN)
        await peer.until_closed()

    async with misbehaving(record) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, method, b"/a?b=c%20d", headers, body, before_send=Gate())
        assert await response.read(9) == b"ok"
        assert bytes(received) == wire.replace(b"%d", b"%d" % server.port, 1)
        await client.close()


INVALID: list[tuple[str, bytes, list[tuple[bytes, bytes]]]] = [
    ("GET", b"/", [(b"X", b"a\r\nY: b")]),
    ("GET", b"/", [(b"X", b"a\n")]),
    ("GET", b"/", [(b"X", b"\r")]),
    ("GET", b"/", [(b"X", b"a\x00b")]),
    ("GET", b"/", [(b"X", b"\x7f")]),
    ("GET", b"/", [(b"X", b"\x1b[0m")]),
    ("GET", b"/", [(b"X: y\r\nZ", b"1")]),
    ("GET", b"/", [(b"X ", b"1")]),
    ("GET", b"/", [(b"X:", b"1")]),
    ("GET", b"/", [(b"", b"1")]),
    ("GET", b"/", [(b"\xc3\xa9", b"1")]),
    ("GET", b"/", [(b"(X)", b"1")]),
    *[("POST", b"/", [(name.title(), b"1")]) for name in sorted(RESERVED_HEADERS)],
    ("GET", b"", []),
    ("GET", b"http://evil/", []),
    ("GET", b"*", []),
    ("GET", b"/a b", []),
    ("GET", b"/a\r\nX: y", []),
    ("GET", b"/a#b", []),
    ("GET", b"/\xe9", []),
    ("GET", b"/\x00", []),
    ("", b"/", []),
    ("GE T", b"/", []),
    ("GET\r\n", b"/", []),
    ("G\u00c9T", b"/", []),
    ("CONNECT", b"/", []),
]


@pytest.mark.parametrize(("method", "target", "headers"), INVALID)
async def test_what_would_not_be_one_request_is_refused_before_connecting(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    async with misbehaving(silent) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        with pytest.raises(RequestInvalid) as caught:
            await client.send(server.origin, method, target, headers, b"", before_send=gate)
        assert not caught.value.sent
        assert not caught.value.retryable
        assert (gate.calls, server.peers) == (0, [])
        await client.close()


@on_both_loops
async def test_forbidden_sends_leave_the_connection_unused_in_the_pool() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        gate = Gate(1, 3)
        for expected_calls in (1, 2, 3, 4):
            if expected_calls in gate.forbidden_calls:
                with pytest.raises(Forbidden):
                    await post(client, server.origin, gate=gate)
            else:
                assert await post(client, server.origin, gate=gate) == b"ok"
            assert gate.calls == expected_calls
            assert client.stats()[server.origin] == (1, 1, 0)
        assert len(server.peers) == 1
        assert len(server.requests) == 2, "nothing of a forbidden request was written"
        await client.close()


@pytest.mark.interpreted
@on_both_loops
async def test_a_write_that_fails_for_our_own_fault_spoils_the_connection() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        assert await post(client, server.origin) == b"ok"
        not_bytes: Any = "text"
        with pytest.raises(TypeError):
            await post(client, server.origin, not_bytes)
        assert client.stats()[server.origin] == (0, 0, 0), "no half-begun exchange lies in the pool"
        assert await post(client, server.origin) == b"ok"
        assert [request.peer for request in server.requests] == [0, 1]
        await client.close()


@on_both_loops
async def test_nothing_runs_between_before_send_and_the_write() -> None:
    """What the loop would run next sees the request already written."""
    order: list[str] = []

    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        await post(client, server.origin)
        other_side = cast("asyncio.Transport", server.peers[0].writer.transport)
        other_side.pause_reading()  # so that what arrives stays where it can be seen
        raw: socket.socket = server.peers[0].writer.get_extra_info("socket")

        def look() -> None:
            with socket.socket(fileno=os.dup(raw.fileno())) as other_end:
                try:
                    order.append("written" if other_end.recv(1, socket.MSG_PEEK) else "closed")
                except BlockingIOError:
                    order.append("nothing")

        def look_and_go_on() -> None:
            look()
            other_side.resume_reading()

        def before_send() -> None:
            look()
            asyncio.get_running_loop().call_soon(look_and_go_on)

        response = await client.send(server.origin, "POST", b"/", [], b"x", before_send=before_send)
        assert order == ["nothing", "written"]
        assert await response.read(9) == b"ok"
        await client.close()


async def dies_on_second(peer: Peer, *, answer: bytes = b"", how: str = "finish") -> None:
    """Answers a connection's first request and closes on its second; other connections behave."""
    await peer.request()
    await peer.send(PLAIN)
    await peer.request()
    if peer.number == 0:
        await peer.send(answer)
        getattr(peer, how)()
        return
    await peer.send(PLAIN)
    await peer.until_closed()


@on_both_loops
@pytest.mark.parametrize("how", ["finish", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_safe_methods_are_sent_again_on_a_fresh_connection(method: str, how: str) -> None:
    async with misbehaving(lambda peer: dies_on_second(peer, how=how)) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        await post(client, server.origin)
        response = await client.send(server.origin, method, b"/again", [], b"", before_send=gate)
        assert response.status == 200
        assert gate.calls == 2, "every sending is asked for"
        assert [request.peer for request in server.requests] == [0, 0, 1]
        response.abort()
        await client.close()


@on_both_loops
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods_are_never_sent_twice(method: str) -> None:
    async with misbehaving(dies_on_second) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        await post(client, server.origin)
        with pytest.raises(ConnectionLost) as caught:
            await client.send(server.origin, method, b"/", [], b"", before_send=gate)
        assert caught.value.sent
        assert (gate.calls, len(server.requests)) == (1, 2)
        await client.close()


@on_both_loops
@pytest.mark.parametrize("answer", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_no_second_sending_once_a_byte_has_come_back(answer: bytes) -> None:
    async with misbehaving(lambda peer: dies_on_second(peer, answer=answer)) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        await post(client, server.origin)
        with pytest.raises(ConnectionLost):
            await client.send(server.origin, "GET", b"/", [], b"", before_send=gate)
        assert (gate.calls, len(server.requests)) == (1, 2)
        await client.close()


@on_both_loops
async def test_no_second_sending_after_a_fresh_connection_died() -> None:
    async with misbehaving(answering(b"", then="finish")) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        with pytest.raises(ConnectionLost):
            await client.send(server.origin, "GET", b"/", [], b"", before_send=gate)
        assert (gate.calls, len(server.requests)) == (1, 1)
        await client.close()


@on_both_loops
async def test_no_third_sending() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(PLAIN)
            await peer.request()

    async with misbehaving(handle) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        await post(client, server.origin)
        with pytest.raises(ConnectionLost):
            await client.send(server.origin, "GET", b"/", [], b"", before_send=gate)
        assert (gate.calls, len(server.requests)) == (2, 3)
        await client.close()


@on_both_loops
async def test_no_second_sending_after_a_time_out() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(PLAIN)
        await peer.request()
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client, gate = UpstreamClient(UpstreamSettings(first_byte_timeout_s=0.5)), Gate()
        await post(client, server.origin)
        with pytest.raises(FirstByteTimeout):
            await client.send(server.origin, "GET", b"/", [], b"", before_send=gate)
        assert (gate.calls, len(server.requests)) == (1, 2)
        await client.close()


@on_both_loops
async def test_the_second_sending_may_be_forbidden() -> None:
    async with misbehaving(dies_on_second) as server:
        client, gate = UpstreamClient(SETTINGS), Gate(2)
        await post(client, server.origin)
        with pytest.raises(Forbidden):
            await client.send(server.origin, "GET", b"/", [], b"", before_send=gate)
        assert len(server.requests) == 2
        assert client.stats()[server.origin] == (1, 1, 0), "the fresh connection waits for another"
        await client.close()


async def test_a_failed_second_connection_does_not_deny_the_first_sending() -> None:
    """The first sending may have reached the upstream, so `sent` stays true although nothing connects now."""
    addresses = ["127.0.0.1"]

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    async with misbehaving(dies_on_second) as server:
        origin = Origin("http", "vendor.test", server.port)
        client = UpstreamClient(UpstreamSettings(dns_ttl_s=1e-9), resolve=resolve)
        await post(client, origin)
        addresses[:] = ["127.0.0.77"]  # nobody listens there
        with pytest.raises(ConnectFailed) as caught:
            await client.send(origin, "GET", b"/", [], b"", before_send=Gate())
        assert caught.value.sent
        assert not caught.value.retryable
        with pytest.raises(ConnectFailed) as caught:
            await client.send(origin, "GET", b"/", [], b"", before_send=Gate())
        assert not caught.value.sent
        assert caught.value.retryable
        await client.close()


@on_both_loops
async def test_a_close_that_the_loop_has_not_seen_yet() -> None:
    """The upstream has closed an idle connection and the loop has had no turn since: nothing is sent into it."""
    async with misbehaving(answering(PLAIN)) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        assert await post(client, server.origin) == b"ok"
        other_end: socket.socket = server.peers[0].writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(other_end.fileno())) as raw:
            raw.shutdown(socket.SHUT_WR)
        assert await post(client, server.origin, gate=gate) == b"ok"
        assert (gate.calls, [request.peer for request in server.requests]) == (1, [0, 1])
        await client.close()


@on_both_loops
@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 18) + 1, 1 << 19, len(LARGE)])
async def test_bodies_of_any_size_arrive_whole(size: int) -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(SETTINGS)
        for _ in range(2):
            assert await post(client, server.origin, LARGE[:size]) == b"ok"
        assert [request.body == LARGE[:size] for request in server.requests] == [True, True]
        assert len(server.peers) == 1
        await client.close()


async def rejects(peer: Peer, answer: bytes) -> None:
    """Answers as soon as it has the head, and reads no further until the client goes."""
    head = await peer.head()
    peer.server.requests.append(head)
    await peer.send(answer)
    assert len(await peer.until_closed()) < len(LARGE)


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    ],
)
async def test_an_early_answer_is_read_and_its_connection_closed(answer: bytes) -> None:
    async with misbehaving(lambda peer: rejects(peer, answer)) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], LARGE, before_send=Gate())
        assert await response.read(9) == b"no"
        assert response.complete
        assert not response.keep_alive
        assert client.stats()[server.origin].open == 0
        await eventually(server.peers[0].gone.is_set, "the upload stops")
        await client.close()


@on_both_loops
async def test_an_early_refusal_stops_the_upload_while_its_body_still_comes() -> None:
    go_on = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 422 No\r\nContent-Length: 4\r\n\r\nno")
        await go_on.wait()
        await peer.send(b"no")
        assert len(await peer.until_closed()) < len(LARGE)

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], LARGE, before_send=Gate())
        assert response.status == 422
        assert not response.keep_alive
        go_on.set()
        assert await response.read(9) == b"nono"
        await eventually(server.peers[0].gone.is_set, "closed")
        await client.close()


@on_both_loops
async def test_both_directions_at_once() -> None:
    """An upstream that answers while it reads: neither side may wait for the other to finish."""

    async def echo(peer: Peer) -> None:
        head = await peer.head()
        (length,) = head.header(b"content-length")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % length)
        rest = int(length)
        while rest:
            data = await peer.reader.read(65536)
            rest -= len(data)
            await peer.send(data)
        peer.server.requests.append(Received(b"", [], b"", peer.number))
        await peer.until_closed()

    async with misbehaving(echo) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], LARGE, before_send=Gate())
        assert await response.read(len(LARGE)) == LARGE
        await client.close()


async def half_reader(peer: Peer) -> None:
    """Reads a little of the body and then nothing, without closing."""
    await peer.head()
    await peer.reader.read(1000)
    peer.server.requests.append(Received(b"", [], b"", peer.number))
    await peer.server.stopping.wait()


@on_both_loops
async def test_cancelling_in_the_middle_of_the_body_closes_the_connection() -> None:
    async with misbehaving(half_reader) as server:
        client, gate = UpstreamClient(SETTINGS), Gate()
        task = asyncio.create_task(post(client, server.origin, LARGE, gate))
        await eventually(lambda: server.requests, "the body has begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.calls == 1
        assert client.stats()[server.origin].open == 0
        assert len(await server.peers[0].until_closed()) < len(LARGE)
        await client.close()


@on_both_loops
async def test_aborting_an_answer_aborts_the_half_sent_body() -> None:
    async def handle(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await peer.server.stopping.wait()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        response = await client.send(server.origin, "POST", b"/", [], LARGE, before_send=Gate())
        response.abort()
        response.abort()
        with pytest.raises(Aborted):
            await response.read_chunk()
        assert client.stats()[server.origin].open == 0
        assert len(await server.peers[0].until_closed()) < len(LARGE)
        await client.close()


@on_both_loops
async def test_an_upload_that_stalls_times_out() -> None:
    async with misbehaving(half_reader) as server:
        client = UpstreamClient(UpstreamSettings(first_byte_timeout_s=0.2))
        with pytest.raises(FirstByteTimeout) as caught:
            await post(client, server.origin, LARGE)
        assert caught.value.sent
        assert client.stats()[server.origin].open == 0
        await client.close()


@on_both_loops
async def test_a_reset_in_the_middle_of_the_body() -> None:
    async def handle(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    async with misbehaving(handle) as server:
        client = UpstreamClient(SETTINGS)
        with pytest.raises(ConnectionLost) as caught:
            await post(client, server.origin, LARGE)
        assert caught.value.sent
        await client.close()


@on_both_loops
async def test_proxy_variables_are_not_looked_at() -> None:
    patch = pytest.MonkeyPatch()
    with patch.context() as environment:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            environment.setenv(name, "http://127.0.0.1:9")
        async with misbehaving(answering(PLAIN)) as server:
            client = UpstreamClient(SETTINGS)
            assert await post(client, server.origin) == b"ok"
            await client.close()


async def test_errors_and_their_texts_hold_no_secret() -> None:
    secret = b"sk_live_do_not_show"
    async with misbehaving(answering(b"HTTP/1.1 999999\r\n\r\n")) as server:
        client = UpstreamClient(SETTINGS)
        for headers in ([(b"Authorization", secret)], [(b"Authorization", secret + b"\n")]):
            with pytest.raises(UpstreamError) as caught:
                await client.send(server.origin, "POST", b"/" + secret, headers, secret, before_send=Gate())
            shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
            assert secret.decode() not in shown
        await client.close()
