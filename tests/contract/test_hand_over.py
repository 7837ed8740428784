"""A node that hands over: its socket goes on without it, its connections are served until they have gone."""

import asyncio
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from support.proxy_rig import AUTH, CHARGE, FORM, ProxyRig, Received, answered, until

from dataplane.server import _Connection, listen
from dataplane.sockets import SocketError, inherited
from schemas.accounts import Cap

USD = Cap("usd", "day", 1_000_000_000_000)


@pytest.fixture
async def rig() -> AsyncIterator[ProxyRig]:
    found = await ProxyRig().start(USD)
    yield found
    await found.stop()


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


async def test_a_request_on_an_open_connection_is_served_and_is_its_last(rig: ProxyRig) -> None:
    client = await rig.connect()
    client.send("GET", "/healthz")
    assert (await client.reply()).header("Connection") is None
    leaving = asyncio.create_task(rig.listening.hand_over(idle_s=20.0, limit_s=30.0))
    await asyncio.sleep(0.05)
    client.send("GET", "/healthz")
    answer = await client.reply()
    assert (answer.status, answer.header("Connection")) == (200, "close")
    assert await client.reader.read() == b""
    await leaving


async def test_an_idle_connection_is_closed_after_its_grace_and_half_a_request_is_not(rig: ProxyRig) -> None:
    idle, busy = await rig.connect(), await rig.connect()
    busy.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    await until(lambda: len(rig.listening._server.connections) == 2)
    await asyncio.sleep(0.05)
    leaving = asyncio.create_task(rig.listening.hand_over(idle_s=0.1, limit_s=30.0))
    assert await idle.reader.read() == b""
    assert not leaving.done()
    busy.writer.write(b"\r\n")
    assert (await busy.reply()).status == 200
    await leaving


async def test_a_connection_that_was_busy_has_its_grace_after_its_answer(rig: ProxyRig) -> None:
    """The answer was begun before, and did not tell its client to connect anew: that one may send at once."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def held_back(received: Received, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        await answered(b"{}")(received, writer)

    rig.vendor.respond = held_back
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM}, CHARGE)
    await asked.wait()
    leaving = asyncio.create_task(rig.listening.hand_over(idle_s=1.0, limit_s=30.0))
    await asyncio.sleep(1.2)
    go_on.set()
    assert (await client.reply()).status == 200
    await asyncio.sleep(0.2)
    client.send("GET", "/healthz")
    answer = await client.reply()
    assert (answer.status, answer.header("Connection")) == (200, "close")
    await leaving


async def test_what_has_arrived_keeps_its_connection_open(rig: ProxyRig) -> None:
    """Bytes that the loop has not read yet: closing would reset them unseen."""
    client = await rig.connect()
    client.send("GET", "/healthz")
    await client.reply()
    server = rig.listening._server
    (connection,) = server.connections
    assert isinstance(connection, _Connection)
    assert connection.idle(math.inf)
    client.send("GET", "/healthz")
    sent_by = time.monotonic() + 5.0
    while connection.idle(math.inf):  # in this very step of the loop, so that nobody can read it
        assert time.monotonic() < sent_by
    server.close_idle()
    assert (await client.reply()).status == 200


async def test_what_never_ends_is_waited_for_so_long_and_no_longer(rig: ProxyRig) -> None:
    busy = await rig.connect()
    busy.writer.write(b"GET /healthz HTTP/1.1\r\n")
    await asyncio.sleep(0.05)
    began_s = time.monotonic()
    async with asyncio.timeout(20):
        await rig.listening.hand_over(idle_s=0.05, limit_s=0.2)
    assert time.monotonic() - began_s >= 0.2
    await busy.close()


async def test_a_socket_that_is_handed_over_stays_open_for_the_next(rig: ProxyRig, bound: socket.socket) -> None:
    """Two servers on one socket, as a predecessor and its successor."""
    handle = rig.proxy.handle
    port = bound.getsockname()[1]
    first = await listen(handle, os.urandom, "", 0, shared=True, listener=bound.dup())
    second = await listen(handle, os.urandom, "", 0, shared=True, listener=bound.dup())
    assert first.port == second.port == port
    await first.hand_over(0.0, 1.0)
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    await second.close(0.1)
    # Nobody accepts, and nobody is refused: who connects now waits for the next process.
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def test_systemd_hands_over_descriptor_three(monkeypatch: pytest.MonkeyPatch, bound: socket.socket) -> None:
    monkeypatch.setattr("dataplane.sockets.FIRST_FD", os.dup(bound.fileno()))
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "PATH": "/bin"}
    found = inherited(None, environ)
    assert found is not None
    assert found.getsockname() == bound.getsockname()
    assert environ == {"PATH": "/bin"}
    found.close()


def test_what_is_not_meant_for_this_process_is_left_alone() -> None:
    assert inherited(None, {}) is None
    assert inherited(None, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with pytest.raises(SocketError, match="one socket is expected"):
        inherited(None, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
    with pytest.raises(SocketError, match="no socket"):
        inherited(9_999, {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(SocketError, match="no TCP"):
        inherited(os.dup(datagrams.fileno()), {})
