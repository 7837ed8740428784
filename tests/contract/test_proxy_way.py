"""A request's way through the proxy, over real HTTP: what goes on, what is refused, what is on record."""

import asyncio
import gc
import gzip
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from support.proxy_rig import AUTH, CHARGE, CREDENTIAL, DIGEST, FORM, TOKEN, ProxyRig, Received, answered, until

from dataplane.admit import AGAIN, STALE
from dataplane.exchange import Carriage, Exchange
from events.types import RequestAdmitted, RequestRefused, RequestReleased
from schemas.accounts import Cap
from schemas.amounts import Amounts

CH = b'{"id":"ch_1","object":"charge","amount":500,"amount_captured":500,"currency":"usd","status":"succeeded","captured":true,"paid":true}'
USD = Cap("usd", "day", 10**12)


@pytest.fixture
async def rig() -> AsyncIterator[ProxyRig]:
    found = await ProxyRig().start(USD)
    found.vendor.respond = answered(CH)
    yield found
    await found.stop()


# ---------------------------------------------------------------- what goes on


async def test_a_charge_goes_out_once_under_the_real_credential_and_is_on_record(rig: ProxyRig) -> None:
    reply = await rig.charge(Cookie="session=1", X_Forwarded_For="10.0.0.1", X_Custom="kept")
    assert (reply.status, reply.body) == (200, CH)
    (received,) = rig.vendor.received
    assert (received.method, received.target, received.body) == ("POST", "/v1/charges", CHARGE)
    names = [name.lower() for name, _ in received.headers]
    assert names.count("authorization") == 1
    assert received.header("Authorization") == f"Bearer {CREDENTIAL}"
    assert received.header("X-Custom") == "kept"
    assert not {"cookie", "x-forwarded-for", "x-agent-identity"} & set(names)
    (settled,) = await rig.settled()
    (admitted,) = rig.control.of(RequestAdmitted)
    assert (admitted.who.key, admitted.who.agent, admitted.who.owner) == ("vk_1", "bot", "finance")
    assert admitted.bound == Amounts(usd=5 * 10**9, requests=1)
    assert settled.object is not None
    assert settled.object.exposure_nanos == 5 * 10**9
    assert settled.status == 200
    assert 0 < settled.overhead_us <= settled.latency_us


async def test_a_connection_whose_requests_come_with_different_keys_mixes_none_of_them(rig: ProxyRig) -> None:
    """One after the other, and pipelined: the door has seen the first of them alone."""
    other, stranger = "rfk_" + "o" * 43, "rfk_" + "s" * 43
    digest = hashlib.sha256(other.encode()).hexdigest()
    await rig.control.tell(rig.control.key("vk_2", tokens=(digest,)))
    await until(lambda: "vk_2" in rig.governor.snapshot.keys)
    client = await rig.connect()
    turns = [(TOKEN, 200), (other, 200), (stranger, 401), (TOKEN, 200), (other + "x", 401), (other, 200), (TOKEN, 200)]
    for token, status in turns:
        client.send("POST", "/stripe/v1/charges", {"Authorization": f"Bearer {token}", **FORM}, CHARGE)
        assert (await client.reply()).status == status
    for token, _ in turns:
        client.send("POST", "/stripe/v1/charges", {"Authorization": f"Bearer {token}", **FORM}, CHARGE)
    for _, status in turns:
        assert (await client.reply()).status == status
    keys = [admitted.who.key for admitted in rig.control.of(RequestAdmitted)]
    assert keys == ["vk_1", "vk_2", "vk_1", "vk_2", "vk_1"] * 2


async def test_the_books_are_in_order_before_the_client_sees_the_answer(rig: ProxyRig) -> None:
    client = await rig.connect()
    for number in range(1, 6):
        client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM}, CHARGE)
        reply = await client.reply()
        assert reply.status == 200
        assert len(rig.governor.node.inflight) == 0
        assert len(rig.vendor.received) == number
    await client.close()


async def test_pipelined_requests_are_answered_in_order(rig: ProxyRig) -> None:
    client = await rig.connect()
    for path in ("/healthz", "/stripe/v1/charges", "/readyz"):
        client.send("GET" if "z" in path else "POST", path, {**AUTH, **FORM}, b"" if "z" in path else CHARGE)
    assert (await client.reply()).json["status"] == "ok"
    assert (await client.reply()).body == CH
    assert (await client.reply()).json["ready"] is True
    await client.close()


async def test_a_chunked_body_is_gathered_and_goes_on_with_its_length(rig: ProxyRig) -> None:
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Transfer-Encoding": "chunked"})
    for piece in (CHARGE[:10], CHARGE[10:]):
        await asyncio.sleep(0.01)
        client.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    client.writer.write(b"0\r\n\r\n")
    assert (await client.reply()).status == 200
    (received,) = rig.vendor.received
    assert received.body == CHARGE
    assert received.header("Content-Length") == str(len(CHARGE))
    assert received.header("Transfer-Encoding") is None
    await client.close()


async def test_expect_continue_is_answered_only_when_the_body_is_wanted(rig: ProxyRig) -> None:
    client = await rig.connect()
    wanted = {**AUTH, **FORM, "Expect": "100-continue", "Content-Length": str(len(CHARGE))}
    client.send("POST", "/stripe/v1/charges", wanted)
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    client.writer.write(CHARGE)
    assert (await client.reply()).status == 200
    assert rig.vendor.received[0].header("Expect") is None
    client.send("POST", "/stripe/v1/charges", {**FORM, "Expect": "100-continue", "Content-Length": "999"})
    refused = await client.reply()
    assert (refused.status, refused.refusal, refused.header("Connection")) == (401, "unknown_key", "close")
    await client.close()


async def test_head_announces_a_length_and_sends_no_body(rig: ProxyRig) -> None:
    rig.vendor.respond = answered(b"", Content_Length="1234")
    reply = await rig.call("HEAD", "/stripe/v1/charges/ch_1", AUTH)
    assert (reply.status, reply.header("Content-Length"), reply.body) == (200, "1234", b"")
    refused = await rig.call("HEAD", "/stripe/v1/../x", AUTH)
    assert (refused.status, refused.refusal) == (400, "path_not_canonical")
    assert (await rig.settled())[0].outcome == "settled"


async def test_an_own_host_takes_the_whole_path(rig: ProxyRig) -> None:
    reply = await rig.call("POST", "/v1/charges", {**AUTH, **FORM, "Host": "Pay.Gateway.Local:8080"}, CHARGE)
    assert reply.status == 200
    assert rig.control.of(RequestAdmitted)[0].upstream == "hosted"


async def test_answers_without_a_body_have_none(rig: ProxyRig) -> None:
    async def nothing(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    rig.vendor.respond = nothing
    client = await rig.connect()
    client.send("GET", "/stripe/v1/charges", AUTH)
    reply = await client.reply()
    assert (reply.status, reply.header("Content-Length"), reply.header("Transfer-Encoding")) == (204, None, None)
    client.send("GET", "/healthz")
    assert (await client.reply()).status == 200
    await client.close()


async def test_http_1_0_clients_get_a_connection_that_ends(rig: ProxyRig) -> None:
    client = await rig.connect()
    client.writer.write(f"GET /healthz HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    reply = await client.reply()
    assert (reply.status, reply.header("Connection")) == (200, "close")
    assert await client.reader.read() == b""
    await client.close()


# ---------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[str, str, dict[str, str], bytes, int]] = {
    "path_not_canonical": ("GET", "/stripe/v1/%2e%2e/x", AUTH, b"", 400),
    "unknown_upstream": ("GET", "/paypal/v1/x", AUTH, b"", 404),
    "unknown_key": ("GET", "/stripe/v1/charges", {"Authorization": "Bearer sk_live_1"}, b"", 401),
    "identity_invalid": ("GET", "/stripe/v1/charges", {**AUTH, "X-Agent-Identity": "bot"}, b"", 400),
    "identity_mismatch": ("GET", "/stripe/v1/charges", {**AUTH, "X-Agent-Identity": "name=other"}, b"", 403),
    "body_too_large": ("POST", "/stripe/v1/charges", {**AUTH, **FORM}, b"a=" + b"x" * 3000, 413),
    "body_unparseable": ("POST", "/stripe/v1/charges", {**AUTH, **FORM}, b"amount=1&amount=2&currency=usd", 400),
    "cost_unbounded": ("POST", "/stripe/v1/invoices/in_1/pay", {**AUTH, **FORM}, b"", 422),
    "method_override": ("POST", "/stripe/v1/charges", {**AUTH, **FORM, "X-HTTP-Method-Override": "GET"}, CHARGE, 400),
    "account_switch": ("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Stripe-Account": "acct_2"}, CHARGE, 403),
    "request_malformed": ("TRACE", "/stripe/v1/charges", AUTH, b"", 400),
}


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refusal_reaches_no_vendor_and_is_on_record(code: str) -> None:
    rig = await ProxyRig(max_body_bytes=2048).start(USD)
    method, target, headers, body, status = REFUSED[code]
    reply = await rig.call(method, target, headers, body)
    assert (reply.status, reply.refusal) == (status, code)
    assert reply.header("x-should-retry") == "false"
    await until(lambda: bool(rig.control.of(RequestRefused)))
    (refused,) = rig.control.of(RequestRefused)
    assert (refused.code, refused.status, refused.request_id) == (
        code,
        status,
        reply.header("X-Ringfence-Request-Id"),
    )
    known = code not in {"path_not_canonical", "unknown_upstream", "unknown_key", "request_malformed"}
    assert refused.who.key == ("vk_1" if known else "")
    assert not rig.vendor.received
    assert not rig.control.of(RequestAdmitted)
    await rig.stop()


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"state": "revoked"}, "key_revoked", 401),
        ({"tokens": (), "dead_tokens": (DIGEST,)}, "key_revoked", 401),
        ({"state": "suspended"}, "key_suspended", 403),
        ({"expires_at_ns": 5}, "key_expired", 401),
        ({"upstreams": ("openai",)}, "upstream_not_allowed", 403),
        ({"endpoints": ("/v1/refunds",)}, "endpoint_not_allowed", 403),
        ({"rpm": 1}, "rate_limited", 429),
        ({"agent": "nobody"}, "agent_unknown", 403),
        ({"identity": "declared"}, "identity_required", 400),
    ],
)
async def test_the_policy_of_the_moment_decides(rig: ProxyRig, change: dict[str, Any], code: str, status: int) -> None:
    assert (await rig.charge()).status == 200
    told = await rig.control.tell(rig.control.key(**change))
    await until(lambda: rig.governor.snapshot.position == told)
    replies = [await rig.charge() for _ in range(2 if code == "rate_limited" else 1)]
    assert (replies[-1].status, replies[-1].refusal) == (status, code)
    assert len(rig.vendor.received) == len(replies)
    await until(lambda: bool(rig.control.of(RequestRefused)))
    assert rig.control.of(RequestRefused)[0].who.key == "vk_1"


async def test_a_cap_is_refused_with_its_figures_and_the_upstreams_own_status() -> None:
    rig = await ProxyRig(cap_status=429).start(USD, Cap("usd", "request", 10**9))
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (429, "cap_exhausted")
    assert reply.json["error"]["code"] == "cap_exhausted"
    await until(lambda: bool(rig.control.of(RequestRefused)))
    refused = rig.control.of(RequestRefused)[0]
    assert refused.line == "key:vk_1:usd:request:0"
    assert refused.bound.usd == 5 * 10**9
    await rig.stop()


async def test_without_a_cap_an_unbounded_call_passes() -> None:
    rig = await ProxyRig().start()
    rig.vendor.respond = answered(b'{"id":"in_1","object":"invoice"}')
    reply = await rig.call("POST", "/stripe/v1/invoices/in_1/pay", {**AUTH, **FORM}, b"")
    assert (reply.status, reply.refusal) == (200, "")
    assert rig.control.of(RequestAdmitted)[0].bound == Amounts(requests=1)
    await rig.stop()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(CHARGE)),
        ({"Content-Encoding": "br"}, CHARGE),
    ],
)
async def test_compressed_bodies_are_refused(rig: ProxyRig, headers: dict[str, str], body: bytes) -> None:
    reply = await rig.call("POST", "/stripe/v1/charges", {**AUTH, **FORM, **headers}, body)
    assert (reply.status, reply.refusal) == (400, "body_unparseable")
    assert not rig.vendor.received


async def test_a_chunked_body_that_grows_too_large_is_refused_while_it_comes() -> None:
    rig = await ProxyRig(max_body_bytes=1000).start(USD)
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM, "Transfer-Encoding": "chunked"})
    for _ in range(4):
        client.writer.write(b"12c\r\n" + b"x" * 300 + b"\r\n")
        await asyncio.sleep(0.01)
    reply = await client.reply()
    assert (reply.status, reply.refusal, reply.header("Connection")) == (413, "body_too_large", "close")
    await client.close()
    await rig.stop()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://evil.example/stripe/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /stripe/v1/charges HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n",
        b"GET /openai/v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_malformed_messages_are_refused_by_name(rig: ProxyRig, raw: bytes) -> None:
    client = await rig.connect()
    client.writer.write(raw)
    reply = await client.reply()
    assert reply.status == 400
    assert reply.refusal in {"request_malformed", "path_not_canonical"}
    assert (reply.header("X-Ringfence-Request-Id") or "").startswith("req_")
    assert not rig.vendor.received
    await client.close()


async def test_above_its_limit_an_upstream_is_overloaded_for_the_others_only(rig: ProxyRig) -> None:
    rig.destinations.by_name["stripe"].lane.limit = 1
    gate = asyncio.Event()

    async def slowly(received: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answered(CH)(received, writer)

    rig.vendor.respond = slowly
    first = asyncio.create_task(rig.charge())
    await until(lambda: len(rig.vendor.received) == 1)
    refused = await rig.charge()
    assert (refused.status, refused.refusal) == (503, "overloaded")
    gate.set()
    assert (await first).status == 200


# ---------------------------------------------------------------- between admission and dispatch


@pytest.mark.interpreted
async def test_an_old_proof_is_renewed_and_a_lost_admission_is_made_again(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, verdicts = rig.governor.check_dispatch, [STALE, AGAIN]

    def first_something_else(admission: Any) -> Any:
        if not verdicts:
            return check(admission)
        verdict = verdicts.pop(0)
        if verdict is AGAIN:
            rig.governor.release(admission, "fenced")
        return verdict

    monkeypatch.setattr(rig.governor, "check_dispatch", first_something_else)
    reply = await rig.charge()
    assert reply.status == 200
    first, second = rig.control.of(RequestAdmitted)
    assert rig.control.of(RequestReleased)[0].request_id == first.request_id
    assert reply.header("X-Ringfence-Request-Id") == second.request_id
    assert len(rig.vendor.received) == 1


@pytest.mark.interpreted
async def test_what_is_revoked_between_admission_and_dispatch_is_refused_and_on_record(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = rig.governor.check_dispatch

    def revoke_first(admission: Any) -> Any:
        rig.governor.node.feed.take(
            rig.control.delta(rig.control.seq, rig.control.record(rig.control.key(state="revoked")))
        )
        return check(admission)

    monkeypatch.setattr(rig.governor, "check_dispatch", revoke_first)
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (401, "key_revoked")
    assert not rig.vendor.received
    await until(lambda: bool(rig.control.of(RequestReleased)))


async def test_a_client_that_has_gone_before_the_dispatch_costs_nothing(rig: ProxyRig) -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow_ledger(_slot: str, ask: Any) -> Any:
        await gate
        return rig.control.lend(ask)

    rig.control.answer["ask"] = slow_ledger
    client = await rig.connect()
    client.send("POST", "/stripe/v1/charges", {**AUTH, **FORM}, CHARGE)
    await until(lambda: bool(rig.control.asks))
    await client.close()
    await asyncio.sleep(0.05)
    gate.set_result(None)
    await until(lambda: bool(rig.control.of(RequestReleased)))
    assert rig.control.of(RequestReleased)[0].reason == "client_gone"
    assert not rig.vendor.received


async def test_a_defect_is_answered_counted_and_leaves_nothing_open(
    rig: ProxyRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = rig.destinations.by_name["stripe"].adapter

    def broken(*_: Any) -> Any:
        raise RuntimeError(f"with a secret: {CREDENTIAL}")

    monkeypatch.setattr(type(adapter), "meter", broken)
    reply = await rig.charge()
    assert (reply.status, reply.refusal) == (500, "internal")
    assert CREDENTIAL not in caplog.text
    assert "RuntimeError" in caplog.text
    assert (await rig.settled())[0].outcome == "unknown"
    assert rig.metrics.defects == 1
    rig.metrics.defects = 0


# ---------------------------------------------------------------- the gateway's own endpoints


async def test_health_readiness_metrics_and_usage(rig: ProxyRig) -> None:
    assert (await rig.call("GET", "/healthz")).status == 200
    ready = await rig.call("GET", "/readyz")
    assert (ready.status, ready.json["ready"], ready.json["node"]) == (200, True, "n1")
    # The scripted control plane lives in another year; nodes go by its clock, so this only warns.
    assert [(row["code"], row["warning"]) for row in ready.json["reasons"]] == [("clock_offset", True)]
    await rig.charge()
    metrics = (await rig.call("GET", "/metrics")).body.decode()
    assert 'ringfence_requests_total{outcome="relayed",upstream="stripe"} 1.0' in metrics
    assert "ringfence_node_proof_age_seconds" in metrics
    usage = await rig.call("GET", "/v1/usage", AUTH)
    assert usage.status == 200
    assert (usage.json["total_requests"], usage.json["total_cost_usd"]) == (3, "1.50")
    assert (await rig.call("GET", "/v1/usage")).refusal == "unknown_key"
    assert (await rig.call("GET", "/v1/jobs/1", AUTH)).refusal == "unknown_upstream"
    assert (await rig.call("POST", "/v1/usage", AUTH)).refusal == "request_malformed"
    rig.governor.node.draining = True
    unready = await rig.call("GET", "/readyz")
    assert (unready.status, unready.json["reasons"][0]["code"]) == (503, "draining")
    assert (await rig.charge()).refusal == "draining"
    rig.governor.node.draining = False


async def test_new_credentials_serve_the_next_request(rig: ProxyRig) -> None:
    settings = {name: found.settings for name, found in rig.destinations.by_name.items()}
    renewed = {"stripe": replace(settings["stripe"], credential="sk_live_" + "n" * 24)}
    assert rig.destinations.renew(renewed) == ["stripe"]
    assert rig.destinations.renew(renewed) == []
    await rig.charge()
    assert rig.vendor.received[0].header("Authorization") == "Bearer sk_live_" + "n" * 24


async def test_no_secret_is_in_events_logs_or_metrics(rig: ProxyRig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.charge()
    await rig.call("GET", f"/stripe/v1/charges?key={TOKEN}", {"Authorization": "Bearer x"})
    await rig.call("GET", f"/stripe/v1/customers/{TOKEN}", {})
    await rig.call("POST", f"/stripe/v1/invoices/{TOKEN}/pay", {**AUTH, **FORM})
    await rig.call("GET", f"/stripe/v1/../x?key={TOKEN}", {})
    await rig.call("POST", "/stripe/v1/charges", {**AUTH, **FORM}, b"amount=1&amount=2&key=" + TOKEN.encode())
    await rig.settled()
    await until(lambda: len(rig.control.of(RequestRefused)) >= 4)
    seen = repr(rig.control.events()) + caplog.text + (await rig.call("GET", "/metrics")).body.decode()
    seen += repr(rig.destinations.by_name) + repr(rig.destinations.by_name["stripe"].settings)
    assert TOKEN not in seen
    assert CREDENTIAL not in seen


MISPLACED: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "the path": ("GET", f"/stripe/v1/customers/cus_{TOKEN}", {}, b""),
    "the query": ("GET", f"/stripe/v1/charges?starting_after={TOKEN}", {}, b""),
    "the body": ("POST", "/stripe/v1/charges", FORM, CHARGE + b"&description=" + TOKEN.encode()),
    "a header": ("POST", "/stripe/v1/charges", {**FORM, "Idempotency-Key": f"order-{TOKEN}"}, CHARGE),
    "a header's name": ("POST", "/stripe/v1/charges", {**FORM, f"X-{TOKEN}": "1"}, CHARGE),
    "X-Agent-Identity": (
        "POST",
        "/stripe/v1/charges",
        {**FORM, "X-Agent-Identity": f"name=bot; purpose={TOKEN}"},
        CHARGE,
    ),
}


@pytest.mark.parametrize("where", MISPLACED)
async def test_a_vault_key_reaches_neither_the_vendor_nor_the_record(rig: ProxyRig, where: str) -> None:
    method, target, headers, body = MISPLACED[where]
    reply = await rig.call(method, target, {**AUTH, **headers}, body)
    assert (reply.status, reply.refusal) == (400, "request_malformed")
    assert where.removesuffix("'s name") in reply.json["error"]["message"]
    await until(lambda: bool(rig.control.of(RequestRefused)))
    assert TOKEN not in repr(rig.control.events())
    assert not rig.vendor.received


async def test_a_vault_key_in_a_header_that_might_be_a_credential_is_left_out(rig: ProxyRig) -> None:
    assert (await rig.charge(X_Api_Key=TOKEN, X_Trace=f"by {TOKEN}")).status == 200
    (received,) = rig.vendor.received
    assert TOKEN not in repr(received.headers)


# ---------------------------------------------------------------- repeats


async def test_repeats_of_a_call_carry_one_digest_and_other_calls_another(rig: ProxyRig) -> None:
    for idempotency in ("order-7", "order-7", "order-8"):
        await rig.charge(Idempotency_Key=idempotency)
    await rig.charge()
    hosted = {**AUTH, **FORM, "Host": "pay.gateway.local", "Idempotency-Key": "order-7"}
    await rig.call("POST", "/v1/charges", hosted, CHARGE)
    one, again, other, none, elsewhere = [event.idempotency for event in rig.control.of(RequestAdmitted)]
    assert one == again
    assert none == ""
    assert len({one, other, elsewhere}) == 3
    assert all(len(digest) == 16 and "order" not in digest for digest in (one, other, elsewhere))


async def test_accounts_of_a_vendor_have_idempotency_keys_of_their_own() -> None:
    rig = await ProxyRig(allow_headers=("stripe-account",)).start(USD)
    rig.vendor.respond = answered(CH)
    for account in ("acct_1", "acct_2", "acct_1"):
        await rig.charge(Idempotency_Key="order-7", Stripe_Account=account)
    one, other, again = [event.idempotency for event in rig.control.of(RequestAdmitted)]
    assert one == again != other
    await rig.stop()


async def test_requests_leave_nothing_for_the_garbage_collector(rig: ProxyRig) -> None:
    await rig.charge()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await rig.charge()
        await rig.settled(21)
        assert not [found for found in gc.get_objects() if isinstance(found, Exchange | Carriage)]
    finally:
        gc.enable()
