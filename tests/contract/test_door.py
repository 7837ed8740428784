"""The door, over real HTTP: what an overloaded node says, and that nobody's bytes can fill it."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.proxy_rig import AUTH, CHARGE, FORM, TOKEN, Client, ProxyRig, answered, until

from dataplane import answer, intake, server
from dataplane.core.shed import FLOOR
from events.types import RequestRefused
from schemas.accounts import Cap

USD = Cap("usd", "day", 10**12)


@pytest.fixture
async def rig() -> AsyncIterator[ProxyRig]:
    found = await ProxyRig().start(USD)
    found.vendor.respond = answered(b'{"id":"ch_1","object":"charge","amount":500,"currency":"usd","captured":true}')
    yield found
    await found.stop()


def fill(rig: ProxyRig) -> None:
    """As if the queue were full of others' requests."""
    shedder = rig.proxy.door.shedder
    shedder.limit = 1
    shedder.hold("others")


def clear(rig: ProxyRig) -> None:
    rig.proxy.door.shedder.release("others")


def charge(client: Client, headers: dict[str, str] | None = None, body: bytes = CHARGE) -> None:
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, **(headers or {})}, body)


async def test_a_full_node_refuses_in_the_vendors_shape_and_goes_on_with_the_connection(rig: ProxyRig) -> None:
    fill(rig)
    client = await rig.connect()
    names = set()
    for _ in range(3):
        charge(client)
        reply = await client.reply()
        assert (reply.status, reply.refusal, reply.header("Retry-After")) == (503, "overloaded", "1")
        assert reply.header("Stripe-Should-Retry") == "false"
        assert "error" in reply.json
        names.add(reply.header("X-Ringfence-Request-Id"))
    assert len(names) == 3
    clear(rig)
    charge(client)
    assert (await client.reply()).status == 200
    assert len(rig.vendor.received) == 1


async def test_each_refusal_is_counted_on_record_with_its_key(rig: ProxyRig) -> None:
    fill(rig)
    client = await rig.connect()
    for _ in range(5):
        charge(client)
        await client.reply()
    rig.governor.node.refusals.flush(0, all_now=True)
    await until(lambda: sum(event.count for event in rig.control.of(RequestRefused)) == 5)
    first: Any = rig.control.of(RequestRefused)[0]
    assert (first.code, first.who.key, first.who.agent, first.upstream) == ("overloaded", "vk_1", "bot", "stripe")
    assert (first.path, first.method, first.status) == ("/v1/charges", "POST", 503)
    assert rig.metrics.refusals["overloaded"] == 5
    assert rig.metrics.shed == 5
    clear(rig)
    metrics = (await rig.call("GET", "/metrics")).body.decode()
    assert "ringfence_shed_total 5.0" in metrics
    assert "ringfence_door_queue 0.0" in metrics


@pytest.mark.parametrize(
    "headers", [{"Transfer-Encoding": "chunked"}, {"Connection": "close"}, {"Expect": "100-continue"}]
)
async def test_what_cannot_be_judged_by_its_bytes_is_parsed_and_refused_alike(
    rig: ProxyRig, headers: dict[str, str]
) -> None:
    fill(rig)
    client = await rig.connect()
    if "Transfer-Encoding" in headers:
        client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, **headers})
        client.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHARGE), CHARGE))
    else:
        charge(client, headers)
    reply = await client.reply()
    assert (reply.status, reply.refusal, reply.header("Retry-After")) == (503, "overloaded", "1")
    assert rig.vendor.received == []
    assert rig.metrics.shed == 1
    clear(rig)


@pytest.mark.interpreted
async def test_what_would_wait_for_a_log_that_takes_no_more_is_refused_like_what_would_wait_at_the_door(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = rig.metrics.backlog
    backlog.limit, backlog.look_at_ns = 1, 2**63
    client = await rig.connect()
    charge(client)
    assert (await client.reply()).status == 200  # nothing waits, so one more may
    incarnation: Any = rig.governor.node.incarnation
    monkeypatch.setattr(type(incarnation.log), "queued_events", property(lambda _: 2))
    charge(client)
    reply = await client.reply()
    assert (reply.status, reply.refusal, reply.header("Retry-After")) == (503, "overloaded", "1")
    assert rig.proxy.door.shedder.queued == 0
    assert (await rig.call("GET", "/healthz")).status == 200
    monkeypatch.undo()
    charge(client)
    assert (await client.reply()).status == 200


async def test_its_own_endpoints_answer_most_of_all_when_it_is_full(rig: ProxyRig) -> None:
    fill(rig)
    client = await rig.connect()
    for path in ("/healthz", "/readyz", "/metrics"):
        client.send("GET", path)
        assert (await client.reply()).status == 200
    assert rig.metrics.shed == 0
    clear(rig)


async def test_a_refused_body_that_is_still_to_come_is_dropped_and_the_next_request_is_read_right(
    rig: ProxyRig,
) -> None:
    fill(rig)
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Content-Length": str(2 * len(CHARGE))}, CHARGE)
    assert (await client.reply()).refusal == "overloaded"
    clear(rig)
    await asyncio.sleep(0.01)
    client.writer.write(CHARGE)
    charge(client)
    assert (await client.reply()).status == 200
    assert [received.body for received in rig.vendor.received] == [CHARGE]


async def test_bytes_that_follow_a_part_of_a_head_are_never_taken_for_a_request(rig: ProxyRig) -> None:
    """The part came behind another request, while that was being answered."""
    client = await rig.connect()
    charge(client)
    client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nX-Part: ")
    assert (await client.reply()).status == 200
    await asyncio.sleep(0.01)
    fill(rig)
    charge(client)  # for the parser this is the value of X-Part, and a body that GET has not announced
    reply = await client.reply()
    assert (reply.status, reply.refusal) != (503, "overloaded")
    clear(rig)


async def test_a_body_that_comes_apart_from_its_head_does_not_make_a_connection_unclear(rig: ProxyRig) -> None:
    client = await rig.connect()
    for _ in range(3):
        client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Content-Length": str(len(CHARGE))})
        await client.writer.drain()
        await asyncio.sleep(0.01)
        client.writer.write(CHARGE)
        assert (await client.reply()).status == 200
    (connection,) = rig.listening._server.connections
    assert connection._aligned  # type: ignore[attr-defined]  # the server's own connections
    fill(rig)
    charge(client)
    assert (await client.reply()).refusal == "overloaded"
    clear(rig)


async def test_a_request_in_pieces_holds_no_place_while_it_comes(rig: ProxyRig) -> None:
    shedder = rig.proxy.door.shedder
    client = await rig.connect()
    client.writer.write(b"POST /stripe/v1/charges HTTP/1.1\r\nHost: gateway\r\n")
    await client.writer.drain()
    await asyncio.sleep(0.02)
    assert shedder.queued == 0
    client.writer.write(f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(CHARGE)}\r\n".encode())
    client.writer.write(b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + CHARGE)
    assert (await client.reply()).status == 200
    assert shedder.queued == 0


async def test_no_place_is_lost_whatever_comes_and_whoever_goes(rig: ProxyRig) -> None:
    shedder = rig.proxy.door.shedder
    for data in (b"nonsense\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n\r\n", b"GET /stripe/v1/x HTTP/1.1\r\nHost: a\r\n"):
        client = await rig.connect()
        client.writer.write(data)
        await client.close()
    client = await rig.connect()
    for _ in range(5):
        charge(client)
    await client.close()
    assert (await rig.charge()).status == 200
    await until(lambda: shedder.queued == 0)


async def test_a_runaways_many_connections_leave_room_for_another_agent(rig: ProxyRig) -> None:
    """All of a turn's arrivals come from one agent, and one from another, which is the last."""
    shedder = rig.proxy.door.shedder
    shedder.limit = FLOOR
    for _ in range(FLOOR):
        assert shedder.arrive("runaway", 1)
    reply = await rig.charge()
    assert reply.status == 200
    for _ in range(FLOOR):
        shedder.withdraw("runaway")


@pytest.mark.interpreted
async def test_a_request_is_in_hand_until_the_log_has_its_intent_and_not_while_the_vendor_works(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shedder = rig.proxy.door.shedder
    answers, in_hand = asyncio.Event(), []
    admitter = rig.governor._admitter
    acknowledge = admitter._acknowledge

    async def watched(*arguments: Any) -> Any:
        in_hand.append((shedder.queued, shedder.in_hand))
        return await acknowledge(*arguments)

    monkeypatch.setattr(admitter, "_acknowledge", watched)
    respond = rig.vendor.respond

    async def slow(*arguments: Any) -> Any:
        await answers.wait()
        return await respond(*arguments)

    rig.vendor.respond = slow
    client = await rig.connect()
    charge(client)
    await until(lambda: len(rig.vendor.received) == 1)
    assert in_hand == [(0, 1)]
    assert shedder.in_hand == 0
    answers.set()
    assert (await client.reply()).status == 200


async def test_an_agent_whose_requests_wait_for_leases_takes_nobodys_room(rig: ProxyRig) -> None:
    """They may wait for seconds, hundreds of them, and are no work for the node (P6)."""
    shedder = rig.proxy.door.shedder
    other = "rfk_" + "o" * 43
    digest = hashlib.sha256(other.encode()).hexdigest()
    await rig.control.tell(rig.control.key("vk_2", agent="quiet", tokens=(digest,)), rig.control.agent("quiet"))
    await until(lambda: "vk_2" in rig.governor.snapshot.keys)
    rig.control.silent.add("ask")
    clients = [await rig.connect() for _ in range(8)]
    for client in clients:
        charge(client)
    incarnation = rig.governor.node.incarnation
    assert incarnation is not None
    await until(lambda: incarnation.desk.waiting == len(clients))
    assert (shedder.queued, shedder.in_hand) == (0, 0)
    shedder.limit = 1
    client = await rig.connect()
    charge(client, {"Authorization": f"Bearer {other}"})
    assert (await client.reply()).status == 200
    rig.control.silent.clear()
    for client in clients:
        assert (await client.reply()).status == 200


async def test_a_head_that_does_not_come_is_given_up(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.1)
    client = await rig.connect()
    client.writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
    reply = await client.reply()
    assert (reply.status, reply.refusal) == (408, "request_timeout")
    assert await client.reader.read() == b""


async def test_a_body_that_does_not_come_is_given_up(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BODY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Content-Length": "100"}, b"amount=1")
    reply = await client.reply()
    assert (reply.status, reply.refusal) == (408, "request_timeout")


async def test_bodies_that_are_still_coming_count_too(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_HELD_BYTES", 1000)
    slow = [await rig.connect() for _ in range(3)]
    for client in slow:
        client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Content-Length": "900"}, b"a" * 400)
        await client.writer.drain()
        await asyncio.sleep(0.02)
    assert (await slow[2].reply()).refusal == "overloaded"
    for client in slow:
        await client.close()
    await until(lambda: rig.proxy._bodies.held_bytes == 0)
    assert (await rig.charge()).status == 200


async def test_there_are_only_so_many_connections(rig: ProxyRig) -> None:
    rig.listening._server.max_connections = 2
    first, second = await rig.connect(), await rig.connect()
    for client in (first, second):
        client.send("GET", "/healthz")
        assert (await client.reply()).status == 200
    third = await rig.connect()
    reply = await third.reply()
    assert (reply.status, reply.refusal, reply.header("Connection")) == (503, "overloaded", "close")
    assert await third.reader.read() == b""
    await first.close()
    await until(lambda: len(rig.listening._server.connections) == 1)
    assert (await rig.call("GET", "/healthz")).status == 200


async def test_a_client_that_reads_nothing_is_waited_for_and_not_worked_for(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "STALLED_S", 0.2)
    rig.vendor.respond = answered(json.dumps({"id": "ch_1", "padding": "x" * 200_000}).encode())
    client = await rig.connect()
    transport: Any = client.writer.transport
    try:
        await keep_little(rig, transport)
        for _ in range(20):
            charge(client)
        await until(lambda: not rig.listening._server.connections)
    finally:
        transport.abort()
    # One answer that the kernel did not take, perhaps a second; the rest was never asked for.
    assert len(rig.vendor.received) < 5


async def test_a_client_that_reads_no_refusal_is_given_up(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(rig)
    client = await rig.connect()
    charge(client)
    assert (await client.reply()).refusal == "overloaded"
    # As if that answer were unread, and one too many: how much the kernel keeps of small answers is its own affair.
    monkeypatch.setattr(server, "UNREAD_BYTES", -1)
    charge(client)
    await until(lambda: not rig.listening._server.connections)
    clear(rig)


async def keep_little(rig: ProxyRig, transport: Any) -> None:
    """Let the kernel keep little for the one connection, whose client reads nothing."""
    transport.pause_reading()
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await until(lambda: len(rig.listening._server.connections) == 1)
    (connection,) = rig.listening._server.connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
