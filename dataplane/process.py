"""One proxy process: wired here, started, reloaded, drained.

| signal | what happens |
|---|---|
| SIGTERM | hands over: accepts no connection, serves those that are there until they have gone; then as SIGINT |
| SIGINT | drains: takes nothing new, lets open requests end, flushes events, returns leases, ends |
| a second one | ends at once, as a crash would |
| SIGHUP | reads its settings file again and takes over new credentials and certificates (dataplane.reload) |
| its parent's end | as SIGINT |

A background task that fails ends the process with exit code 1: a node that does not follow its policy must not serve.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataplane.governor import Governor
from dataplane.metrics import Metrics
from dataplane.node_settings import NodeSettings
from dataplane.own_port import own_port
from dataplane.proxy import Proxy
from dataplane.randomness import Randomness
from dataplane.reload import Reloader
from dataplane.server import MAX_CONNECTIONS, Listening, listen
from dataplane.upstreams import Destinations
from events.messaging.clock import SystemClock
from events.messaging.connection import NatsConnection, connect
from events.tls import TlsContext, server_tls
from schemas.fx import build_fx
from schemas.price_file import packaged_text, parse_prices
from schemas.prices import PriceList
from schemas.settings import Settings, Timing

STARTUP_S = 5.0
"""A node that is not ready by then listens all the same, and says in its refusals what is missing."""

NATS_PATIENCE_S = 30.0
POLL_S = 0.05
PARENT_POLL_S = 0.5
CLOSE_S = 2.0
"""After the drain connections get this long to take their last bytes."""

MAX_FILES = 65_536
"""More connections than one process can serve."""
SPARE_FILES = 256
"""For the log, the process's own files, and connections that are just being made."""

_log = logging.getLogger(__name__)


class Defect(Exception):
    """A background task failed; the message names it."""


async def run(path: Path, node: NodeSettings, version: str, listener: socket.socket | None = None) -> None:
    """Serve until a signal, or until the parent has gone. `listener`: handed over by whoever started the process.

    Raises Defect, ValueError for bad settings, OSError if the port cannot be had, BusUnavailable if NATS does not
    answer.
    """
    destinations = Destinations(node.settings.upstreams, _prices(node.settings), build_fx(node.settings.fx))
    stop = _Stop(node.parent_pid)
    _allow_open_files()
    slot, clock, metrics, draw = node.nats.slot, SystemClock(), Metrics(), Randomness().draw
    nats = await connect(node.nats, name=f"ringfence proxy {slot}", timeout_s=NATS_PATIENCE_S)
    governor = Governor(
        nats.bus,
        nats.appender,
        clock,
        slot=slot,
        timing=node.settings.timing,
        draw=draw,
        version=version,
        pid=os.getpid(),
    )
    proxy = Proxy(governor, destinations, clock, metrics, draw, slot)
    tls = server_tls(node.tls) if node.tls is not None else None
    Reloader(path, slot, destinations, nats, tls).listen()
    try:
        async with own_port(proxy.own, clock, node, tls) as own:
            await governor.start()
            await _until_ready(governor, stop)
            listening = await _listen(proxy, node, draw, listener, tls)
            mark = {"pid": os.getpid(), "port": listening.port, "slot": slot, "own_port": own}
            marking = asyncio.get_running_loop().create_task(_mark_ready(governor, node, mark), name="ready mark")
            _settle_memory()
            await stop.wait(governor)
            marking.cancel()
            await _drain(governor, listening, stop, node.settings.timing)
    finally:
        await _close(governor, destinations, nats, stop)
    if governor.defect.done():
        raise Defect(f"task {governor.defect.result()} failed")


async def _listen(
    proxy: Proxy,
    node: NodeSettings,
    draw: Callable[[int], bytes],
    listener: socket.socket | None,
    tls: TlsContext | None,
) -> Listening:
    """Serve clients. Raises OSError if the port cannot be had."""
    listening = await listen(
        proxy.handle,
        draw,
        node.host,
        node.port,
        shared=True,
        listener=listener,
        door=proxy.door,
        max_connections=_connections(),
        tls=tls.ssl if tls is not None else None,
    )
    _log.info("node %s listens on %s:%d", node.nats.slot, node.host, listening.port)
    return listening


async def _drain(governor: Governor, listening: Listening, stop: "_Stop", timing: Timing) -> None:
    """Let everything end in order; a defect or a second signal cuts it short."""
    if not governor.defect.done():
        leaving = asyncio.get_running_loop().create_task(_leave(governor, listening, stop, timing), name="drain")
        again = asyncio.get_running_loop().create_task(stop.again(), name="second signal")
        ends: set[asyncio.Future[Any]] = {leaving, again, governor.defect}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, again):
            task.cancel()
        await asyncio.wait({leaving, again})
    await listening.close(CLOSE_S)


async def _leave(governor: Governor, listening: Listening, stop: "_Stop", timing: Timing) -> None:
    """Somebody else accepts what comes: serve what is here, within `drain_ms` in all. Else refuse it at once."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timing.drain_ms / 1000
    if stop.hands_over:
        _log.info("handing over: open connections are served until they have gone")
        await listening.hand_over(timing.idle_grace_ms / 1000, timing.drain_ms / 1000)
    else:
        listening.stop_accepting()
    await governor.drain(max(0.0, end_s - loop.time()))


async def _close(governor: Governor, destinations: Destinations, nats: NatsConnection, stop: "_Stop") -> None:
    stop.close()
    await governor.close()
    await destinations.close()
    await nats.close()


class _Stop:
    """The reasons to stop."""

    def __init__(self, parent_pid: int) -> None:
        self._parent_pid = parent_pid
        self._signals = 0
        self.hands_over = False
        """The first signal was SIGTERM."""
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        self.hands_over = self.hands_over or (self._signals == 1 and number == signal.SIGTERM)
        self._changed.set()

    @property
    def wanted(self) -> bool:
        return self._signals > 0

    async def wait(self, governor: Governor) -> None:
        """Return at the first signal, the parent's end, or a defect."""
        while not self.wanted and not governor.defect.done():
            if self._parent_pid and os.getppid() != self._parent_pid:
                _log.warning("the supervisor has gone; draining")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PARENT_POLL_S):
                    await self._changed.wait()

    async def again(self) -> None:
        """Return at the second signal."""
        while self._signals < 2:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def _until_ready(governor: Governor, stop: _Stop) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STARTUP_S):
            while not governor.ready and not stop.wanted:  # noqa: ASYNC110 - once, at the start
                await asyncio.sleep(POLL_S / 5)


async def _mark_ready(governor: Governor, node: NodeSettings, mark: dict[str, Any]) -> None:
    """Tell the supervisor, once requests are admitted."""
    while not governor.ready:  # noqa: ASYNC110 - once, at the start
        await asyncio.sleep(POLL_S)
    if node.ready_mark:
        _write_mark(Path(node.ready_mark), mark)


def _write_mark(path: Path, facts: dict[str, object]) -> None:
    """Whole or not at all: whoever polls for the file may read it at once."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(facts))
    draft.replace(path)


def _prices(settings: Settings) -> PriceList:
    file = settings.prices.file
    return parse_prices(Path(file).read_text(encoding="utf-8") if file else packaged_text())


def _allow_open_files() -> None:
    """Each request holds two connections, and shells often allow 1,024 files; the hard limit is meant for servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _log.warning("only %d files may be open: %s", soft, error)


def _connections() -> int:
    """Clients that may be connected: each may need a connection to a vendor too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (files - SPARE_FILES) // 2))


def _settle_memory() -> None:
    """What is loaded now stays for good: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    # Requests make few cycles; the default of 700 allocations would run the collector thousands of times a second.
    gc.set_threshold(20_000, 20, 50)
