"""TLS: who is trusted, what is told to whom, and where a stream really ends."""

import asyncio
import os
import ssl
from collections.abc import Sequence

import pytest
import trustme
from support.misbehaving_server import Peer, answering, eventually, misbehaving, on_both_loops, silent

from dataplane.upstream import (
    ConnectFailed,
    ConnectionLost,
    Origin,
    TlsFailed,
    UpstreamClient,
    UpstreamResponse,
    UpstreamSettings,
)

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = os.urandom(1 << 20) * 6
AUTHORITY = trustme.CA()


def server_tls(*names: str, authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


SERVER_TLS = server_tls("vendor.test", "127.0.0.1")


def trusting(**settings: float) -> UpstreamSettings:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return UpstreamSettings(tls=context, **settings)  # type: ignore[arg-type]  # numbers of either kind


async def loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def client_for(settings: UpstreamSettings) -> UpstreamClient:
    return UpstreamClient(settings, resolve=loopback)


async def post(client: UpstreamClient, port: int, body: bytes = b"", host: str = "vendor.test") -> UpstreamResponse:
    return await client.send(Origin("https", host, port), "POST", b"/", [], body, before_send=lambda: None)


@on_both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_verified_named_and_kept(version: ssl.TLSVersion) -> None:
    context = server_tls("vendor.test")
    context.minimum_version = context.maximum_version = version
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with misbehaving(answering(PLAIN), tls=context) as server:
        client = client_for(trusting())
        for _ in range(3):
            assert await (await post(client, server.port)).read(9) == b"ok"
            await asyncio.sleep(0.01)  # session tickets may arrive in between
        assert asked == ["vendor.test"]
        assert [request.peer for request in server.requests] == [0, 0, 0]
        assert server.requests[0].header(b"host") == [b"vendor.test:%d" % server.port]
        await client.close()
        await eventually(server.peers[0].gone.is_set)


@on_both_loops
async def test_an_address_in_the_certificate() -> None:
    async with misbehaving(answering(PLAIN), tls=SERVER_TLS) as server:
        client = client_for(trusting())
        assert await (await post(client, server.port, host="127.0.0.1")).read(9) == b"ok"
        await client.close()


@on_both_loops
@pytest.mark.parametrize("who", ["wrong name", "unknown authority", "authority of the system"])
async def test_whom_we_do_not_trust_gets_nothing(who: str) -> None:
    authority = trustme.CA() if who == "unknown authority" else AUTHORITY
    context = server_tls("other.test" if who == "wrong name" else "vendor.test", authority=authority)
    settings = UpstreamSettings() if who == "authority of the system" else trusting()
    calls: list[None] = []
    async with misbehaving(silent, tls=context) as server:
        client = client_for(settings)
        origin = Origin("https", "vendor.test", server.port)
        with pytest.raises(TlsFailed) as caught:
            await client.send(origin, "GET", b"/", [], b"", before_send=lambda: calls.append(None))
        assert "certificate refused" in caught.value.detail
        assert not caught.value.sent
        assert not caught.value.retryable
        assert calls == []
        assert client.stats()[origin] == (0, 0, 0)
        assert server.requests == []
        await client.close()


@pytest.mark.parametrize("weakness", ["no verification", "no host name"])
def test_verification_cannot_be_switched_off(weakness: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    if weakness == "no verification":
        context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="must verify"):
        UpstreamSettings(tls=context)


@on_both_loops
async def test_a_server_without_tls() -> None:
    async def speak(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Speak TLS to the other port\r\n\r\n")
        peer.finish()

    async with misbehaving(speak) as server:
        client = client_for(trusting())
        with pytest.raises(TlsFailed) as caught:
            await post(client, server.port)
        assert not caught.value.sent
        await client.close()


@on_both_loops
@pytest.mark.parametrize("how", ["finish", "reset"])
async def test_closing_in_the_handshake(how: str) -> None:
    async def close(peer: Peer) -> None:
        await peer.reader.read(10)
        getattr(peer, how)()

    async with misbehaving(close) as server:
        client = client_for(trusting())
        with pytest.raises(TlsFailed) as caught:
            await post(client, server.port)
        assert not caught.value.sent
        assert client.stats()[Origin("https", "vendor.test", server.port)] == (0, 0, 0)
        await client.close()


@on_both_loops
async def test_speaking_before_the_handshake() -> None:
    async def speak(peer: Peer) -> None:
        await peer.send(b"220 mail.test ESMTP\r\n")
        await peer.until_closed()

    async with misbehaving(speak) as server:
        client = client_for(trusting(connect_timeout_s=5))
        with pytest.raises(TlsFailed):
            await post(client, server.port)
        await client.close()


@on_both_loops
async def test_a_handshake_that_never_ends() -> None:
    async with misbehaving(silent) as server:
        client = client_for(trusting(connect_timeout_s=0.1))
        with pytest.raises(ConnectFailed) as caught:
            await post(client, server.port)
        assert not caught.value.sent
        await eventually(server.peers[0].gone.is_set, "no socket is left")
        await client.close()


@on_both_loops
async def test_cancelling_the_handshake() -> None:
    async with misbehaving(silent) as server:
        client = client_for(trusting())
        task = asyncio.create_task(post(client, server.port))
        await eventually(lambda: server.peers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(server.peers[0].gone.is_set, "no socket is left")
        assert client.stats()[Origin("https", "vendor.test", server.port)] == (0, 0, 0)
        await client.close()


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nto the end"


@on_both_loops
async def test_a_body_until_the_end_needs_a_proper_end() -> None:
    """A stream cut off without close_notify may have been cut by anyone."""
    for then, whole in (("finish", True), ("cut", False), ("reset", False)):
        async with misbehaving(answering(UNTIL_CLOSE, then=then), tls=SERVER_TLS) as server:
            client = client_for(trusting())
            response = await post(client, server.port)
            assert response.content_length is None
            if whole:
                assert await response.read(100) == b"to the end"
                assert response.complete
            else:
                with pytest.raises(ConnectionLost):
                    await response.read(100)
                assert not response.complete
            await client.close()


@on_both_loops
async def test_large_bodies_both_ways() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE)
    async with misbehaving(answering(answer), tls=SERVER_TLS) as server:
        client = client_for(trusting())
        for _ in range(2):
            assert await (await post(client, server.port, LARGE)).read(len(LARGE)) == LARGE
        assert [request.body == LARGE for request in server.requests] == [True, True]
        assert len(server.peers) == 1
        await client.close()


@on_both_loops
@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\nConnection: close" % len(LARGE), b"X: until close"])
async def test_a_slow_reader_gets_all_of_it_after_the_upstream_has_closed(framing: bytes) -> None:
    """Back-pressure and the end of the stream at once: nothing that was sent before close_notify is lost."""
    answer = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + LARGE
    async with misbehaving(answering(answer, then="finish"), tls=SERVER_TLS) as server:
        client = client_for(trusting(read_high_water_bytes=1000))
        response = await post(client, server.port)
        await eventually(lambda: response.buffered_bytes > 1000)
        await asyncio.sleep(0.05)
        assert response.buffered_bytes < len(LARGE) // 2, "reading has paused"
        received = bytearray()
        async for chunk in response:
            received += chunk
            await asyncio.sleep(0.001)
        assert bytes(received) == LARGE
        await client.close()


@on_both_loops
async def test_a_close_seen_while_idle() -> None:
    async with misbehaving(answering(PLAIN, then="finish"), tls=SERVER_TLS) as server:
        client = client_for(trusting())
        origin = Origin("https", "vendor.test", server.port)
        for number in range(3):
            assert await (await post(client, server.port)).read(9) == b"ok"
            await eventually(lambda: client.stats()[origin].open == 0)
            assert len(server.peers) == number + 1
        await client.close()


@on_both_loops
async def test_an_upload_that_is_cut_off() -> None:
    async def handle(peer: Peer) -> None:
        await peer.head()
        peer.cut()

    async with misbehaving(handle, tls=SERVER_TLS) as server:
        client = client_for(trusting())
        with pytest.raises(ConnectionLost) as caught:
            await post(client, server.port, LARGE)
        assert caught.value.sent
        await client.close()


@on_both_loops
async def test_an_early_answer_over_tls() -> None:
    async def handle(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        assert len(await peer.until_closed()) < len(LARGE)

    async with misbehaving(handle, tls=SERVER_TLS) as server:
        client = client_for(trusting())
        response = await post(client, server.port, LARGE)
        assert (response.status, await response.read(9)) == (413, b"no")
        assert client.stats()[Origin("https", "vendor.test", server.port)].open == 0
        await client.close()
