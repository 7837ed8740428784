"""Connections: how many, who waits, when they expire, and that none is ever lost."""

import asyncio
import os
import random
import socket
from collections.abc import Sequence
from functools import partial

import pytest
from support.misbehaving_server import Peer, answering, eventually, misbehaving, on_both_loops, silent

from dataplane.upstream import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    Origin,
    PoolFull,
    UpstreamClient,
    UpstreamResponse,
    UpstreamSettings,
)

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def nothing() -> None:
    """The `before_send` of requests that may always go."""


async def get(client: UpstreamClient, origin: Origin, target: bytes = b"/") -> bytes:
    response = await client.send(origin, "POST", target, [], b"", before_send=nothing)
    return await response.read(1 << 20)


def has_length(items: list[int], length: int) -> bool:
    return len(items) == length


class Gated:
    """A handler whose answers wait until the test lets them go, one by one."""

    def __init__(self) -> None:
        self.arrived = 0
        self._open = asyncio.Semaphore(0)

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.arrived += 1
            await self._open.acquire()
            await peer.send(PLAIN)

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self._open.release()


@on_both_loops
async def test_connections_are_bounded_and_the_line_is_fair() -> None:
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=2, max_waiting=3))
        done: list[int] = []

        async def one(number: int) -> None:
            await get(client, server.origin, b"/%d" % number)
            done.append(number)

        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0)
        await eventually(lambda: handler.arrived == 2)
        assert client.stats()[server.origin] == (2, 0, 3)
        with pytest.raises(PoolFull) as caught:
            await get(client, server.origin)
        assert not caught.value.sent
        assert caught.value.retryable
        for finished in range(1, 6):
            handler.release()
            await eventually(partial(has_length, done, finished))
        assert [request.line.split()[1] for request in server.requests[2:]] == [b"/2", b"/3", b"/4"]
        assert len(server.peers) == 2
        assert client.stats()[server.origin] == (2, 2, 0)
        await asyncio.gather(*tasks)
        await client.close()


@on_both_loops
async def test_waiting_ends_in_pool_full() -> None:
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=1, acquire_timeout_s=0.05))
        first = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: handler.arrived == 1)
        with pytest.raises(PoolFull) as caught:
            await get(client, server.origin)
        assert not caught.value.sent
        assert client.stats()[server.origin] == (1, 0, 0)
        handler.release()
        assert await first == b"ok"
        await client.close()


@on_both_loops
@pytest.mark.parametrize("answer", [PLAIN, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b""])
async def test_a_cancelled_waiter_passes_its_turn_on(answer: bytes) -> None:
    """Cancelled in the same turn of the loop in which its turn came: the next in line gets it, kept or fresh."""
    go_on = asyncio.Event()

    async def handle(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.line.startswith(b"POST /first"):
                await go_on.wait()
                await peer.send(answer)
                if not answer:
                    return
            else:
                await peer.send(PLAIN)

    async with misbehaving(handle) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=1))
        first = asyncio.create_task(get(client, server.origin, b"/first"))
        await eventually(lambda: server.requests)
        second = asyncio.create_task(get(client, server.origin, b"/second"))
        third = asyncio.create_task(get(client, server.origin, b"/third"))
        await eventually(lambda: client.stats()[server.origin].waiting == 2)
        go_on.set()
        await eventually(lambda: client.stats()[server.origin].waiting < 2 and (second.cancel() or True))
        assert await third == b"ok"
        await asyncio.gather(first, second, return_exceptions=True)
        assert client.stats()[server.origin].open <= 1
        assert client.stats()[server.origin].waiting == 0
        await client.close()


@on_both_loops
async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_not_used() -> None:
    """Answer and end of the stream arrive together; the waiter gets the connection between the two."""
    go_on = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await go_on.wait()
            own_end: socket.socket = peer.writer.get_extra_info("socket")
            with socket.socket(fileno=os.dup(own_end.fileno())) as raw:
                raw.send(PLAIN)
                raw.shutdown(socket.SHUT_WR)
        else:
            await peer.send(PLAIN)
        await peer.until_closed()

    async with misbehaving(handle) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=1))
        first = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: server.requests)
        second = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: client.stats()[server.origin].waiting == 1)
        go_on.set()
        assert (await first, await second) == (b"ok", b"ok")
        assert [request.peer for request in server.requests] == [0, 1]
        await client.close()


@on_both_loops
async def test_a_second_sending_in_a_full_pool_still_uses_a_fresh_connection() -> None:
    """While it waits in line the request is offered a connection that has carried others, and does not take it."""
    go_on = asyncio.Event()

    async def handle(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.line.startswith(b"GET") and peer.number == 0:
                await go_on.wait()
                return
            await peer.send(PLAIN)

    async with misbehaving(handle) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=1))
        assert await get(client, server.origin) == b"ok"
        again = asyncio.create_task(client.send(server.origin, "GET", b"/", [], b"", before_send=nothing))
        await eventually(lambda: len(server.requests) == 2)
        other = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: client.stats()[server.origin].waiting == 1)
        go_on.set()
        assert await other == b"ok"
        assert await (await again).read(9) == b"ok"
        assert [(request.line[:4], request.peer) for request in server.requests] == [
            (b"POST", 0),
            (b"GET ", 0),
            (b"POST", 1),
            (b"GET ", 2),
        ]
        await client.close()


@on_both_loops
async def test_idle_connections_expire() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings(keepalive_s=0.05))
        assert await get(client, server.origin) == b"ok"
        await eventually(lambda: client.stats()[server.origin].open == 0, "expiry")
        await eventually(server.peers[0].gone.is_set, "the server sees it")
        assert await get(client, server.origin) == b"ok"
        assert len(server.peers) == 2
        await client.close()


async def test_an_expired_connection_is_not_used_even_if_no_timer_has_run() -> None:
    """The machine was suspended: the clock has moved and the loop has not."""
    now_s = [1000.0]
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings(keepalive_s=30.0), clock=lambda: now_s[0])
        for passed_s, connections in [(0.0, 1), (29.0, 1), (29.0, 1), (30.0, 2), (3600.0, 3)]:
            now_s[0] += passed_s
            assert await get(client, server.origin) == b"ok"
            assert len(server.peers) == connections
            assert client.stats()[server.origin] == (1, 1, 0)
        await client.close()


async def test_the_upstreams_own_idle_limit_is_obeyed() -> None:
    now_s = [0.0]
    answer = PLAIN.replace(b"\r\n", b"\r\nKeep-Alive: timeout=5\r\n", 1)
    async with misbehaving(answering(answer)) as server:
        client = UpstreamClient(UpstreamSettings(keepalive_s=30.0), clock=lambda: now_s[0])
        for passed_s, connections in [(0.0, 1), (3.9, 1), (4.1, 2)]:
            now_s[0] += passed_s
            assert await get(client, server.origin) == b"ok"
            assert len(server.peers) == connections
        await client.close()


@on_both_loops
async def test_the_most_recently_used_connection_comes_first() -> None:
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings())
        tasks = [asyncio.create_task(get(client, server.origin)) for _ in range(3)]
        await eventually(lambda: handler.arrived == 3)
        handler.release(3)
        await asyncio.gather(*tasks)
        handler.release(10)
        before = len(server.requests)
        for _ in range(10):
            await get(client, server.origin)
        assert len({request.peer for request in server.requests[before:]}) == 1
        await client.close()


@on_both_loops
async def test_cancellation_anywhere_leaks_nothing() -> None:
    """Requests are cancelled after a random number of turns: resolving, dialling, in line, sending, reading."""
    seed = 7
    chance = random.Random(seed)
    answers = [
        PLAIN,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ]

    async def resolve(host: str, port: int) -> Sequence[str]:
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        return ["127.0.0.1"]

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            for _ in range(chance.randint(0, 5)):
                await asyncio.sleep(0)
            answer = chance.choice(answers)
            cut = chance.randint(0, len(answer))
            await peer.send(answer[:cut], answer[cut:])

    async with misbehaving(handle) as server:
        origin = Origin("http", "vendor.test", server.port)
        client = UpstreamClient(UpstreamSettings(max_connections=3, dns_ttl_s=0.001), resolve=resolve)

        async def one() -> bytes:
            response = await client.send(origin, "POST", b"/", [], b"body", before_send=nothing)
            with response:
                return await response.read(100)

        answered = cancelled = 0
        for _ in range(60):
            tasks = [asyncio.create_task(one()) for _ in range(8)]
            for _ in range(chance.randint(0, 12)):
                await asyncio.sleep(0)
            for task in chance.sample(tasks, 5):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if result == b"ok":
                    answered += 1
                else:
                    assert isinstance(result, asyncio.CancelledError), f"seed {seed}: {result!r}"
                    cancelled += 1
            stats = client.stats()[origin]
            assert stats.waiting == 0, f"seed {seed}"
            assert stats.open == stats.idle <= 3, f"seed {seed}: {stats}"
        await eventually(lambda: len(client._watchdog._members) == client.stats()[origin].open, "none forgotten")
        assert answered > 100, f"seed {seed}"
        assert cancelled > 100, f"seed {seed}"
        await client.close()
        assert client.stats()[origin] == (0, 0, 0)


@on_both_loops
async def test_cancelling_while_the_answer_is_being_handed_over() -> None:
    """The answer is complete and its connection already serves another request when the cancellation lands: the
    other request must not be hurt."""
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=1))
        first = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: handler.arrived == 1)
        second = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: client.stats()[server.origin].waiting == 1)
        handler.release(2)
        # The line is empty in the very turn in which the first answer arrived.
        while client.stats()[server.origin].waiting:
            await asyncio.sleep(0)
        first.cancel()
        assert await second == b"ok"
        await asyncio.gather(first, return_exceptions=True)
        assert len(server.peers) == 1
        await client.close()


# Connecting.


@on_both_loops
async def test_refused_and_unresolvable() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host == "none.test":
            raise OSError("no such name")
        return [] if host == "empty.test" else ["127.0.0.1", "127.0.0.2"]

    async with misbehaving(silent) as server:
        dead_port = server.port
    client = UpstreamClient(UpstreamSettings(), resolve=resolve)
    for host in ("none.test", "empty.test", "refused.test", "127.0.0.1"):
        with pytest.raises(ConnectFailed) as caught:
            await get(client, Origin("http", host, dead_port))
        assert not caught.value.sent
        assert caught.value.retryable
        assert host in str(caught.value)
        assert client.stats()[Origin("http", host, dead_port)] == (0, 0, 0)
    await client.close()


@on_both_loops
async def test_the_address_that_answers_is_found_and_remembered() -> None:
    lookups: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        lookups.append(host)
        return ["127.0.0.2", "127.0.0.3", "127.0.0.1"]

    async with misbehaving(answering(PLAIN.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))) as server:
        origin = Origin("http", "vendor.test", server.port)
        now_s = [0.0]
        client = UpstreamClient(UpstreamSettings(dns_ttl_s=30), clock=lambda: now_s[0], resolve=resolve)
        for passed_s, expected in [(0, 1), (29, 1), (2, 2)]:
            now_s[0] += passed_s
            assert await get(client, origin) == b"ok"
            assert len(lookups) == expected
        await client.close()


@on_both_loops
async def test_many_requests_share_one_lookup_and_survive_the_first_ones_cancellation() -> None:
    lookups: list[str] = []
    go_on = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        lookups.append(host)
        await go_on.wait()
        return ["127.0.0.1"]

    async with misbehaving(answering(PLAIN)) as server:
        origin = Origin("http", "vendor.test", server.port)
        client = UpstreamClient(UpstreamSettings(), resolve=resolve)
        tasks = [asyncio.create_task(get(client, origin)) for _ in range(5)]
        await eventually(lambda: lookups)
        tasks[0].cancel()
        await asyncio.sleep(0)
        go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1:] == [b"ok"] * 4
        assert len(lookups) == 1
        await client.close()


async def test_the_real_resolver() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings())
        assert await get(client, Origin("http", "localhost", server.port)) == b"ok"
        assert server.requests[0].header(b"host") == [b"localhost:%d" % server.port]
        await client.close()


@on_both_loops
async def test_connecting_times_out() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    client = UpstreamClient(UpstreamSettings(connect_timeout_s=0.05), resolve=resolve)
    origin = Origin("http", "slow.test", 80)
    with pytest.raises(ConnectFailed) as caught:
        await get(client, origin)
    assert not caught.value.sent
    assert client.stats()[origin] == (0, 0, 0)
    await client.close()


# Closing.


@on_both_loops
async def test_close_ends_everything_and_nothing_starts_afterwards() -> None:
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings(max_connections=2))
        busy = [asyncio.create_task(get(client, server.origin)) for _ in range(2)]
        await eventually(lambda: handler.arrived == 2)
        waiting = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: client.stats()[server.origin].waiting == 1)
        await client.close()
        first, second, third = await asyncio.gather(*busy, waiting, return_exceptions=True)
        for lost in (first, second):
            assert isinstance(lost, ConnectionLost)
            assert lost.sent
        assert isinstance(third, ClientClosed)
        assert not third.sent
        with pytest.raises(ClientClosed):
            await get(client, server.origin)
        assert client.stats()[server.origin] == (0, 0, 0)
        await client.close()


@on_both_loops
async def test_close_with_grace_lets_answers_end() -> None:
    handler = Gated()
    async with misbehaving(handler) as server:
        client = UpstreamClient(UpstreamSettings(keepalive_s=1000))
        task = asyncio.create_task(get(client, server.origin))
        await eventually(lambda: handler.arrived == 1)
        closing = asyncio.create_task(client.close(grace_s=1000))
        await asyncio.sleep(0)
        with pytest.raises(ClientClosed):
            await get(client, server.origin)
        handler.release()
        assert await task == b"ok"
        await closing
        await eventually(server.peers[0].gone.is_set)
        assert client.stats()[server.origin] == (0, 0, 0)


@on_both_loops
async def test_close_while_dialling() -> None:
    go_on = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        await go_on.wait()
        return ["127.0.0.1"]

    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings(), resolve=resolve)
        origin = Origin("http", "vendor.test", server.port)
        task = asyncio.create_task(get(client, origin))
        await eventually(lambda: origin in client.stats())
        await client.close()
        go_on.set()
        with pytest.raises(ClientClosed) as caught:
            await task
        assert not caught.value.sent
        assert client.stats()[origin] == (0, 0, 0)


@on_both_loops
async def test_a_dial_that_succeeds_while_closing() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # close() has begun
            return ["127.0.0.1"]
        return []

    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings(), resolve=resolve)
        origin = Origin("http", "vendor.test", server.port)
        task = asyncio.create_task(get(client, origin))
        await eventually(lambda: origin in client.stats())
        await client.close(grace_s=1000)
        with pytest.raises(ClientClosed) as caught:
            await task
        assert not caught.value.sent
        assert server.requests == []


@on_both_loops
async def test_an_answer_that_is_complete_outlives_the_client() -> None:
    async with misbehaving(answering(PLAIN)) as server:
        client = UpstreamClient(UpstreamSettings())
        response: UpstreamResponse = await client.send(server.origin, "GET", b"/", [], b"", before_send=nothing)
        await eventually(lambda: response.complete)
        await client.close()
        assert await response.read(9) == b"ok"
