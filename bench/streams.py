"""A client of many streams at once: it counts chunks, and reads as fast as they come.

Run as a program it takes a `StreamPlan`, opens the streams, and writes a line when all have begun. Then it either waits
for them to end and writes a second line, or (`hold`) keeps them open until its standard input is closed.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import uvloop

REPO = Path(__file__).parents[1]
OPENING_AT_ONCE = 100


class StreamPlan(msgspec.Struct, frozen=True):
    port: int
    request: str
    streams: int
    hold: bool = False


class StreamReport(msgspec.Struct, frozen=True):
    """`begun`: streams whose first event came. `events`: of all. `failed`: streams that were refused or broke off."""

    begun: int
    events: int
    failed: int


class _Stream(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self.begun: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        self.events = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: ")
        if self.events and not self.begun.done():
            self.begun.set_result(True)
        if b"[DONE]" in data:
            self._end(well=True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._end(well=False)

    def _end(self, *, well: bool) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_result(well)


async def run(plan: StreamPlan) -> None:
    """Open, tell, and wait for the ends."""
    loop = asyncio.get_running_loop()
    request, limit = plan.request.encode("latin-1"), asyncio.Semaphore(OPENING_AT_ONCE)
    streams: list[_Stream] = []

    async def open_one() -> None:
        async with limit:
            _, stream = await loop.create_connection(lambda: _Stream(request), "127.0.0.1", plan.port)
            streams.append(stream)
            await stream.begun

    await asyncio.gather(*(open_one() for _ in range(plan.streams)))
    _tell(streams)
    if plan.hold:
        await loop.run_in_executor(None, sys.stdin.read)
    else:
        await asyncio.wait([stream.ended for stream in streams])
    _tell(streams)


def _tell(streams: list[_Stream]) -> None:
    failed = sum(
        1 for s in streams if (s.begun.done() and not s.begun.result()) or (s.ended.done() and not s.ended.result())
    )
    report = StreamReport(len([s for s in streams if s.events]), sum(s.events for s in streams), failed)
    print(msgspec.json.encode(report).decode(), flush=True)


class Streams:
    """Streams of a client process that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def report(self) -> StreamReport:
        """The next line of the client. Raises RuntimeError if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client of the streams failed")
        return msgspec.json.decode(line, type=StreamReport)


@contextlib.contextmanager
def streaming(plan: StreamPlan, core: int) -> Iterator[Streams]:
    """Open streams from a process on `core`; they end with the block."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "bench.streams", msgspec.json.encode(plan).decode()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO)
    try:
        yield Streams(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.argv[1].encode(), type=StreamPlan)))
