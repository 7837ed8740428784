"""The simulated vendors in a thread of their own, for programs that call synchronous SDKs."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from controlplane.demo.vendors import DemoVendors

_START_TIMEOUT_S = 30.0


@contextmanager
def in_thread(vendors: DemoVendors) -> Iterator[DemoVendors]:
    """Run `vendors` while the context lasts. Raises what `DemoVendors.start` raises.

    Books, log and faults may be read and set from the calling thread between requests.
    """
    stopper: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with vendors:
            stopper.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except OSError as error:
            if stopper.done():
                raise
            stopper.set_exception(error)

    thread = threading.Thread(target=run, name="demo-vendors", daemon=True)
    thread.start()
    loop, stop = stopper.result(timeout=_START_TIMEOUT_S)
    try:
        yield vendors
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
