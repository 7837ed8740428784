"""A proxy on loopback: real HTTP in front, a scripted vendor behind, a scripted control plane beside."""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from support.scripted_control import ScriptedControl

from dataplane.governor import Governor
from dataplane.metrics import Metrics
from dataplane.proxy import Proxy
from dataplane.server import Listening, listen
from dataplane.upstreams import Destinations
from events.messaging.clock import SystemClock
from events.types import RequestSettled
from schemas.accounts import Cap
from schemas.fx import build_fx
from schemas.policy import Record
from schemas.price_file import packaged_text, parse_prices
from schemas.settings import FxRates, Timing, Upstream

TOKEN = "rfk_" + "k" * 43
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
CREDENTIAL = "sk_live_" + "c" * 24
AUTH = {"Authorization": f"Bearer {TOKEN}"}
CHARGE = b"amount=500&currency=usd&source=tok_visa"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

_PRICES = parse_prices(packaged_text())


class Received:
    """One request as the vendor got it."""

    def __init__(self, line: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.method, self.target, _ = line.split(" ")
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        return next((value for got, value in self.headers if got.lower() == name.lower()), None)


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answered(body: bytes, status: str = "200 OK", **headers: str) -> Respond:
    """A vendor that answers everything alike, with its length announced."""

    async def respond(_received: Received, writer: asyncio.StreamWriter) -> None:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **given}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)

    return respond


class Vendor:
    """A vendor of which every byte is the test's. `lines`: what it received."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.respond: Respond = answered(b"{}")
        self.lost: list[str] = []
        self.reader: asyncio.StreamReader
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer), name="vendor")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in head[1:] if line]
                length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
                received = Received(head[0], headers, await reader.readexactly(length))
                self.received.append(received)
                await self.respond(received, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.lost.append(type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


class Reply:
    """One answer as the client got it. `ended`: its framing was complete."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes, *, ended: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.ended = ended

    def header(self, name: str) -> str | None:
        return next((value for got, value in self.headers if got.lower() == name.lower()), None)

    @property
    def refusal(self) -> str:
        return self.header("X-Ringfence-Refusal") or ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to the proxy, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        fields = {"Host": "gateway", **(headers or {})}
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines[1:] if line]
        return int(lines[0].split(" ")[1]), headers

    async def chunk(self) -> bytes | None:
        """The next chunk; b"" for the last, None if the connection ended before it."""
        try:
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def reply(self, *, bodiless: bool = False) -> Reply:
        status, headers = await self.head()
        found = {name.lower(): value for name, value in headers}
        if bodiless or status in {204, 304}:
            return Reply(status, headers, b"", ended=True)
        if found.get("transfer-encoding") == "chunked":
            body = b""
            while part := await self.chunk():
                body += part
            return Reply(status, headers, body, ended=part == b"")
        if "content-length" in found:
            try:
                return Reply(status, headers, await self.reader.readexactly(int(found["content-length"])), ended=True)
            except asyncio.IncompleteReadError as cut:
                return Reply(status, headers, cut.partial, ended=False)
        return Reply(status, headers, await self.reader.read(), ended=True)


class ProxyRig:
    """Everything around one proxy. `start` before use, `stop` at the end."""

    def __init__(self, timing: Timing | None = None, **settings: Any) -> None:
        self.control = ScriptedControl()
        self.vendor = Vendor()
        self.clock = SystemClock()
        self.metrics = Metrics()
        self._timing = timing or Timing()
        self._settings = settings
        self._clients: list[Client] = []
        self.listening: Listening

    async def start(self, *caps: Cap, **key: Any) -> "ProxyRig":
        url = await self.vendor.start()
        await self.control.start()
        control = self.control
        records: list[Record] = [control.key(tokens=(DIGEST,), **key), control.agent(owner="finance")]
        control.record(*records, *([control.caps("key", "vk_1", *caps)] if caps else []))
        bus, port = control.bus.client("n1"), control.port()
        self.governor = Governor(bus, port, self.clock, slot="n1", timing=self._timing, draw=os.urandom)
        upstreams = {
            "stripe": Upstream(adapter="stripe", base_url=url, credential=CREDENTIAL, **self._settings),
            "openai": Upstream(adapter="openai", base_url=url, credential=CREDENTIAL, **self._settings),
            "hosted": Upstream(adapter="stripe", base_url=url, credential=CREDENTIAL, host="pay.gateway.local"),
        }
        self.destinations = Destinations(upstreams, _PRICES, build_fx(FxRates()))
        self.proxy = Proxy(self.governor, self.destinations, self.clock, self.metrics, os.urandom, "n1")
        await self.governor.start()
        await until(lambda: self.governor.ready)
        self.listening = await listen(self.proxy.handle, os.urandom, "127.0.0.1", 0, shared=True, door=self.proxy.door)
        return self

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        await self.listening.close(0.1)
        await self.governor.close()
        await self.destinations.close()
        await self.vendor.stop()
        await self.control.stop()
        assert not self.governor.defect.done()
        assert self.metrics.defects == 0
        assert self.destinations.by_name["stripe"].lane.in_flight == 0
        assert len(self.governor.node.inflight) == 0

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.listening.port))
        self._clients.append(client)
        return client

    async def call(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            client.send(method, target, headers, body)
            return await client.reply(bodiless=method == "HEAD")
        finally:
            await client.close()

    async def charge(self, **headers: str) -> Reply:
        fields = {**AUTH, **FORM, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.call("POST", "/stripe/v1/charges", fields, CHARGE)

    async def settled(self, count: int = 1) -> list[RequestSettled]:
        await until(lambda: len(self.control.of(RequestSettled)) >= count)
        found: list[RequestSettled] = self.control.of(RequestSettled)
        return found


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)
