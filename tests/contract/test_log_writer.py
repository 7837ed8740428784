"""The sole writer over both kinds of stream: group commit, order, heartbeat, fence, end."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest
from support.log_harness import LogHarness, logs, until

from events.log.port import AppendPort, FenceExpectation
from events.log.writer import NO_PROOF_NS, Fenced, LogClosed, SoleWriterLog, WriterSettings

__all__ = ["logs"]


def encode(n: int, events: Sequence[str]) -> bytes:
    return json.dumps({"n": n, "events": list(events)}).encode()


def writer_on(
    port: AppendPort, subject: str, fence: FenceExpectation, *, incarnation: str = "i1", **options
) -> SoleWriterLog[str]:
    writer: SoleWriterLog[str] = SoleWriterLog(
        port,
        subject=subject,
        fence=fence,
        incarnation=incarnation,
        encode=encode,
        clock_ns=time.monotonic_ns,
        id_salt="5a17",
        **options,
    )
    writer.start()
    return writer


async def batches(logs: LogHarness, subject: str) -> list[dict]:
    return [json.loads(payload) for stored_on, payload in await logs.all() if stored_on == subject]


async def test_events_share_messages_and_keep_their_order(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = writer_on(await logs.appender("n1"), subject, fence)
    waiting = [writer.append_nowait([f"e{i}.a", f"e{i}.b"]) for i in range(300)]
    writer.append(["nobody waits"])
    done = await asyncio.gather(*waiting)
    assert await writer.close()
    found = await batches(logs, subject)
    assert [batch["n"] for batch in found] == list(range(1, len(found) + 1))
    events = [event for batch in found for event in batch["events"]]
    assert events == [f"e{i}.{half}" for i in range(300) for half in "ab"] + ["nobody waits"]
    assert len(found) <= 3, "what waits shares a message"
    for i, appended in enumerate(done):
        assert f"e{i}.a" in found[appended.n - 1]["events"]
        assert not appended.duplicate


async def test_alone_an_append_is_its_own_message_and_gives_proof(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = writer_on(await logs.appender("n1"), subject, fence)
    assert writer.proof_age_ns() == NO_PROOF_NS
    before = time.monotonic_ns()
    first = await writer.append_nowait(["one"])
    second = await writer.append_nowait(["two"])
    assert (first.n, second.n, second.sequence) == (1, 2, first.sequence + 1)
    assert before <= first.first_sent_ns <= second.first_sent_ns
    assert writer.proof_age_ns() <= time.monotonic_ns() - second.first_sent_ns
    assert writer.last == second
    assert await writer.close()


async def test_an_idle_writer_proves_itself_by_heartbeats(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = writer_on(await logs.appender("n1"), subject, fence)
    writer.heartbeat(0.01, lambda: "beat")
    await until(lambda: writer.last is not None and writer.last.n >= 3)
    assert await writer.close()
    assert all(batch["events"] == ["beat"] for batch in await batches(logs, subject))


async def test_a_fence_ends_the_writer_for_everybody(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    told: list[str] = []
    writer = writer_on(await logs.appender("n1"), subject, fence, on_fenced=lambda: told.append("fenced"))
    await writer.append_nowait(["before"])
    await logs.put(fence.subject, b"fenced")
    waiting = [writer.append_nowait([f"after {i}"]) for i in range(3)]
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, Fenced)
    assert told == ["fenced"]
    assert writer.fenced
    assert writer.proof_age_ns() == NO_PROOF_NS
    with pytest.raises(Fenced):
        writer.append(["much later"])
    assert not await writer.close()
    with pytest.raises(Fenced):
        writer.append_nowait(["the first reason stays"])
    assert [batch["events"] for batch in await batches(logs, subject)] == [["before"]]


async def test_a_new_incarnation_writes_where_the_old_one_may_not(logs: LogHarness) -> None:
    subject, fence = await logs.open("n1", "i1")
    port = await logs.appender("n1")
    old = writer_on(port, subject, fence)
    await old.append_nowait(["old"])
    await logs.put(fence.subject, b"fenced")
    new_subject, new_fence = await logs.open("n1", "i2")
    new = writer_on(port, new_subject, new_fence, incarnation="i2")
    appended = await new.append_nowait(["new"])
    assert not appended.duplicate
    with pytest.raises(Fenced):
        await old.append_nowait(["zombie"])
    await new.close()
    await old.close()


async def test_batches_stay_below_the_byte_limit(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    settings = WriterSettings(batch_bytes=20_000)
    writer = writer_on(await logs.appender("n1"), subject, fence, settings=settings)
    events = [f"{i:04d}" + "x" * 1_000 for i in range(100)]
    await asyncio.gather(*(writer.append_nowait([event]) for event in events))
    await writer.close()
    found = await batches(logs, subject)
    assert [event for batch in found for event in batch["events"]] == events
    assert max(len(json.dumps(batch)) for batch in found) <= 20_000
    assert len(found) < 30


async def test_closing_writes_what_is_queued_and_then_refuses(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = writer_on(await logs.appender("n1"), subject, fence)
    waiting = writer.append_nowait(["queued"])
    assert await writer.close()
    assert (await waiting).n == 1
    with pytest.raises(LogClosed):
        writer.append(["too late"])
    assert await writer.close(), "closing again changes nothing"
