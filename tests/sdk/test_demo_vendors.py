"""The books and the faults of the simulated vendors: what tests of the gateway rely on."""

import base64
import concurrent.futures
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import stripe
from support.demo_sdk import PAYMENT_FORM, pay, plain_session, post_form, running_demo, stripe_api

from controlplane.demo import DemoVendors
from controlplane.demo.faults import Fault, FaultTable, Rule
from controlplane.demo.threads import in_thread

VAULT_TOKEN = "rfk_" + "0123456789ab" * 4
PAY = "/v1/payment_intents"


@pytest.fixture
def vendors() -> Iterator[DemoVendors]:
    with running_demo() as vendors:
        yield vendors


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with plain_session() as session:
        yield session


@pytest.fixture
def api(vendors: DemoVendors, session: requests.Session) -> Any:
    return stripe_api(vendors, session)


def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.005)


def moved(vendors: DemoVendors) -> int:
    return vendors.books.currencies["usd"].moved if vendors.books.currencies else 0


def admin(vendors: DemoVendors, session: requests.Session, method: str, path: str, body: Any = None) -> Any:
    answer = session.request(method, f"{vendors.openai_url}/_demo/{path}", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_entry_tells_everything_but_the_key(vendors: DemoVendors, session: requests.Session) -> None:
    before = time.monotonic_ns()
    answer = post_form(vendors, session, f"{PAY}?limit=3", "a=b", **{"X-Demo-Marker": "m1", "Idempotency-Key": "k"})
    (entry,) = vendors.log.entries()
    assert (entry.seq, entry.vendor, entry.method, entry.path) == (1, "stripe", "POST", PAY)
    assert (entry.marker, entry.idempotency_key, entry.query_names) == ("m1", "k", ("limit",))
    assert {"authorization", "x-demo-marker", "content-type"} <= set(entry.header_names)
    assert (entry.body_bytes, entry.status, entry.outcome) == (3, 400, "refused")
    assert entry.request_id == answer.headers["Request-Id"]
    decided_ns = entry.decided_mono_ns or 0
    assert before < entry.received_mono_ns < decided_ns < time.monotonic_ns()
    assert abs(entry.received_wall_ns - time.time_ns()) < 60_000_000_000
    (seen,) = entry.credentials
    assert (seen.place, seen.real, entry.real_credential, entry.forbidden) == ("authorization", True, True, False)
    shown = json.dumps(admin(vendors, session, "GET", "log")) + repr(vendors) + repr(entry)
    assert vendors.stripe_key not in shown
    assert vendors.openai_key not in shown


@pytest.mark.parametrize(
    ("headers", "query", "places", "real"),
    [
        ({"Authorization": "Bearer {key}"}, "", ["authorization"], True),
        ({"Authorization": "Basic {basic}"}, "", ["authorization"], True),
        ({"Authorization": "Bearer other"}, "", ["authorization"], False),
        ({"Authorization": "Bearer {key}", "X-Api-Key": "{key}"}, "", ["authorization", "x-api-key"], False),
        ({"X-Goog-Api-Key": "other"}, "", ["x-goog-api-key"], False),
        ({"Authorization": "Bearer {key}"}, "?key=other", ["authorization", "query:key"], False),
        ({}, "", [], False),
    ],
)
def test_every_credential_is_seen(
    vendors: DemoVendors, session: requests.Session, headers: dict[str, str], query: str, places: Any, real: bool
) -> None:
    key = vendors.stripe_key
    basic = base64.b64encode(f"{key}:".encode()).decode()
    sent = {name: value.format(key=key, basic=basic) for name, value in headers.items()}
    session.get(f"{vendors.stripe_url}/v1/balance{query}", headers=sent, timeout=10)
    (entry,) = vendors.log.entries()
    assert [seen.place for seen in entry.credentials] == places
    assert entry.real_credential == real


def test_a_vault_key_is_noticed_wherever_it_stands(vendors: DemoVendors, session: requests.Session) -> None:
    get = f"{vendors.stripe_url}/v1/balance"
    session.get(get, headers={"X-Anything": f"a {VAULT_TOKEN}"}, timeout=10)
    session.get(f"{get}?x={VAULT_TOKEN}", timeout=10)
    post_form(vendors, session, PAY, f"description={VAULT_TOKEN}")
    session.get(get, timeout=10)
    assert [entry.forbidden for entry in vendors.log.entries()] == [True, True, True, False]
    admin(vendors, session, "POST", "forbidden", {"texts": ["canary-text"]})
    post_form(vendors, session, PAY, "description=canary-text")
    assert vendors.log.entries()[-1].forbidden


def test_the_demos_own_endpoints_are_closed_to_whoever_holds_a_credential(
    vendors: DemoVendors, session: requests.Session
) -> None:
    for headers in ({"Authorization": f"Bearer {vendors.stripe_key}"}, {"X-Api-Key": "x"}):
        for method, path in (("GET", "books"), ("POST", "reset"), ("POST", "faults")):
            url = f"{vendors.stripe_url}/_demo/{path}"
            assert session.request(method, url, headers=headers, timeout=10).status_code in {401, 404}
    assert len(vendors.log.entries()) == 6
    answer = session.post(f"{vendors.stripe_url}/_demo/faults", json={"faults": [{"fault": {"x": 1}}]}, timeout=10)
    assert answer.status_code == 400
    assert session.get(f"{vendors.stripe_url}/_demo/nothing", timeout=10).status_code == 404


def test_books_and_log_over_http_until_reset(vendors: DemoVendors, session: requests.Session, api: Any) -> None:
    made = [pay(api).id for _ in range(5)]
    books = admin(vendors, session, "GET", "books")
    assert books["currencies"] == {"usd": {"moved": 5000, "held": 0, "refunded": 0}}
    assert books["objects"][made[0]] == {"currency": "usd", "moved": 1000, "held": 0, "refunded": 0}
    page = admin(vendors, session, "GET", "log?after=2&limit=2")
    assert [entry["seq"] for entry in page["entries"]] == [3, 4]
    assert (page["next"], page["total"]) == (4, 5)
    assert page["entries"][0]["moves"][0]["object_id"] == made[2]
    assert admin(vendors, session, "GET", "log?after=5")["entries"] == []
    admin(vendors, session, "POST", "reset")
    assert admin(vendors, session, "GET", "books")["objects"] == {}
    with pytest.raises(stripe.InvalidRequestError):
        api.payment_intents.retrieve(made[0])
    assert pay(api).id not in made
    assert [entry.seq for entry in vendors.log.entries()] == [6, 7]


def test_the_log_keeps_the_newest(session: requests.Session) -> None:
    with in_thread(DemoVendors(log_limit=3)) as vendors:
        for _ in range(5):
            post_form(vendors, session, PAY, PAYMENT_FORM)
        assert [entry.seq for entry in vendors.log.entries()] == [3, 4, 5]
        assert [e["seq"] for e in admin(vendors, session, "GET", "log?after=1")["entries"]] == [3, 4, 5]
        assert moved(vendors) == 5000


@pytest.mark.parametrize("fault", ["drop=after", "hang=after", "first_byte_delay_ms=60000", "status_after=500"])
def test_the_line_is_written_before_the_answer(session: requests.Session, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "log.jsonl"
    with concurrent.futures.ThreadPoolExecutor(1) as pool, in_thread(DemoVendors(log_file=path)) as vendors:
        sent = pool.submit(post_form, vendors, session, PAY, PAYMENT_FORM, **{"X-Demo-Fault": fault})
        eventually(lambda: path.read_bytes().endswith(b"\n"))
        (line,) = path.read_text().splitlines()
        entry = json.loads(line)
        assert (entry["outcome"], entry["status"], entry["fault"]) == ("executed", 200, fault)
        assert entry["moves"][0]["moved"] == 1000
        if "hang" in fault or "delay" in fault:
            assert not sent.done()
    if fault == "status_after=500":
        assert sent.result().status_code == 500
    elif "drop" in fault or "hang" in fault:
        with pytest.raises(requests.ConnectionError):
            sent.result()


def test_a_log_that_cannot_be_written_stops_the_vendors(session: requests.Session) -> None:
    with in_thread(DemoVendors(log_file=Path("/dev/full"))) as vendors:
        assert post_form(vendors, session, PAY, PAYMENT_FORM).status_code == 200
        refused = post_form(vendors, session, PAY, PAYMENT_FORM)
        assert (refused.status_code, moved(vendors)) == (503, 1000)
        assert "log file" in refused.json()["error"]["message"]
        assert "log file" in admin(vendors, session, "GET", "log")["broken"]


@pytest.mark.parametrize(
    ("fault", "status", "moves", "outcome"),
    [
        ("status_before=500", 500, 0, "faulted"),
        ("status_after=503", 503, 1000, "executed"),
        ("status_before=429; retry_after_s=2", 429, 0, "faulted"),
        ("status_before=401", 401, 0, "faulted"),
        ("body=html", 200, 1000, "executed"),
        ("body=malformed", 200, 1000, "executed"),
        ("body=empty", 200, 1000, "executed"),
        ("redirect=http://127.0.0.1:9/", 307, 0, "faulted"),
        ("delay_ms=10", 200, 1000, "executed"),
        ("chunk_bytes=100; chunk_ms=1", 200, 1000, "executed"),
        ("", 200, 1000, "executed"),
        ("nonsense=1", 400, 0, "faulted"),
        ("delay_ms=-1", 400, 0, "faulted"),
        ("delay_ms=1; delay_ms=2", 400, 0, "faulted"),
        ("delay_ms", 400, 0, "faulted"),
    ],
)
def test_faults_that_answer(
    vendors: DemoVendors, session: requests.Session, fault: str, status: int, moves: int, outcome: str
) -> None:
    headers = {"Authorization": f"Bearer {vendors.stripe_key}", "X-Demo-Fault": fault}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    url = vendors.stripe_url + PAY
    answer = session.post(url, data=PAYMENT_FORM, headers=headers, timeout=10, allow_redirects=False)
    assert (answer.status_code, moved(vendors), vendors.log.entries()[0].outcome) == (status, moves, outcome)
    assert answer.headers.get("Retry-After") == ("2" if "retry_after" in fault else None)
    if fault in {"body=html", "body=malformed", "body=empty"}:
        with pytest.raises(requests.JSONDecodeError):
            answer.json()
    elif status >= 400:
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "moves"),
    [
        ("drop=before", 0),
        ("drop=after", 1000),
        ("hang=before", 0),
        ("hang=after", 1000),
        ("chunk_bytes=100; drop_after_chunks=2", 1000),
        ("chunk_bytes=100; stall_after_chunks=2", 1000),
        ("drop_after_chunks=0", 1000),
    ],
)
def test_faults_that_do_not_answer(vendors: DemoVendors, session: requests.Session, fault: str, moves: int) -> None:
    headers = {"Authorization": f"Bearer {vendors.stripe_key}", "X-Demo-Fault": fault}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    with pytest.raises((requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)):
        session.post(vendors.stripe_url + PAY, data=PAYMENT_FORM, headers=headers, timeout=0.5)
    eventually(lambda: [entry.finished_mono_ns is not None for entry in vendors.log.entries()] == [True])
    assert moved(vendors) == moves
    (entry,) = vendors.log.entries()
    assert entry.chunks_sent == (2 if "=2" in fault else 0)
    if "hang" in fault or "stall" in fault:
        assert entry.client_gone


def test_a_retried_payment_whose_answer_was_lost_is_paid_once(vendors: DemoVendors, session: requests.Session) -> None:
    vendors.faults.replace([Rule(fault=Fault(drop="after"), path="/v1/payment_*", times=1)])
    intent = pay(stripe_api(vendors, session, max_network_retries=1))
    assert (intent.status, moved(vendors)) == ("succeeded", 1000)
    assert [entry.outcome for entry in vendors.log.entries()] == ["executed", "replayed"]


def test_streams_are_cut_stalled_and_slowed(vendors: DemoVendors) -> None:
    body: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with openai.OpenAI(api_key=vendors.openai_key, base_url=f"{vendors.openai_url}/v1", max_retries=0) as api:

        def read(fault: str, timeout_s: float = 10.0) -> int:
            patient = api.with_options(timeout=timeout_s)
            stream = patient.chat.completions.create(**body, extra_headers={"X-Demo-Fault": fault})
            return sum(1 for _ in stream)

        assert read("chunk_bytes=7") == read("chunk_ms=1") == read("delay_ms=1") > 20
        for fault, error in (
            ("drop_after_chunks=3", openai.APIConnectionError),
            ("stall_after_chunks=3", openai.APITimeoutError),
        ):
            with pytest.raises(error):
                read(fault, timeout_s=0.5)
            eventually(lambda: vendors.log.entries()[-1].finished_mono_ns is not None)
            assert vendors.log.entries()[-1].chunks_sent == 3
        with pytest.raises(openai.RateLimitError):
            read("status_before=429")


def test_the_table_picks_the_first_rule_that_is_due() -> None:
    table = FaultTable(seed=1)
    table.replace(
        [
            Rule(fault=Fault(status_before=501), vendor="stripe", path="/v1/charges*", skip=1, times=2),
            Rule(fault=Fault(status_before=502), method="GET"),
        ]
    )
    asked = [("stripe", "POST", "/v1/charges")] * 4 + [("stripe", "GET", "/v1/charges"), ("openai", "GET", "/v1/x")]
    assert [table.pick(*request).status_before for request in asked] == [None, 501, 501, None, 502, 502]
    assert [(row["matched"], row["given"]) for row in table.show()] == [(5, 2), (2, 2)]
    chances = []
    for _ in range(2):
        table.replace([Rule(fault=Fault(drop="before"), percent=30.0)])
        chances.append([table.pick("stripe", "GET", "/").drop for _ in range(200)])
    assert chances[0] == chances[1]
    assert 30 < chances[0].count("before") < 90
    assert table.replace([Rule(fault=Fault())] * 101) is not None


def raw(vendors: DemoVendors, data: bytes) -> socket.socket:
    host, port = vendors.stripe_url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def test_half_a_body_moves_nothing_and_is_recorded(vendors: DemoVendors) -> None:
    head = (
        f"POST {PAY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {vendors.stripe_key}\r\nContent-Length: 500\r\n\r\n"
    )
    with raw(vendors, head.encode() + b"amount=1000"):
        eventually(lambda: len(vendors.log.entries()) == 1)
        assert vendors.log.entries()[0].outcome == "open"
    eventually(lambda: vendors.log.entries()[0].outcome == "incomplete")
    assert moved(vendors) == 0


def test_bodies_have_a_limit_and_are_not_inflated(vendors: DemoVendors, session: requests.Session) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"a" * 65_536

    headers = {"Authorization": f"Bearer {vendors.stripe_key}"}
    answer = session.post(vendors.stripe_url + PAY, data=chunks(), headers=headers, timeout=10)
    assert (answer.status_code, vendors.log.entries()[0].outcome) == (413, "incomplete")
    packed = post_form(vendors, session, PAY, PAYMENT_FORM, **{"Content-Encoding": "gzip"})
    assert (packed.status_code, moved(vendors)) == (400, 0)


def test_two_authorization_headers_are_no_credential(vendors: DemoVendors) -> None:
    line = f"Authorization: Bearer {vendors.stripe_key}\r\n"
    with raw(vendors, f"GET /v1/balance HTTP/1.1\r\nHost: x\r\n{line}{line}\r\n".encode()) as connection:
        assert b" 401 " in connection.recv(4096).partition(b"\r\n")[0]
    (entry,) = vendors.log.entries()
    assert (len(entry.credentials), entry.real_credential) == (2, False)


def test_closing_executes_nothing_more_and_waits_for_nothing_that_hangs() -> None:
    def send(running: DemoVendors, fault: str) -> int:
        with plain_session() as session:
            answer = post_form(running, session, PAY, PAYMENT_FORM, **{"X-Demo-Fault": fault})
            return int(answer.status_code)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with running_demo() as vendors:
            hanging, delayed = pool.submit(send, vendors, "hang=before"), pool.submit(send, vendors, "delay_ms=600000")
            eventually(lambda: len(vendors.log.entries()) == 2)
            assert not hanging.done()
            assert not delayed.done()
        with pytest.raises(requests.ConnectionError):
            hanging.result()
        assert delayed.result() == 503
        assert moved(vendors) == 0
