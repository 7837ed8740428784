"""A TCP relay that can be cut, silenced or slowed: a network between one process and one NATS server.

| state | what the two ends notice |
|---|---|
| open | nothing |
| silent, in one or both directions | nothing at all: bytes wait, and arrive when it is open again, however late |
| slow | every chunk is late |
| cut | connections are reset, new ones too |
"""

import asyncio
import contextlib
import socket
import struct

CHUNK_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)


class Gate:
    """One direction of a relay. `delay_s` holds up each chunk."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.delay_s = 0.0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()
        self.delay_s = 0.0

    async def passed(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._open.wait()


class Relay:
    """Listens on a port of its own and passes everything on to `host:port`. `up` is towards the server."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut = False
        self.up, self.down = Gate(), Gate()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Reset everything and listen no more."""
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        self._cut = True
        for writer in tuple(self._writers):
            _reset(writer)

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        if up:
            self.up.shut()
        if down:
            self.down.shut()

    def slow(self, delay_s: float) -> None:
        self.up.delay_s = self.down.delay_s = delay_s

    def heal(self) -> None:
        self._cut = False
        self.up.open()
        self.down.open()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            _reset(writer)
            return
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._to)
                self._writers.add(far_writer)
                try:
                    await self._carry(reader, writer, far_reader, far_writer)
                finally:
                    self._writers.discard(far_writer)
                    _reset(far_writer)
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        """Until either side ends; NATS uses no half-closed connections."""
        ways = {
            asyncio.create_task(_pump(reader, far_writer, self.up)),
            asyncio.create_task(_pump(far_reader, writer, self.down)),
        }
        self._tasks |= ways
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            self._tasks -= ways


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            await gate.passed()
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a firewall would: with a reset, whatever is still on its way."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
