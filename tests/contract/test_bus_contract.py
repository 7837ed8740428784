"""The bus: the same sentences hold in memory and over a real nats-server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.log_harness import until
from support.nats_server import running_nats

from events.messaging.credentials import NODE_PAYLOAD_BYTES
from events.messaging.memory import MemoryBus
from events.messaging.port import Bus, BusTimeout, BusTooLarge, BusUnavailable, Message
from events.subjects import ALL_RPCS, FEED, push, rpc

Join = Callable[[str], Awaitable[Bus]]


@pytest.fixture(params=["memory", "nats"])
async def join(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Join]:
    """Makes one process's bus: `await join("control")`, `await join("n1")`."""
    if request.param == "memory":
        hub = MemoryBus()

        async def client(name: str) -> Bus:
            return hub.client(name)

        yield client
        return
    async with running_nats(tmp_path) as server:

        async def connected(name: str) -> Bus:
            return (await server.connect(name)).bus

        yield connected


async def answering(bus: Bus, max_concurrent: int = 1) -> list[Message]:
    """Answer every RPC with its payload and an exclamation mark."""
    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)
        await bus.respond(message.reply, message.payload + b"!")

    await bus.subscribe(ALL_RPCS, handle, max_concurrent=max_concurrent)
    await bus.flush()
    return seen


async def test_a_request_is_answered(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    seen = await answering(control)
    assert await node.request(rpc("n1", "ask"), b"money", 5.0) == b"money!"
    assert await node.request(rpc("n1", "join"), b"", 5.0) == b"!"
    assert [message.subject for message in seen] == ["rf.rpc.n1.ask", "rf.rpc.n1.join"]


async def test_many_requests_get_their_own_answers(join: Join) -> None:
    control, one, two = await join("control"), await join("n1"), await join("n2")
    await answering(control, max_concurrent=8)
    calls = [
        bus.request(rpc(slot, "ask"), f"{slot}-{i}".encode(), 5.0)
        for i in range(50)
        for slot, bus in (("n1", one), ("n2", two))
    ]
    assert await asyncio.gather(*calls) == [f"{slot}-{i}!".encode() for i in range(50) for slot in ("n1", "n2")]


async def test_a_request_without_a_listener_fails_at_once(join: Join) -> None:
    node = await join("n1")
    with pytest.raises(BusUnavailable):
        await node.request(rpc("n1", "ask"), b"", 60.0)


async def test_a_request_without_an_answer_times_out(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    asked = asyncio.Event()

    async def handle(message: Message) -> None:
        asked.set()

    await control.subscribe(ALL_RPCS, handle)
    await control.flush()
    with pytest.raises(BusTimeout) as failure:
        await node.request(rpc("n1", "ask"), b"", 0.05)
    assert not isinstance(failure.value, BusUnavailable), "somebody listens; it may have been carried out"
    await asyncio.wait_for(asked.wait(), 5.0)


async def test_the_feed_reaches_every_node_in_order_and_a_push_reaches_one(join: Join) -> None:
    control = await join("control")
    heard: dict[str, list[bytes]] = {"n1": [], "n2": []}
    for slot, seen in heard.items():
        bus = await join(slot)

        async def handle(message: Message, seen: list[bytes] = seen) -> None:
            await asyncio.sleep(0)
            seen.append(message.payload)

        await bus.subscribe(FEED, handle)
        await bus.subscribe(push(slot), handle)
        await bus.flush()
    for i in range(100):
        await control.publish(FEED, b"%d" % i)
    await until(lambda: all(len(seen) == 100 for seen in heard.values()))
    assert heard["n1"] == heard["n2"] == [b"%d" % i for i in range(100)]
    await control.publish(push("n2"), b"recall")
    await until(lambda: len(heard["n2"]) == 101)
    assert heard["n2"][-1] == b"recall"
    assert len(heard["n1"]) == 100


async def test_a_slow_handler_holds_up_only_its_own_order(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    gate = asyncio.Event()
    running = 0
    most = 0

    async def handle(message: Message) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if message.payload == b"slow":
            await gate.wait()
        await control.respond(message.reply, message.payload)
        running -= 1

    await control.subscribe(ALL_RPCS, handle, max_concurrent=3)
    await control.flush()
    slow = [asyncio.create_task(node.request(rpc("n1", "ask"), b"slow", 10.0)) for _ in range(2)]
    await until(lambda: running == 2)
    for _ in range(10):
        assert await node.request(rpc("n1", "ask"), b"quick", 5.0) == b"quick"
    assert not any(call.done() for call in slow)
    gate.set()
    assert await asyncio.gather(*slow) == [b"slow", b"slow"]
    assert most == 3


async def test_what_a_handler_cannot_take_is_dropped_and_counted(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    gate = asyncio.Event()
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.payload)
        await gate.wait()

    subscription = await node.subscribe(FEED, handle, max_pending=5)
    await node.flush()
    await control.publish(FEED, b"0")
    await until(lambda: len(seen) == 1)
    for i in range(1, 21):
        await control.publish(FEED, b"%d" % i)
    await until(lambda: subscription.dropped == 15)
    gate.set()
    await until(lambda: len(seen) == 6)
    assert seen == [b"%d" % i for i in range(6)]


async def test_a_failing_handler_harms_no_other_message(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    control, node = await join("control"), await join("n1")
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        if message.payload == b"bad":
            raise ZeroDivisionError
        seen.append(message.payload)

    await node.subscribe(FEED, handle)
    await node.flush()
    with caplog.at_level(logging.ERROR):
        for payload in (b"1", b"bad", b"2"):
            await control.publish(FEED, payload)
        await until(lambda: len(seen) == 2)
    assert seen == [b"1", b"2"]
    assert [record.message for record in caplog.records] == ["rf.feed: handler failed on rf.feed"]


async def test_after_unsubscribing_nothing_is_handled(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    first, second = [], []

    async def keep(message: Message) -> None:
        first.append(message.payload)

    async def stay(message: Message) -> None:
        second.append(message.payload)

    subscription = await node.subscribe(FEED, keep)
    await node.subscribe(FEED, stay)
    await node.flush()
    await control.publish(FEED, b"1")
    await until(lambda: first == [b"1"] and second == [b"1"])
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    await node.flush()
    await control.publish(FEED, b"2")
    await until(lambda: second == [b"1", b"2"])
    assert first == [b"1"]


async def test_an_answer_to_nobody_is_no_error(join: Join) -> None:
    control = await join("control")
    await control.respond("", b"nobody asked")
    await control.publish(FEED, b"nobody listens")
    await control.flush()
    assert control.connected


async def test_a_message_too_large_is_refused_and_the_connection_stays(join: Join) -> None:
    control, node = await join("control"), await join("n1")
    await answering(control)
    largest = b"x" * (NODE_PAYLOAD_BYTES - 1)
    assert len(await node.request(rpc("n1", "ask"), largest, 10.0)) == NODE_PAYLOAD_BYTES
    above = b"x" * ((8 << 20) + 1)
    for send in (control.publish(FEED, above), node.request(rpc("n1", "ask"), above, 5.0)):
        with pytest.raises(BusTooLarge):
            await send
    await control.flush()
    assert control.connected
    assert node.connected
