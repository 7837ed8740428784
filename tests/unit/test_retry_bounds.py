"""The duplicate window outlasts every retry that goes by a message id (rule L3, docs/PROTOCOL.md)."""

import asyncio
import re
import time
from pathlib import Path

import pytest

from events.log.group import WriterSettings
from events.log.memory import MemoryStream
from events.log.port import AppendUncertain, FenceExpectation, PubAck
from events.log.streams import DUPLICATE_WINDOW_S, control_stream, stream_config
from events.log.writer import LogClosed, SoleWriterLog, Unconfirmed
from events.messaging.link import MOVE_AFTER_S
from schemas.settings import Timing

ROOT = Path(__file__).parents[2]


def test_the_window_outlasts_the_longest_retry_twice() -> None:
    settings = WriterSettings()
    longest_s = settings.give_up_s + settings.retry_pause_max_s + Timing().append_timeout_ms / 1000
    assert 2 * longest_s < DUPLICATE_WINDOW_S
    assert stream_config(control_stream())["duplicate_window"] == DUPLICATE_WINDOW_S * 1_000_000_000
    assert longest_s > 10 * MOVE_AFTER_S, "an election, or a change of server, is no reason to give up"


def test_whoever_sends_under_an_id_is_known() -> None:
    # A new retry loop with message ids has to be looked at: add its bound to the test above, then its file here.
    senders = {
        str(path.relative_to(ROOT))
        for room in ("events", "dataplane", "controlplane")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\bmsg_id = ", path.read_text())
    }
    # A fence that is stored twice fences once, so its retry needs no bound.
    assert senders == {"events/log/writer.py", "controlplane/fences.py"}


class Deaf:
    """A port whose appends land and are never acknowledged."""

    max_payload_bytes = 1 << 20

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream.port()
        self.sent: list[str | None] = []

    async def publish(self, subject, payload, *, msg_id, expect, timeout_s) -> PubAck:
        self.sent.append(msg_id)
        await self.stream.publish(subject, payload, msg_id=msg_id, expect=expect, timeout_s=timeout_s)
        raise AppendUncertain("timeout")


async def test_a_writer_that_cannot_confirm_gives_up_and_says_so() -> None:
    stream = MemoryStream("S", now_ns=time.time_ns)
    opened = await stream.port().publish("fence", b"", msg_id=None, expect=None, timeout_s=1.0)
    port = Deaf(stream)
    told: list[str] = []
    log: SoleWriterLog[str] = SoleWriterLog(
        port,
        subject="log",
        fence=FenceExpectation("fence", opened.sequence),
        incarnation="i1",
        encode=lambda n, events: f"{n} {events}".encode(),
        clock_ns=time.monotonic_ns,
        settings=WriterSettings(give_up_s=0.05, retry_pause_max_s=0.01),
        on_fenced=lambda: told.append("fenced"),
        on_unconfirmed=lambda: told.append("unconfirmed"),
    )
    log.start()
    first, second = log.append_nowait(["a"]), log.append_nowait(["b"])
    for waiting in (first, second):
        with pytest.raises(Unconfirmed):
            await asyncio.wait_for(waiting, 10.0)
    assert told == ["unconfirmed"]
    assert set(port.sent) == {"i1.1"}, "nothing is sent behind an append whose fate is unknown"
    assert len(port.sent) > 1
    assert not log.fenced
    with pytest.raises(LogClosed):
        log.append(["c"])
    assert (await stream.port().state()).last_sequence == 2, (
        "it was stored, once; the next fence decides what it counts"
    )
    assert not await log.close()
