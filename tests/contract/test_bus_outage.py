"""The connection to NATS when the server dies, stands still, or shuts the client out."""

import asyncio
import logging

import msgspec
import pytest
from nats.aio.msg import Msg
from support.log_harness import until
from support.nats_server import RunningNats, nats_server

from events.messaging.client import SturdyClient
from events.messaging.connection import connect
from events.messaging.credentials import NatsCredentials, decode_credentials, encode_credentials
from events.messaging.port import BusTimeout, BusUnavailable, Message
from events.subjects import ALL_RPCS, FEED, rpc

__all__ = ["nats_server"]


async def test_a_lost_connection_is_known_and_comes_back_with_its_subscriptions(
    nats_server: RunningNats,
) -> None:
    control, node = (await nats_server.connect("control")).bus, (await nats_server.connect("n1")).bus
    heard: list[bytes] = []
    states: list[bool] = []

    async def handle(message: Message) -> None:
        heard.append(message.payload)

    await node.subscribe(FEED, handle)
    await node.flush()
    node.on_connection(states.append)
    await nats_server.kill()
    await until(lambda: not node.connected and not control.connected)
    with pytest.raises(BusUnavailable):
        await control.publish(FEED, b"lost")
    with pytest.raises(BusUnavailable):
        await node.request(rpc("n1", "ask"), b"", 1.0)
    await nats_server.start()
    await until(lambda: node.connected and control.connected)
    assert states == [False, True]
    await control.publish(FEED, b"back")
    await until(lambda: heard == [b"back"])


async def test_who_waits_for_an_answer_is_told_when_the_connection_is_lost(nats_server: RunningNats) -> None:
    control, node = (await nats_server.connect("control")).bus, (await nats_server.connect("n1")).bus
    asked = asyncio.Event()

    async def handle(message: Message) -> None:
        asked.set()

    await control.subscribe(ALL_RPCS, handle)
    await control.flush()
    call = asyncio.create_task(node.request(rpc("n1", "ask"), b"", 600.0))
    await asyncio.wait_for(asked.wait(), 5.0)
    await nats_server.kill()
    with pytest.raises(BusTimeout):
        await asyncio.wait_for(call, 10.0)


async def test_a_client_that_gave_up_for_good_is_replaced(
    nats_server: RunningNats, caplog: pytest.LogCaptureFixture
) -> None:
    control = (await nats_server.connect("control")).bus
    connection = await nats_server.connect("n1")
    heard: list[bytes] = []

    async def handle(message: Message) -> None:
        heard.append(message.payload)

    await connection.bus.subscribe(FEED, handle)
    await connection.bus.flush()
    first = connection._link._client
    assert first is not None
    with caplog.at_level(logging.WARNING):
        # What the library does on "authorization violation", "slow consumer" and the like.
        await first._process_err("'authorization violation'")
        await until(lambda: connection._link._client is not first and connection.connected)
    await connection.bus.flush()
    await control.publish(FEED, b"again")
    await until(lambda: heard == [b"again"])
    assert nats_server.credentials("n1").password not in caplog.text


async def test_a_client_that_no_longer_tries_is_replaced(
    nats_server: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believes that somebody else reconnects, and nobody does."""
    monkeypatch.setattr("events.messaging.link.STUCK_S", 0.3)
    monkeypatch.setattr("events.messaging.link._LOOK_S", 0.1)
    control = (await nats_server.connect("control")).bus
    connection = await nats_server.connect("n1")
    heard: list[bytes] = []

    async def handle(message: Message) -> None:
        heard.append(message.payload)

    await connection.bus.subscribe(FEED, handle)
    await connection.bus.flush()
    first = connection._link._client
    assert first is not None
    first._status = SturdyClient.RECONNECTING
    first.tear_off()
    await until(lambda: connection._link._client is not first and connection.connected)
    await connection.bus.flush()
    await control.publish(FEED, b"back")
    await until(lambda: heard == [b"back"])


async def test_a_server_that_stands_still_is_noticed(nats_server: RunningNats) -> None:
    node = (await nats_server.connect("n1")).bus
    nats_server.pause()
    await until(lambda: not node.connected, 20.0)
    nats_server.resume()
    await until(lambda: node.connected, 20.0)
    await node.flush()


async def test_what_a_slow_server_does_not_take_at_once_comes_whole_and_in_order(nats_server: RunningNats) -> None:
    control, node = (await nats_server.connect("control")).bus, (await nats_server.connect("n1")).bus
    heard: list[bytes] = []

    async def handle(message: Message) -> None:
        heard.append(message.payload[:4])

    await node.subscribe(FEED, handle)
    await node.flush()
    nats_server.pause()
    for number in range(100):  # ten megabytes: more than socket buffers hold, less than the bus would refuse
        await control.publish(FEED, b"%04d" % number + bytes(100_000))
        if number % 10 == 0:
            await asyncio.sleep(0.001)
    nats_server.resume()
    await until(lambda: len(heard) == 100, 20.0)
    assert heard == [b"%04d" % number for number in range(100)]


async def test_the_connection_to_a_silent_server_is_ended_when_another_is_tried(nats_server: RunningNats) -> None:
    came: list[asyncio.StreamReader] = []

    def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(reader)
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    credentials = nats_server.credentials("n1")
    both = msgspec.structs.replace(credentials, servers=(f"nats://127.0.0.1:{port}", *credentials.servers))
    connection = await connect(both, name="test two servers", timeout_s=20.0)
    await nats_server.kill()
    await until(lambda: bool(came), 20.0)
    await nats_server.start()
    await until(lambda: connection.bus.connected, 20.0)
    await asyncio.wait_for(asyncio.gather(*(reader.read() for reader in came), return_exceptions=True), 5.0)
    assert connection.bus.connected
    await connection.close()
    for writer in writers:
        writer.close()
    listener.close()


async def test_who_is_told_at_once_and_fails_does_not_deafen_the_connection(
    nats_server: RunningNats, caplog: pytest.LogCaptureFixture
) -> None:
    control, connection = (await nats_server.connect("control")).bus, await nats_server.connect("n1")
    heard: list[bytes] = []

    def deliver(message: Msg) -> None:
        heard.append(message.data)
        if message.data == b"bad":
            raise ValueError("a defect")

    subscription = await connection._link.subscribe_at_once(FEED, deliver)
    await connection.bus.flush()
    with caplog.at_level(logging.WARNING):
        for payload in (b"one", b"bad", b"two"):
            await control.publish(FEED, payload)
        await until(lambda: heard == [b"one", b"bad", b"two"])
    assert "ValueError" in caplog.text
    await subscription.unsubscribe()
    await connection.bus.flush()
    await control.publish(FEED, b"late")
    await control.flush()
    await connection.bus.flush()
    assert heard == [b"one", b"bad", b"two"]
    client = connection._link._client
    assert client is not None
    assert deliver not in client._at_once.values(), "who unsubscribes is forgotten: a follower is large"


async def test_a_flush_that_was_given_up_costs_nothing(nats_server: RunningNats) -> None:
    node = (await nats_server.connect("n1")).bus
    states: list[bool] = []
    node.on_connection(states.append)
    nats_server.pause()
    with pytest.raises(BusTimeout):
        await node.flush(timeout_s=0.05)
    nats_server.resume()
    for _ in range(3):
        await node.flush()
    assert states == []
    assert node.connected


async def test_a_flush_waits_for_what_was_sent_before_it() -> None:
    class Wire:
        sent = b""

        def write(self, data: bytes) -> None:
            self.sent += data

        def writelines(self, lines: list[bytes]) -> None:
            self.sent += b"".join(lines)

    client = SturdyClient()
    wire = Wire()
    client._transport = wire  # type: ignore[assignment]  # what is called of it
    client._flush_queue = asyncio.Queue()
    await client._send_command(b"SUB rf.feed 1\r\n")
    await client._send_ping()
    await client._send_command(b"SUB rf.feed 2\r\n")
    await client._send_ping()
    assert wire.sent == b"SUB rf.feed 1\r\nPING\r\nSUB rf.feed 2\r\nPING\r\n"


async def test_wrong_credentials_are_said_without_the_password(
    nats_server: RunningNats, caplog: pytest.LogCaptureFixture
) -> None:
    good = nats_server.credentials("n1")
    bad = NatsCredentials(servers=good.servers, user="n1", password="p-wrong-secret", inbox_prefix="_INBOX_n1")
    with caplog.at_level(logging.DEBUG), pytest.raises(BusUnavailable) as failure:
        await connect(bad, name="test", timeout_s=0.5)
    assert "uthorization" in str(failure.value)
    assert "p-wrong-secret" not in str(failure.value) + caplog.text
    assert "p-wrong-secret" not in repr(bad)


async def test_no_server_is_said_with_its_address() -> None:
    nowhere = NatsCredentials(servers=("nats://127.0.0.1:1",), user="n1", password="p", inbox_prefix="_INBOX_n1")
    with pytest.raises(BusUnavailable, match=r"0\.3 s"):
        await connect(nowhere, name="test", timeout_s=0.3)


async def test_closing_twice_is_harmless(nats_server: RunningNats) -> None:
    connection = await nats_server.connect("n1")
    await connection.close()
    await connection.close()
    assert not connection.connected
    with pytest.raises(BusUnavailable):
        await connection.bus.publish(rpc("n1", "ask"), b"")
    with pytest.raises(BusUnavailable):
        await connection.bus.flush()


def test_a_credentials_file_keeps_its_content_and_its_secrets() -> None:
    credentials = NatsCredentials(
        servers=("nats://127.0.0.1:4222",), user="n1", password="p5ecret", inbox_prefix="_INBOX_n1", slot="n1"
    )
    assert decode_credentials(encode_credentials(credentials)) == credentials
    for broken in (b"", b"{}", b'{"password": "p5ecret"}', encode_credentials(credentials)[:-2]):
        with pytest.raises(ValueError, match="not a NATS credentials file") as failure:
            decode_credentials(broken)
        assert "p5ecret" not in str(failure.value)


class Stubborn(SturdyClient):
    """Swallows cancellations, as Python 3.11's `wait_for` does when what it waits for ends in the same moment."""

    swallowed = 0

    async def connect(self, *_args, **_options) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                Stubborn.swallowed += 1
                if Stubborn.swallowed % 3 == 0:
                    raise


async def test_a_connection_that_swallows_cancellations_is_given_up_in_time(monkeypatch) -> None:
    monkeypatch.setattr("events.messaging.client.SturdyClient", Stubborn)
    nowhere = NatsCredentials(servers=("nats://127.0.0.1:1",), user="n1", password="p", inbox_prefix="_INBOX_n1")
    async with asyncio.timeout(30):
        with pytest.raises(BusUnavailable):
            await connect(nowhere, name="test", timeout_s=0.1)
    assert Stubborn.swallowed >= 3
    waiting = asyncio.ensure_future(connect(nowhere, name="test", timeout_s=3600))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=30)
    assert waiting.cancelled()


async def test_a_fresh_connection_that_fails_while_it_takes_over_is_replaced(
    nats_server: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = (await nats_server.connect("control")).bus
    connection = await nats_server.connect("n1")
    heard: list[bytes] = []

    async def handle(message: Message) -> None:
        heard.append(message.payload)

    await connection.bus.subscribe(FEED, handle)
    real = SturdyClient.flush
    failures = iter([True])

    async def flush(self, timeout=10):
        if self is not first and next(failures, False):
            raise TimeoutError
        await real(self, timeout)

    first = connection._link._client
    monkeypatch.setattr(SturdyClient, "flush", flush)
    assert not await connection.renew(nats_server.credentials("n1"))
    await until(lambda: connection.connected)
    await connection.bus.flush()
    await control.publish(FEED, b"after")
    await until(lambda: heard == [b"after"])
