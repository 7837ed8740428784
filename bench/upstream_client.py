"""CPU per request of the upstream client beside aiohttp's ClientSession, in one run.

    python bench/upstream_client.py [--rounds 6] [--requests 2000] [--concurrency 32] [--loop uvloop|asyncio]

A child process serves a fixed answer of 442 bytes to every request, with as little work as possible. This process
sends POSTs of 325 bytes over kept connections, the two clients in turn, round by round, and measures its own CPU time,
which is what a proxy would spend. Machines differ and drift: read the ratio, not the microseconds. Bounded: at most
`rounds * requests * 2` requests and about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from typing import cast

import aiohttp
import uvloop

from dataplane.upstream import Origin, UpstreamClient, UpstreamSettings

_BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 270 + b'"}]}'
_ANSWER_BODY = b'{"id":"r","choices":[{"message":{"content":"' + b"y" * 250 + b'"}}]}'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 01 Jan 2026 00:00:00 GMT\r\n"
    b"X-Request-Id: 0123456789abcdef\r\nServer: bench\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER_BODY)
) + _ANSWER_BODY
_HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"Authorization", b"Bearer sk_test_0123456789"),
    (b"Accept", b"*/*"),
    (b"User-Agent", b"bench/1"),
    (b"Idempotency-Key", b"0123456789abcdef"),
]
_MAX_REQUESTS = 200_000

OneRequest = Callable[[], Awaitable[None]]


class _Server(asyncio.Protocol):
    """Answers each complete request; it knows the one shape that this benchmark sends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0 and len(self._held) >= end + 4 + len(_BODY):
            self._held = self._held[end + 4 + len(_BODY) :]
            self._transport.write(_ANSWER)


def _serve(pipe: Pipe) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)  # until the parent says stop, or is gone
        server.close()

    try:
        uvloop.run(run())
    except EOFError:
        return


def _lean(client: UpstreamClient, origin: Origin) -> OneRequest:
    def before_send() -> None:
        return None

    async def one() -> None:
        response = await client.send(origin, "POST", b"/v1/chat", _HEADERS, _BODY, before_send=before_send)
        assert len(await response.read_chunk()) == len(_ANSWER_BODY)

    return one


def _aiohttp(session: aiohttp.ClientSession, url: str) -> OneRequest:
    headers = {name.decode(): value.decode() for name, value in _HEADERS}

    async def one() -> None:
        async with session.post(url, data=_BODY, headers=headers, allow_redirects=False) as response:
            assert len(await response.read()) == len(_ANSWER_BODY)

    return one


async def _cpu_us(one: OneRequest, requests: int, concurrency: int) -> float:
    """CPU microseconds of this process per request, user and system."""

    async def worker() -> None:
        for _ in range(requests // concurrency):
            await one()

    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent_s * 1e6 / (requests // concurrency * concurrency)


async def _measure(port: int, options: argparse.Namespace) -> None:
    origin, _ = Origin.parse(f"http://127.0.0.1:{port}")
    client = UpstreamClient(UpstreamSettings())
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as session:
        contenders = {"lean": _lean(client, origin), "aiohttp": _aiohttp(session, f"http://127.0.0.1:{port}/v1/chat")}
        costs: dict[str, list[float]] = {name: [] for name in contenders}
        for round_number in range(options.rounds + 1):
            for name, one in contenders.items():
                cost = await _cpu_us(one, options.requests, options.concurrency)
                if round_number:  # the first round warms up
                    costs[name].append(cost)
    await client.close()
    ratios = [lean / other for lean, other in zip(costs["lean"], costs["aiohttp"], strict=True)]
    for name, values in costs.items():
        spread = f"(from {min(values):.1f} to {max(values):.1f})"
        print(f"{name:8} {statistics.median(values):7.1f} us CPU per request  {spread}")
    print(f"lean / aiohttp: {statistics.median(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per request: upstream client beside aiohttp.ClientSession")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    options = parser.parse_args()
    if not 0 < options.rounds * options.requests <= _MAX_REQUESTS:
        sys.exit(f"at most {_MAX_REQUESTS} requests for each client")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there,), name="bench-upstream", daemon=True)
    child.start()
    try:
        run = uvloop.run if options.loop == "uvloop" else asyncio.run
        run(_measure(here.recv(), options))
    finally:
        here.send("stop")
        child.join(5)


if __name__ == "__main__":
    main()
