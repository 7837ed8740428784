"""The port of a log stream: the same sentences hold in memory and on a real nats-server."""

import asyncio

import pytest
from support.log_harness import STREAM_BYTES, LogHarness, logs

from events.log.port import (
    AppendUncertain,
    FenceExpectation,
    FenceMoved,
    Follower,
    LogRewound,
    LogTrimmed,
    PayloadTooLarge,
    Stored,
)
from events.subjects import NODE_FENCES, NODE_LOGS, NODE_MARK, node_log

__all__ = ["logs"]


async def test_messages_keep_order_subject_and_bytes(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = await logs.appender("n1")
    payloads = [b"", bytes(range(256)), b"x" * 100_000, b"last"]
    acks = [
        await writer.publish(subject, payload, msg_id=f"i1.{n}", expect=fence, timeout_s=5.0)
        for n, payload in enumerate(payloads)
    ]
    assert [ack.sequence for ack in acks] == [2, 3, 4, 5]
    assert not any(ack.duplicate for ack in acks)
    assert (await logs.all())[1:] == [(subject, payload) for payload in payloads]
    state = await logs.stream.state()
    assert (state.first_sequence, state.last_sequence, state.messages) == (1, 5, 5)
    assert 0 < state.full_share < 0.1


async def test_single_messages_can_be_looked_up(logs: LogHarness) -> None:
    assert (await logs.stream.state()).last_sequence == 0
    assert await logs.stream.last_on_subject(NODE_MARK) is None
    await logs.put(NODE_MARK, b"one")
    await logs.put(NODE_MARK, b"two")
    await logs.put(node_log("n1", "i1"), b"three")
    found = await logs.stream.last_on_subject(NODE_MARK)
    assert found is not None
    assert (found.sequence, found.subject, found.payload) == (2, NODE_MARK, b"two")
    assert await logs.stream.get(2) == found
    assert await logs.stream.get(4) is None
    assert await logs.stream.get(0) is None
    follower = logs.stream.read(after=1)
    assert (await follower.next_batch())[0] == found, "also the time is the same, to the nanosecond"
    await follower.aclose()


async def test_a_moved_fence_refuses_every_later_append(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = await logs.appender("n1")
    await writer.publish(subject, b"before", msg_id="i1.1", expect=fence, timeout_s=5.0)
    await logs.put(fence.subject, b"fenced")
    for attempt in range(3):
        with pytest.raises(FenceMoved):
            await writer.publish(subject, b"after", msg_id=f"i1.{2 + attempt}", expect=fence, timeout_s=5.0)
    assert [payload for _, payload in await logs.all()] == [b"opened", b"before", b"fenced"]


async def test_a_fence_guards_only_its_own_incarnation(logs: LogHarness) -> None:
    old_subject, old_fence = await logs.open("n1", "old")
    new_subject, new_fence = await logs.open("n1", "new")
    await logs.put(old_fence.subject, b"fenced")
    writer = await logs.appender("n1")
    ack = await writer.publish(new_subject, b"alive", msg_id="new.1", expect=new_fence, timeout_s=5.0)
    assert ack.sequence == 4
    with pytest.raises(FenceMoved):
        await writer.publish(old_subject, b"zombie", msg_id="old.1", expect=old_fence, timeout_s=5.0)


async def test_a_resend_is_stored_once(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = await logs.appender("n1")
    first = await writer.publish(subject, b"same", msg_id="i1.1", expect=fence, timeout_s=5.0)
    again = await writer.publish(subject, b"same", msg_id="i1.1", expect=fence, timeout_s=5.0)
    assert not first.duplicate
    assert again.duplicate
    assert again.sequence == first.sequence
    assert len(await logs.all()) == 2


async def test_a_resend_after_the_fence_is_never_stored_again_nor_news(logs: LogHarness) -> None:
    # One replica answers that the fence moved, three answer "duplicate"; neither may count as proof (L4).
    subject, fence = await logs.open()
    writer = await logs.appender("n1")
    await writer.publish(subject, b"intent", msg_id="i1.1", expect=fence, timeout_s=5.0)
    await logs.put(fence.subject, b"fenced")
    try:
        ack = await writer.publish(subject, b"intent", msg_id="i1.1", expect=fence, timeout_s=5.0)
    except FenceMoved:
        pass
    else:
        assert ack.duplicate
    assert [payload for _, payload in await logs.all()] == [b"opened", b"intent", b"fenced"]


async def test_sizes_up_to_the_limit_pass_and_one_more_is_refused(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    writer = await logs.appender("n1")
    limit = writer.max_payload_bytes
    largest = b"\xff" * limit
    await writer.publish(subject, largest, msg_id="i1.1", expect=fence, timeout_s=10.0)
    with pytest.raises(PayloadTooLarge) as refusal:
        await writer.publish(subject, largest + b"!", msg_id="i1.2", expect=fence, timeout_s=10.0)
    assert (refusal.value.size_bytes, refusal.value.limit_bytes) == (limit + 1, limit)
    ack = await writer.publish(subject, b"sound", msg_id="i1.3", expect=fence, timeout_s=5.0)
    assert ack.sequence == 3
    assert (await logs.all())[1] == (subject, largest)


async def test_a_full_stream_refuses_and_a_trim_makes_room_but_keeps_fences(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    with pytest.raises(AppendUncertain) as refusal:
        await _fill(logs, subject)
    assert refusal.value.reason == "stream_full"
    state = await logs.stream.state()
    assert state.full_share > 0.8
    removed = await logs.stream.trim(NODE_LOGS, state.last_sequence - 1)
    assert removed == state.messages - 2
    kept = await logs.stream.last_on_subject(fence.subject)
    assert kept is not None
    assert kept.sequence == fence.sequence
    writer = await logs.appender("n1")
    ack = await writer.publish(subject, b"room", msg_id="i1.1", expect=fence, timeout_s=5.0)
    assert ack.sequence == state.last_sequence + 1


async def test_reading_resumes_after_a_sequence(logs: LogHarness) -> None:
    for n in range(1, 8):
        await logs.put(NODE_MARK, b"%d" % n)
    follower = logs.stream.read(after=3)
    assert follower.position == 3
    first = await follower.next_batch(max_messages=2)
    assert [stored.sequence for stored in first] == [4, 5]
    assert follower.position == 5
    assert follower.lag == 2
    assert not follower.caught_up
    assert [stored.payload for stored in await follower.next_batch()] == [b"6", b"7"]
    assert follower.caught_up
    assert await follower.next_batch(timeout_s=0.01) == []
    await follower.aclose()


async def test_followers_see_what_is_stored_while_they_wait(logs: LogHarness) -> None:
    first, second = logs.stream.read(after=0), logs.stream.read(after=0)
    waiting = [asyncio.ensure_future(follower.next_batch()) for follower in (first, second)]
    await asyncio.sleep(0)
    await logs.put(NODE_MARK, b"news")
    for batch in await asyncio.gather(*waiting):
        assert [(stored.sequence, stored.payload) for stored in batch] == [(1, b"news")]
    await logs.put(NODE_MARK, b"more")
    assert [stored.payload for stored in await second.next_batch()] == [b"more"]
    async for stored in first:
        assert stored.payload == b"more"
        break
    await first.aclose()
    await second.aclose()


async def test_a_filter_shows_its_subjects_alone_in_stream_order(logs: LogHarness) -> None:
    subject, fence = await logs.open()
    await logs.put(subject, b"a")
    await logs.put(NODE_MARK, b"m")
    await logs.put(subject, b"b")
    await logs.put(fence.subject, b"fenced")
    only_log = logs.stream.read(after=0, subject_filter=subject)
    assert [stored.payload for stored in await _take(only_log, 2)] == [b"a", b"b"]
    both = logs.stream.read(after=1, subject_filter=[NODE_FENCES, NODE_MARK])
    assert [(stored.sequence, stored.payload) for stored in await _take(both, 2)] == [(3, b"m"), (5, b"fenced")]
    await logs.put(NODE_MARK, b"later")
    assert await only_log.next_batch(timeout_s=0.05) == []
    assert [stored.payload for stored in await both.next_batch()] == [b"later"]
    await only_log.aclose()
    await both.aclose()


async def test_a_trimmed_beginning_is_an_error_not_a_skip(logs: LogHarness) -> None:
    for n in range(1, 6):
        await logs.put(NODE_MARK, b"%d" % n)
    await logs.stream.trim(NODE_MARK, 3)
    state = await logs.stream.state()
    assert (state.first_sequence, state.last_sequence, state.messages) == (4, 5, 2)
    with pytest.raises(LogTrimmed) as trimmed:
        await logs.stream.read(after=1).next_batch(timeout_s=5.0)
    assert (trimmed.value.after, trimmed.value.available) == (1, 4)
    sound = logs.stream.read(after=3)
    assert [stored.sequence for stored in await _take(sound, 2)] == [4, 5]
    lenient = logs.stream.read(after=0, accept_trimmed=True)
    assert [stored.sequence for stored in await _take(lenient, 2)] == [4, 5]
    await sound.aclose()
    await lenient.aclose()


async def test_a_hole_further_on_is_noticed_too(logs: LogHarness) -> None:
    subject, _ = await logs.open()  # sequence 1: a fence, which no trim touches
    for payload in (b"2", b"3", b"4"):
        await logs.put(subject, payload)
    await logs.stream.trim(NODE_LOGS, 3)
    strict = logs.stream.read(after=0)
    assert [stored.sequence for stored in await strict.next_batch(timeout_s=5.0)] == [1]
    with pytest.raises(LogTrimmed) as trimmed:
        await strict.next_batch(timeout_s=5.0)
    assert (trimmed.value.after, trimmed.value.available) == (1, 4)
    lenient = logs.stream.read(after=0, accept_trimmed=True)
    assert [stored.sequence for stored in await _take(lenient, 2)] == [1, 4]
    await strict.aclose()
    await lenient.aclose()


async def test_a_stream_that_ends_before_the_checkpoint_is_refused(logs: LogHarness) -> None:
    await logs.put(NODE_MARK, b"1")
    with pytest.raises(LogRewound) as rewound:
        await logs.stream.read(after=9).next_batch(timeout_s=5.0)
    assert (rewound.value.after, rewound.value.last) == (9, 1)


async def test_two_slots_write_side_by_side(logs: LogHarness) -> None:
    subjects = [await logs.open(slot, f"inc-{slot}") for slot in ("n1", "n2")]
    writers = [await logs.appender(slot) for slot in ("n1", "n2")]

    async def write(which: int) -> None:
        subject, fence = subjects[which]
        for n in range(20):
            payload = b"%d-%d" % (which, n)
            await writers[which].publish(subject, payload, msg_id=f"{which}.{n}", expect=fence, timeout_s=5.0)

    await asyncio.gather(write(0), write(1))
    found = await logs.all()
    for which, (subject, _) in enumerate(subjects):
        mine = [payload for stored_on, payload in found if stored_on == subject]
        assert mine == [b"%d-%d" % (which, n) for n in range(20)]


async def test_an_expectation_on_an_unopened_fence_fails(logs: LogHarness) -> None:
    writer = await logs.appender("n1")
    with pytest.raises(FenceMoved):
        await writer.publish(
            node_log("n1", "i1"),
            b"x",
            msg_id="i1.1",
            expect=FenceExpectation("rf.node.fence.n1.i1", 7),
            timeout_s=5.0,
        )


async def _fill(logs: LogHarness, subject: str) -> None:
    for _ in range(STREAM_BYTES // (7 << 20) + 1):
        await logs.put(subject, b"c" * (7 << 20))


async def _take(follower: Follower, count: int) -> list[Stored]:
    found: list[Stored] = []
    while len(found) < count:
        batch = await follower.next_batch(timeout_s=5.0)
        assert batch, f"only {len(found)} of {count} messages came"
        found += batch
    return found
