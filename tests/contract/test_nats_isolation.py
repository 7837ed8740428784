"""What a slot's credential may do on real nats-servers, alone and in a cluster, and what it may not, whatever it tries."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import nats
import pytest
from nats.aio.client import Client
from support.log_harness import until
from support.nats_cluster import RunningCluster
from support.nats_server import RunningNats, running_nats

from controlplane.up.nats.config import NODE_CONNECTIONS, NODE_SUBSCRIPTIONS
from events.log.jetstream import JetStreamStream
from events.log.port import AppendUncertain, FenceExpectation, FenceMoved
from events.messaging.connection import connect
from events.messaging.credentials import NODE_PAYLOAD_BYTES
from events.messaging.port import Message
from events.subjects import (
    ALL_RPCS,
    CONTROL_FENCE,
    CONTROL_LOG,
    FEED,
    NODE_MARK,
    node_fence,
    node_log,
    push,
    rpc,
)

OTHERS_LOG = node_log("n2", "victim")
INBOX_OF_N2 = "_INBOX_n2.guessed.1"
PROTECTED = [
    OTHERS_LOG,
    node_fence("n1", "i1"),
    node_fence("n2", "victim"),
    NODE_MARK,
    CONTROL_LOG,
    CONTROL_FENCE,
    FEED,
    push("n1"),
    push("n2"),
    rpc("n2", "ask"),
    INBOX_OF_N2,
    "$JS.API.STREAM.INFO.RF_NODES",
    "$JS.API.STREAM.PURGE.RF_NODES",
    "$JS.API.STREAM.DELETE.RF_NODES",
    "$JS.API.CONSUMER.CREATE.RF_NODES",
    "$JS.API.DIRECT.GET.RF_NODES",
    "$SYS.REQ.ACCOUNT.PING",
]

PRIVATE = [
    ">",
    "rf.>",
    "rf.node.log.>",
    OTHERS_LOG,
    node_log("n1", "i1"),
    push("n2"),
    "rf.push.*",
    "_INBOX_n2.>",
    "_INBOX_control.>",
    "_INBOX.>",
    rpc("n1", "ask"),
    ALL_RPCS,
    "$JS.>",
    "_R_.>",
    "$SYS.>",
]


@pytest.fixture(params=["alone", "cluster"])
async def nats_server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningNats | RunningCluster]:
    if request.param == "alone":
        async with running_nats(tmp_path) as server:
            yield server
        return
    shared: RunningCluster = request.getfixturevalue("shared_cluster")
    await shared.streams()  # where attackers would find something
    yield shared
    await shared.clear()


class Attacker(NamedTuple):
    """Slot n1 with a bare client of its own: whatever the protocol lets it say."""

    client: Client
    denials: list[str]


@pytest.fixture
async def attacker(nats_server: RunningNats) -> AsyncIterator[Attacker]:
    denials: list[str] = []

    async def denied(error: Exception) -> None:
        denials.append(str(error))

    credentials = nats_server.credentials("n1")
    client = await nats.connect(
        nats_server.url,
        user=credentials.user,
        password=credentials.password,
        inbox_prefix=credentials.inbox_prefix,
        error_cb=denied,
    )
    yield Attacker(client, denials)
    await client.close()


HEADS = ("$JS.API.", "$JS.ringfence.API.")
"""The API's subjects, also by the name that JetStream has in a cluster."""


class Bystanders:
    """Everything that others hear, and the state of both logs."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []

    async def listen(self, message: Message) -> None:
        self.heard.append((message.subject, message.payload))


@pytest.fixture
async def bystanders(nats_server: RunningNats) -> Bystanders:
    """n2 listens to all it may; the control plane answers every question with the question."""
    found = Bystanders()
    victim = await nats_server.connect("n2")
    for subject in (FEED, push("n2"), "_INBOX_n2.>"):
        await victim.bus.subscribe(subject, found.listen)
    await victim.bus.flush()
    control = await nats_server.connect("control")

    async def answer(message: Message) -> None:
        if message.subject != rpc("n1", "ask"):
            await found.listen(message)
        await control.bus.respond(message.reply, message.payload)

    await control.bus.subscribe(ALL_RPCS, answer)
    await control.bus.flush()
    return found


async def test_a_slot_appends_to_its_own_log_with_fence_dedup_and_acknowledgement(nats_server: RunningNats) -> None:
    _, nodes = await nats_server.streams()
    ack = await nodes.publish(node_fence("n1", "i1"), b"opened", msg_id=None, expect=None, timeout_s=5.0)
    fence = FenceExpectation(node_fence("n1", "i1"), ack.sequence)
    port = (await nats_server.connect("n1")).appender
    subject = node_log("n1", "i1")
    first = await port.publish(subject, b"x", msg_id="i1.1", expect=fence, timeout_s=5.0)
    again = await port.publish(subject, b"x", msg_id="i1.1", expect=fence, timeout_s=5.0)
    assert (first.sequence, first.duplicate) == (2, False)
    assert (again.sequence, again.duplicate) == (2, True)
    await nodes.publish(node_fence("n1", "i1"), b"fenced", msg_id=None, expect=None, timeout_s=5.0)
    with pytest.raises(FenceMoved):
        await port.publish(subject, b"y", msg_id="i1.2", expect=fence, timeout_s=5.0)


async def test_a_slot_cannot_publish_to_what_is_not_its_own(
    nats_server: RunningNats, attacker: Attacker, bystanders: Bystanders
) -> None:
    control, nodes = await nats_server.streams()
    for count, subject in enumerate(PROTECTED, start=1):
        await attacker.client.publish(subject, b"forged")
        await attacker.client.flush()
        await until(lambda count=count: len(attacker.denials) == count)
        assert f'permissions violation for publish to "{subject.lower()}"' in attacker.denials[-1].lower()
    await settle(nats_server)
    assert (await nodes.state()).last_sequence == 0
    assert (await control.state()).last_sequence == 0
    assert bystanders.heard == []


async def test_a_slot_cannot_have_answers_delivered_to_others(
    nats_server: RunningNats, attacker: Attacker, bystanders: Bystanders
) -> None:
    # The server checks no permission on the reply subject; only accounts keep the answer in.
    control, nodes = await nats_server.streams()
    for reply in PROTECTED:
        await attacker.client.publish(node_log("n1", "i1"), reply.encode(), reply=reply)
        await attacker.client.publish(rpc("n1", "ask"), b"forged by n1", reply=reply)
        await attacker.client.flush()
        await settle(nats_server)
        assert bystanders.heard == [], reply
    expected = [(node_log("n1", "i1"), reply.encode()) for reply in PROTECTED]
    await until_stored(nodes, len(expected))
    assert await everything(nodes) == expected, "its own appends, and no acknowledgement anywhere"
    assert (await control.state()).last_sequence == 0


async def test_a_slot_cannot_do_harm_by_headers(
    nats_server: RunningNats, attacker: Attacker, bystanders: Bystanders
) -> None:
    _, nodes = await nats_server.streams()
    await nodes.publish(OTHERS_LOG, b"theirs", msg_id=None, expect=None, timeout_s=5.0)
    for headers in (
        {"Nats-Trace-Dest": OTHERS_LOG},
        {"Nats-Trace-Dest": FEED},
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": OTHERS_LOG},
        {"Nats-Incr": "+1"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    ):
        await attacker.client.publish(node_log("n1", "i1"), b"mine", headers=headers)
        await attacker.client.flush()
        await settle(nats_server)
        found = await everything(nodes)
        assert found[0] == (OTHERS_LOG, b"theirs"), headers
        assert {subject for subject, _ in found[1:]} <= {node_log("n1", "i1")}, headers
        assert bystanders.heard == [], headers


async def test_a_slot_cannot_listen_to_others(nats_server: RunningNats, attacker: Attacker) -> None:
    heard: list[str] = []

    async def listen(msg) -> None:
        heard.append(msg.subject)

    for count, subject in enumerate(PRIVATE, start=1):
        await attacker.client.subscribe(subject, cb=listen)
        await attacker.client.flush()
        await until(lambda count=count: len(attacker.denials) == count)
        assert f'permissions violation for subscription to "{subject.lower()}"' in attacker.denials[-1].lower()
    control, other = await nats_server.connect("control"), await nats_server.connect("n2")
    await nats_server.streams()
    await other.appender.publish(OTHERS_LOG, b"secret", msg_id=None, expect=None, timeout_s=5.0)
    await control.bus.publish(push("n2"), b"secret")
    await settle(nats_server)
    await attacker.client.flush()
    assert heard == []


async def test_a_slot_cannot_read_the_jetstream_api(nats_server: RunningNats, attacker: Attacker) -> None:
    await nats_server.streams()
    for subject in ("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.RF_NODES"):
        with pytest.raises(nats.errors.TimeoutError):
            await attacker.client.request(subject, b"{}", timeout=0.1)
    assert len(attacker.denials) == 3


async def test_guessed_message_ids_of_another_slot_are_of_no_use(nats_server: RunningNats, attacker: Attacker) -> None:
    # Ids are compared over the whole stream: that is why the writer salts its ids. Without the salt this works.
    _, nodes = await nats_server.streams()
    await attacker.client.publish(node_log("n1", "i1"), b"squat", headers={"Nats-Msg-Id": "victim.1"})
    await until_stored(nodes, 1)
    port = (await nats_server.connect("n2")).appender
    taken = await port.publish(OTHERS_LOG, b"real", msg_id="victim.1", expect=None, timeout_s=5.0)
    assert taken.duplicate
    salted = await port.publish(OTHERS_LOG, b"real", msg_id="victim.1.5a17", expect=None, timeout_s=5.0)
    assert not salted.duplicate


async def test_headers_that_cannot_be_parsed_do_not_deafen_the_readers(nats_server: RunningNats) -> None:
    _, nodes = await nats_server.streams()
    follower = nodes.read(after=0)
    blocks = (
        b"X",
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nStatus: 100\r\n\r\n",
        b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
    )
    control = await nats_server.connect("control")
    asked: list[bytes] = []

    async def handle(message: Message) -> None:
        asked.append(message.payload)

    await control.bus.subscribe(ALL_RPCS, handle)
    await control.bus.flush()
    await asyncio.sleep(0.1)  # in a cluster the other servers hear of it a moment later
    _, writer = await asyncio.open_connection("127.0.0.1", int(nats_server.url.rpartition(":")[2]))
    credentials = nats_server.credentials("n1")
    sign_in = {"user": credentials.user, "pass": credentials.password, "headers": True, "verbose": False}
    writer.write(b"CONNECT " + json.dumps(sign_in).encode() + b"\r\n")
    for subject in (node_log("n1", "i1"), rpc("n1", "ask")):
        for block in blocks:
            writer.write(b"HPUB %s %d %d\r\n%sx\r\n" % (subject.encode(), len(block), len(block) + 1, block))
    writer.write(b"PUB %s 3\r\nend\r\nPUB %s 3\r\nend\r\n" % (node_log("n1", "i1").encode(), rpc("n1", "ask").encode()))
    await writer.drain()
    found: list[bytes] = []
    while b"end" not in found:
        batch = await follower.next_batch(timeout_s=10.0)
        assert batch, f"deaf after {found}"
        found += [stored.payload for stored in batch]
    await until(lambda: b"end" in asked)
    writer.close()
    await writer.wait_closed()
    await follower.aclose()


async def test_a_slot_cannot_change_streams_or_messages(nats_server: RunningNats, attacker: Attacker) -> None:
    control, nodes = await nats_server.streams()
    await nodes.publish(OTHERS_LOG, b"theirs", msg_id=None, expect=None, timeout_s=5.0)
    api = [
        ("STREAM.CREATE.EVIL", {"name": "EVIL", "subjects": ["rf.>"]}),
        ("STREAM.UPDATE.RF_NODES", {"name": "RF_NODES", "subjects": ["x"], "max_age": 1_000_000_000}),
        ("STREAM.PURGE.RF_NODES", {}),
        ("STREAM.DELETE.RF_NODES", {}),
        ("STREAM.MSG.DELETE.RF_NODES", {"seq": 1}),
        ("STREAM.MSG.GET.RF_NODES", {"seq": 1}),
        ("STREAM.SNAPSHOT.RF_NODES", {"deliver_subject": "_INBOX_n1.stolen"}),
        ("STREAM.PEER.REMOVE.RF_NODES", {"peer": "ringfence-1"}),
        ("STREAM.LEADER.STEPDOWN.RF_NODES", {}),
        ("META.LEADER.STEPDOWN", {}),
        ("CONSUMER.CREATE.RF_NODES", {"stream_name": "RF_NODES", "config": {"deliver_subject": "_INBOX_n1.stolen"}}),
        ("CONSUMER.MSG.NEXT.RF_NODES.any", {"batch": 10}),
        ("DIRECT.GET.RF_NODES", {"seq": 1}),
        ("ACCOUNT.PURGE.CONTROL", {}),
    ]
    stolen: list[bytes] = []

    async def listen(msg) -> None:
        stolen.append(msg.data)

    await attacker.client.subscribe("_INBOX_n1.stolen", cb=listen)
    for count, (operation, body) in enumerate(((f"{head}{op}", body) for op, body in api for head in HEADS), start=1):
        await attacker.client.publish(operation, json.dumps(body).encode(), reply="_INBOX_n1.stolen")
        await attacker.client.flush()
        await until(lambda count=count: len(attacker.denials) == count)
    await settle(nats_server)
    assert stolen == []
    assert await everything(nodes) == [(OTHERS_LOG, b"theirs")]
    assert (await control.state()).last_sequence == 0


async def test_what_a_slot_can_occupy_is_bounded(nats_server: RunningNats) -> None:
    others = await nats_server.connect("n2")
    _, nodes = await nats_server.streams()
    async with contextlib.AsyncExitStack() as opened:
        answers = [await sign_in(nats_server, opened) for _ in range(NODE_CONNECTIONS + 1)]
        while not answers[NODE_CONNECTIONS - 1][0].startswith(b"PONG"):
            # Servers of a cluster learn a moment later that a connection of an earlier test has gone.
            await opened.aclose()
            await asyncio.sleep(0.5)
            answers = [await sign_in(nats_server, opened) for _ in range(NODE_CONNECTIONS + 1)]
        assert [answer.startswith(b"PONG") for answer, *_ in answers] == [True] * NODE_CONNECTIONS + [False]
        assert b"maximum account active connections" in answers[-1][0]
        _, reader, writer = answers[0]
        size = NODE_PAYLOAD_BYTES + 1
        writer.write(b"PUB %s %d\r\n" % (node_log("n1", "i1").encode(), size))
        assert b"Maximum Payload Violation" in await asyncio.wait_for(reader.readline(), 10.0)
        _, reader, writer = answers[1]
        for number in range(NODE_SUBSCRIPTIONS + 1):
            writer.write(b"SUB _INBOX_n1.%d %d\r\n" % (number, number))
        assert b"maximum subscriptions" in (await asyncio.wait_for(reader.readline(), 10.0)).lower()
        await others.bus.flush()
    assert (await nodes.state()).last_sequence == 0


async def sign_in(server: RunningNats, opened: contextlib.AsyncExitStack):
    """A connection of n1 by hand: the server's first word to it, reader, writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))

    async def close() -> None:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    opened.push_async_callback(close)
    await reader.readline()
    credentials = server.credentials("n1")
    asked = {"user": credentials.user, "pass": credentials.password, "verbose": False, "pedantic": False}
    writer.write(b"CONNECT " + json.dumps(asked).encode() + b"\r\nPING\r\n")
    answer = b"INFO"
    while answer.startswith(b"INFO"):
        answer = await asyncio.wait_for(reader.readline(), 10.0)
    return answer, reader, writer


async def everything(stream: JetStreamStream) -> list[tuple[str, bytes]]:
    last = (await stream.state()).last_sequence
    found = [await stream.get(sequence) for sequence in range(1, last + 1)]
    return [(stored.subject, stored.payload) for stored in found if stored is not None]


async def until_stored(stream: JetStreamStream, count: int) -> None:
    """What crosses servers takes a moment longer."""
    async with asyncio.timeout(10.0):
        while (await stream.state()).last_sequence < count:
            await asyncio.sleep(0.02)


async def settle(server: RunningNats) -> None:
    """Return when whatever was on its way has arrived: two round trips by every route that leads anywhere."""
    for user in ("control", "n2", "n1"):
        connection = await connect(server.credentials(user), name=f"settle {user}")
        for _ in range(2):
            await connection.bus.flush()
        await connection.close()
    await asyncio.sleep(0.02)


async def test_append_without_permission_is_uncertain_not_silent(nats_server: RunningNats) -> None:
    await nats_server.streams()
    connection = await nats_server.connect("n1")
    with pytest.raises(AppendUncertain):
        await connection.appender.publish(OTHERS_LOG, b"x", msg_id=None, expect=None, timeout_s=0.2)
    await until(lambda: "permissions violation" in connection.last_error)
