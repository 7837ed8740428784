"""Waiting to lead: while another control plane lives, watch; when it has gone silent, it is time to take over.

The feed's heartbeat shows a leader that lives. It only decides *when* to take over, never whether the other one
still acts: the fence does that, and a wrong takeover costs milliseconds (rule F4, docs/PROTOCOL.md).
"""

import asyncio
import contextlib
import logging

from events.messaging.port import Bus, Message
from events.subjects import FEED
from schemas.settings import MS, Timing

_log = logging.getLogger(__name__)


async def wait_for_silence(bus: Bus, timing: Timing) -> None:
    """Return when no leader has been heard for a while: at once, if there is none; after `node_timeout`, if one
    was there and went silent. A connection that was lost hears nobody, so it does not count.
    """
    heard = asyncio.Event()
    connected = asyncio.Event()

    async def on_feed(_: Message) -> None:
        heard.set()

    def on_connection(up: bool) -> None:  # noqa: FBT001 - the bus's listener gets the fact as its argument
        if up:
            heard.set()  # begin to listen anew
            connected.set()
        else:
            connected.clear()

    bus.on_connection(on_connection)
    if bus.connected:
        connected.set()
    subscription = await bus.subscribe(FEED, on_feed)
    patience_ns = 4 * timing.feed_heartbeat_ms * MS
    try:
        while await _heard_within(heard, patience_ns) or not connected.is_set():
            if patience_ns < timing.node_timeout_ms * MS:
                patience_ns = timing.node_timeout_ms * MS
                _log.info("another control plane leads; this one stands by")
            await connected.wait()
            heard.clear()
    finally:
        await subscription.unsubscribe()
    _log.info("no leader was heard for %d ms", patience_ns // MS)


async def _heard_within(heard: asyncio.Event, patience_ns: int) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_ns / 1e9):
            await heard.wait()
    return heard.is_set()
