"""Answers on their way back: streams, cuts, vendors that fail, clients that leave."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from support.proxy_rig import AUTH, CHARGE, CREDENTIAL, FORM, TOKEN, Client, ProxyRig, Received, answered, until

from dataplane import streaming
from events.types import Applied, RequestAdmitted, RequestReleased
from schemas.accounts import Cap
from schemas.rpc import ObjectAnswer, ObjectAsk
from schemas.settings import Timing

USD = Cap("usd", "day", 10**12)
CHAT = {"model": "gpt-4o", "stream": True, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
JSON = {**AUTH, "Content-Type": "application/json"}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def event(content: str = "", **more: object) -> bytes:
    choices = [{"index": 0, "delta": {"content": content}, "finish_reason": None}] if content else []
    data = {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": choices, **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stream:
    """A vendor's stream that a test plays event by event."""

    def __init__(self, rig: ProxyRig) -> None:
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        rig.vendor.respond = self._respond

    async def _respond(self, _received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE)
        while (data := await self.events.get()) is not None:
            writer.write(chunked(data) if data else b"0\r\n\r\n")
            await writer.drain()
            if not data:
                return
        writer.transport.abort()

    def say(self, *events: bytes) -> None:
        for data in events:
            self.events.put_nowait(data)

    def end(self) -> None:
        self.say(event(usage=USAGE), b"data: [DONE]\n\n", b"")


@pytest.fixture
async def rig() -> AsyncIterator[ProxyRig]:
    found = await ProxyRig().start(USD)
    yield found
    await found.stop()


async def begin(rig: ProxyRig) -> tuple[Client, Stream]:
    """A chat whose stream has begun: the head and one event have reached the client."""
    stream = Stream(rig)
    client = await rig.connect()
    client.send("POST", "/openai/v1/chat/completions", JSON, json.dumps(CHAT).encode())
    stream.say(event("one"))
    status, headers = await client.head()
    assert status == 200
    assert dict(headers)["X-Ringfence-Request-Id"] == rig.control.of(RequestAdmitted)[-1].request_id
    assert b"one" in (await client.chunk() or b"")
    return client, stream


# ---------------------------------------------------------------- streams


async def test_events_pass_one_by_one_and_the_injected_usage_stays_inside(rig: ProxyRig) -> None:
    client, stream = await begin(rig)
    for word in ("two", "three"):
        stream.say(event(word))
        assert word.encode() in (await client.chunk() or b""), "each event comes before the next is made"
    stream.end()
    rest = b""
    while part := await client.chunk():
        rest += part
    assert part == b"", "the stream ends as its framing promises"
    assert b"[DONE]" in rest
    assert b"usage" not in rest
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.input_tokens, settled.output_tokens) == ("settled", 9, 4)
    assert settled.actual.tokens == 13
    client.send("GET", "/healthz")
    assert (await client.reply()).status == 200, "the connection goes on"
    await client.close()


async def test_a_revocation_cuts_the_stream_with_the_dialects_error_and_stops_the_vendor(rig: ProxyRig) -> None:
    client, _ = await begin(rig)
    revoked = await rig.control.tell(rig.control.key(state="revoked"))
    last = await client.chunk()
    assert last is not None
    assert b'"error"' in last
    assert b"key_revoked" in last
    assert await client.reader.read() == b"0\r\n\r\n"
    await until(rig.vendor.reader.at_eof)
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.error, settled.client_gone) == ("unknown", "key_revoked", False)
    await until(lambda: rig.control.of(Applied)[-1].through == revoked)
    await client.close()


async def test_a_fence_cuts_the_stream_and_the_vendor_is_read_on_for_the_books(rig: ProxyRig) -> None:
    client, stream = await begin(rig)
    await rig.control.fence("n1-1")
    last = await client.chunk()
    assert last is not None
    assert b"stream_cut" in last
    await until(lambda: rig.governor.ready)
    stream.say(event("unseen"))
    stream.end()
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.output_tokens) == ("settled", 4)
    assert settled in rig.control.events("n1-2")
    await client.close()


async def test_a_stream_whose_proof_is_old_ends_before_the_next_event() -> None:
    rig = await ProxyRig(Timing(proof_ttl_ms=150, heartbeat_ms=50)).start(USD)
    client, stream = await begin(rig)
    current = rig.governor.node.incarnation
    assert current is not None
    await current.log.close(0.0)  # as a log that nobody can reach: no proof comes any more
    stream.say(event("late"))
    last = await client.chunk()
    assert last is not None
    assert b"late" not in last
    assert b"stream_cut" in last
    stream.end()
    await until(lambda: len(rig.governor.node.inflight) == 0)
    await client.close()
    await rig.stop()


async def test_a_client_that_leaves_is_billed_by_what_the_vendor_says_at_the_end(rig: ProxyRig) -> None:
    client, stream = await begin(rig)
    client.writer.transport.abort()
    await asyncio.sleep(0.02)
    stream.say(event("two"), event("three"))
    stream.end()
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.output_tokens, settled.client_gone) == ("settled", 4, True)


async def test_a_client_that_leaves_a_stream_without_end_is_held_at_the_bound(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "DRAIN_S", 0.05)
    client, stream = await begin(rig)
    client.writer.transport.abort()
    await asyncio.sleep(0.02)
    stream.say(event("two"))
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.client_gone) == ("unknown", True)


async def test_a_vendor_lost_in_mid_stream_is_told_as_an_error_not_as_an_end(rig: ProxyRig) -> None:
    client, stream = await begin(rig)
    stream.events.put_nowait(None)
    last = await client.chunk()
    assert last is not None
    assert b"upstream_lost" in last
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.error) == ("unknown", "connection_lost")
    await client.close()


async def test_a_revocation_before_the_head_is_an_ordinary_refusal(rig: ProxyRig) -> None:
    gate = asyncio.Event()

    async def slow_head(_received: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(SSE + chunked(event("one")))

    rig.vendor.respond = slow_head
    client = await rig.connect()
    client.send("POST", "/openai/v1/chat/completions", JSON, json.dumps(CHAT).encode())
    await until(lambda: bool(rig.vendor.received))
    revoked = await rig.control.tell(rig.control.key(state="revoked"))
    await until(lambda: rig.control.of(Applied)[-1].through == revoked)
    gate.set()
    reply = await client.reply()
    assert (reply.status, reply.refusal) == (401, "key_revoked")
    assert (await rig.settled())[0].outcome == "unknown"
    await client.close()


async def test_a_slow_client_slows_the_vendor_down(rig: ProxyRig) -> None:
    written = 0
    size = 32 * 1024 * 1024

    async def pour(_received: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    rig.vendor.respond = pour
    client = await rig.connect()
    client.send("GET", "/stripe/v1/charges", AUTH)
    status, headers = await client.head()
    assert (status, dict(headers)["Content-Length"]) == (200, str(size))
    before = -1
    while written != before:  # until the buffers between are full, and nothing moves any more
        before = written
        await asyncio.sleep(0.1)
    assert written < size - 4 * 1024 * 1024
    assert len(await client.reader.readexactly(size)) == size
    assert (await rig.settled())[0].outcome == "settled"
    await client.close()


# ---------------------------------------------------------------- vendors that fail


async def fail_with(rig: ProxyRig, data: bytes) -> None:
    async def respond(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    rig.vendor.respond = respond


@pytest.mark.parametrize(
    ("data", "status", "refusal", "error"),
    [
        (b"", 502, "upstream_lost", "connection_lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 502, "upstream_lost", "connection_lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 502, "upstream_lost", "connection_lost"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 502, "upstream_protocol", "protocol_violation"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            502,
            "upstream_protocol",
            "protocol_violation",
        ),
    ],
)
async def test_a_lost_answer_is_held_as_unknown(
    rig: ProxyRig, data: bytes, status: int, refusal: str, error: str
) -> None:
    await fail_with(rig, data)
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (status, refusal)
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.error) == ("unknown", error)
    assert len(rig.vendor.received) == 1, "a POST is never sent twice"


async def test_a_lost_answer_to_a_read_costs_nothing(rig: ProxyRig) -> None:
    await fail_with(rig, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    assert (await rig.call("GET", "/stripe/v1/charges", AUTH)).refusal == "upstream_lost"
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.actual.usd, settled.actual.requests) == ("settled", 0, 1)


async def test_a_vendor_that_cannot_be_reached_releases_the_request(rig: ProxyRig) -> None:
    await rig.vendor.stop()
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (502, "upstream_unreachable")
    await until(lambda: bool(rig.control.of(RequestReleased)))
    assert rig.control.of(RequestReleased)[0].reason == "connect_failed"
    await rig.vendor.start()


async def test_a_vendor_that_does_not_answer_in_time() -> None:
    rig = await ProxyRig(first_byte_timeout_s=0.1).start(USD)
    gate = asyncio.Event()

    async def never(_received: Received, _writer: asyncio.StreamWriter) -> None:
        await gate.wait()

    rig.vendor.respond = never
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (504, "upstream_timeout")
    assert (await rig.settled())[0].outcome == "unknown"
    gate.set()
    await rig.stop()


@pytest.mark.parametrize(
    ("status", "headers", "refusal"),
    [
        ("302 Found", {"Location": "https://evil.example/"}, "upstream_redirect"),
        ("401 Unauthorized", {"WWW_Authenticate": "Bearer"}, "upstream_credential"),
    ],
)
async def test_what_must_not_reach_the_client_is_replaced(
    rig: ProxyRig, status: str, headers: dict[str, str], refusal: str
) -> None:
    rig.vendor.respond = answered(b'{"error":{"message":"Invalid API Key: sk_live_***"}}', status, **headers)
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (502, refusal)
    assert reply.header("Location") is None
    assert b"evil.example" not in reply.body
    assert b"sk_live" not in reply.body
    await rig.settled()


async def test_secrets_in_answers_are_overwritten(rig: ProxyRig) -> None:
    body = json.dumps({"id": "ch_1", "echo": CREDENTIAL, "vault": TOKEN}).encode()
    rig.vendor.respond = answered(body, X_Echo=f"Bearer {CREDENTIAL}")
    reply = await rig.call("GET", "/stripe/v1/charges/ch_1", AUTH)
    assert reply.header("X-Echo") == f"Bearer {'*' * len(CREDENTIAL)}"
    assert len(reply.body) == len(body)
    assert reply.json == {"id": "ch_1", "echo": "*" * len(CREDENTIAL), "vault": "*" * len(TOKEN)}


async def test_a_secret_split_between_two_pieces_of_a_large_answer_is_overwritten(rig: ProxyRig) -> None:
    half = len(CREDENTIAL) // 2
    size = 600_000

    async def respond(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size + len(CREDENTIAL)}\r\n\r\n".encode())
        writer.write(b"x" * size + CREDENTIAL[:half].encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(CREDENTIAL[half:].encode())

    rig.vendor.respond = respond
    reply = await rig.call("GET", "/stripe/v1/charges/ch_1", AUTH)
    assert reply.body == b"x" * size + b"*" * len(CREDENTIAL)


async def test_a_half_sent_body_is_aborted_by_a_revocation(rig: ProxyRig) -> None:
    deaf = socket.create_server(("127.0.0.1", 0))  # accepted by the system, read by nobody
    port = deaf.getsockname()[1]
    stripe = rig.destinations.by_name["stripe"]
    stripe.origin = stripe.origin._replace(port=port)
    body = CHARGE + b"&description=" + b"x" * (24 * 1024 * 1024)
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM}, body)
    await until(lambda: any(admission.state == 2 for admission in rig.governor.node.inflight))
    await rig.control.tell(rig.control.key(state="revoked"))
    reply = await client.reply()
    assert (reply.status, reply.refusal) == (401, "key_revoked")
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.error) == ("unknown", "key_revoked")
    await client.close()
    deaf.close()


async def test_a_request_that_was_sent_whole_ends_normally_though_its_key_is_revoked(rig: ProxyRig) -> None:
    gate = asyncio.Event()

    async def slowly(received: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answered(b'{"id":"ch_1","object":"charge"}')(received, writer)

    rig.vendor.respond = slowly
    charging = asyncio.create_task(rig.charge())
    await until(lambda: bool(rig.vendor.received))
    revoked = await rig.control.tell(rig.control.key(state="revoked"))
    await until(lambda: rig.control.of(Applied)[-1].through == revoked)
    gate.set()
    assert (await charging).status == 200
    assert (await rig.charge()).refusal == "key_revoked"
    await rig.settled()


# ---------------------------------------------------------------- replayed answers


CH = {"id": "ch_1", "object": "charge", "amount": 500, "amount_captured": 500, "currency": "usd"}
SUCCEEDED = json.dumps({**CH, "status": "succeeded", "captured": True, "paid": True}).encode()
REF = "stripe/-/ch_1"
EXPOSURE = 5 * 10**9


@pytest.mark.parametrize(
    ("known", "counts"),
    [
        (ObjectAnswer(REF), True),
        (ObjectAnswer(REF, earlier_unknown=True), True),
        (ObjectAnswer(REF, 0, earlier_unknown=True), True),  # the attempt that was lost moved it
        (ObjectAnswer(REF, 0), False),  # refunded or cancelled since
        (ObjectAnswer(REF, EXPOSURE, earlier_unknown=True), False),  # somebody else has told it already
        (ObjectAnswer(REF, 2 * EXPOSURE, earlier_unknown=True), False),
    ],
)
async def test_a_replayed_answer_counts_where_the_ledger_knows_less(
    rig: ProxyRig, known: ObjectAnswer, counts: bool
) -> None:
    rig.vendor.respond = answered(SUCCEEDED, Idempotent_Replayed="true")
    rig.control.objects[REF] = known
    assert (await rig.charge(Idempotency_Key="order-7")).status == 200
    (settled,) = await rig.settled()
    (admitted,) = rig.control.of(RequestAdmitted)
    assert settled.resolves == admitted.idempotency != ""
    assert (settled.object.exposure_nanos if settled.object else None) == (EXPOSURE if counts else None)
    assert rig.control.object_asks == [ObjectAsk(REF, admitted.idempotency, admitted.request_id)]


async def test_an_answer_that_is_no_replay_asks_nobody_and_resolves_nothing(rig: ProxyRig) -> None:
    rig.vendor.respond = answered(SUCCEEDED)
    await rig.charge(Idempotency_Key="order-7")
    (settled,) = await rig.settled()
    assert (settled.resolves, settled.object is not None) == ("", True)
    assert not rig.control.object_asks


async def test_while_the_ledger_is_silent_a_replay_counts_and_resolves_nothing(rig: ProxyRig) -> None:
    rig.vendor.respond = answered(SUCCEEDED, Idempotent_Replayed="true")
    rig.control.silent.add("object")
    assert (await rig.charge(Idempotency_Key="order-7")).status == 200
    (settled,) = await rig.settled()
    assert (settled.outcome, settled.resolves, settled.object) == ("settled", "", None)


# ---------------------------------------------------------------- the end


async def test_a_drain_lets_open_requests_end_and_closes_idle_connections(rig: ProxyRig) -> None:
    client, stream = await begin(rig)
    idle = await rig.connect()
    idle.send("GET", "/healthz")
    await idle.reply()
    rig.listening.stop_accepting()
    draining = asyncio.create_task(rig.governor.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    stream.end()
    rest = b""
    while part := await client.chunk():
        rest += part
    assert b"[DONE]" in rest
    await draining
    await rig.listening.close(1.0)
    assert await idle.reader.read() == b""
    with pytest.raises(ConnectionError):
        await rig.connect()
    await client.close()
