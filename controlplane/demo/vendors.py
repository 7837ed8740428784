"""Wiring: two simulated vendors on two addresses, one set of books."""

import asyncio
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from controlplane.demo.admin import Admin, is_admin
from controlplane.demo.books import LOG_LIMIT, Books, Journal, RequestLog
from controlplane.demo.faults import FaultTable
from controlplane.demo.ids import Ids
from controlplane.demo.openai_sim.vendor import OpenAiVendor
from controlplane.demo.shell import Shared, VendorShell
from controlplane.demo.stripe_sim.vendor import StripeVendor
from controlplane.demo.wire import Clock

SYSTEM_CLOCK = Clock(mono_ns=time.monotonic_ns, wall_ns=time.time_ns)
_BACKLOG = 1_024  # connections waiting to be accepted while a test starts all its clients at once
_KEEP_ALIVE_S = 75.0
_DRAIN_S = 2.0  # for answers being written when the demo closes


def new_stripe_key() -> str:
    return f"sk_test_demo{secrets.token_hex(16)}"


def new_openai_key() -> str:
    return f"sk-proj-demo{secrets.token_hex(20)}"


class DemoVendors:
    """Simulated Stripe and OpenAI.

    Keys that are not given are drawn anew. With a `seed` (and a fixed `clock`) the same requests in the same order
    get the same answers, byte for byte; without one, ids differ from start to start. `log_file` takes one JSON line
    per request (see `controlplane.demo.books`). After `start`, `stripe_url` and `openai_url` are the origins.

        async with DemoVendors(seed=1) as vendors:
            stripe.StripeClient(vendors.stripe_key, base_addresses={"api": vendors.stripe_url})
    """

    def __init__(
        self,
        *,
        stripe_key: str | None = None,
        openai_key: str | None = None,
        seed: int | None = None,
        host: str = "127.0.0.1",
        stripe_port: int = 0,
        openai_port: int = 0,
        log_file: Path | None = None,
        log_limit: int = LOG_LIMIT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.stripe_key = stripe_key or new_stripe_key()
        self.openai_key = openai_key or new_openai_key()
        self._host = host
        self._ports = (stripe_port, openai_port)
        self._seed = secrets.randbits(64) if seed is None else seed
        self._log_file = log_file
        self._log_limit = log_limit
        self._clock = clock
        self._journal: Journal | None = None
        self._servers: list[tuple[web.Server, asyncio.Server]] = []
        self.stripe_url = ""
        self.openai_url = ""

    def __repr__(self) -> str:
        return f"DemoVendors(stripe={self.stripe_url!r}, openai={self.openai_url!r})"

    async def start(self) -> None:
        """Open the log file and listen. Raises OSError if a port or the file cannot be had."""
        seed = self._seed.to_bytes(16, "big", signed=True)
        self._journal = Journal(self._log_file) if self._log_file else None
        self.log = RequestLog(self._log_limit, self._journal)
        self.books = Books()
        self.faults = FaultTable(self._seed)
        self._shared = Shared(log=self.log, books=self.books, faults=self.faults, clock=self._clock)
        self.stripe = StripeVendor(self.stripe_key, seed + b"stripe")
        self.openai = OpenAiVendor(self.openai_key, seed + b"openai")
        ids = Ids(seed + b"requests")
        admin = Admin(self._shared, self.stripe, self.reset)
        try:
            stripe_shell = VendorShell(self.stripe, self.stripe_key, ids, self._shared)
            openai_shell = VendorShell(self.openai, self.openai_key, ids, self._shared)
            self.stripe_url = await self._listen(stripe_shell, admin, self._ports[0])
            self.openai_url = await self._listen(openai_shell, admin, self._ports[1])
        except OSError:
            await self.close()
            raise

    async def _listen(self, shell: VendorShell, admin: Admin, port: int) -> str:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await (admin.handle(request) if is_admin(request) else shell.handle(request))

        server = web.Server(handle, access_log=None, auto_decompress=False, keepalive_timeout=_KEEP_ALIVE_S)
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(server, self._host, port, backlog=_BACKLOG)
        self._servers.append((server, listener))
        return f"http://{self._host}:{listener.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        """Forget objects, log entries, books, faults and forbidden texts. Ids, `seq` and the log file go on."""
        self.stripe.reset()
        self.openai.reset()
        self.log.reset()
        self.books.reset()
        self.faults.clear()
        self._shared.forbidden = ()

    async def close(self) -> None:
        """Stop listening, let answers that are being written finish, cut the rest."""
        self._shared.closing.set()
        for _, listener in self._servers:
            listener.close()
        for server, _ in self._servers:
            server.pre_shutdown()  # idle connections go at once, only answers are waited for
        for server, listener in self._servers:
            await server.shutdown(_DRAIN_S)
            await listener.wait_closed()
        self._servers.clear()
        if self._journal:
            self._journal.close()
            self._journal = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
