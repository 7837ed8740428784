"""Answers that are lost and asked for again: counted once, whichever worker asked first and whatever became of it.

The vendor executes the first attempt, and nobody hears of it. The retry carries the same Idempotency-Key, so the vendor
replays its answer. It resolves the first attempt, which was held until then (rule S1, docs/PROTOCOL.md).
"""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from support.stack import AUDIT_S, Stack, running_stack

INTENTS = "/v1/payment_intents"
CHARGE: dict[str, Any] = {"amount": 500, "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
COUNTED = {"settled": "5.00", "held": "0.00"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("two") / "data", workers=2) as running:
        yield running


class Worker:
    """A connection to one worker. The system picks a worker for each, so others are tried until it is the right one."""

    def __init__(self, stack: Stack, token: str, slot: str) -> None:
        self._token = token
        self.pid = stack.worker_pids()[f"proxy-{slot}"]
        deadline = time.monotonic() + 30
        while True:
            self._connection = http.client.HTTPConnection(urlsplit(stack.urls["proxy"]).netloc, timeout=60)
            self._connection.request("GET", "/healthz")
            if json.loads(self._connection.getresponse().read())["node"] == slot:
                return
            self._connection.close()
            assert time.monotonic() < deadline, f"no connection reaches {slot}"

    def close(self) -> None:
        self._connection.close()

    def post(self, path: str, fields: dict[str, Any], idempotency: str = "order-7") -> tuple[int, Any]:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Idempotency-Key": idempotency,
        }
        self._connection.request("POST", "/stripe" + path, urlencode(fields), headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def workers(stack: Stack, token: str) -> Iterator[tuple[Worker, Worker]]:
    with contextlib.closing(Worker(stack, token, "n1")) as one, contextlib.closing(Worker(stack, token, "n2")) as two:
        yield one, two


def spend(stack: Stack, key_id: str) -> dict[str, str]:
    total: dict[str, str] = stack.control("GET", f"/v1/keys/{key_id}")["spend"]["total"]
    return {"settled": total["settled"], "held": total["held"]}


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds, but not for ever: what comes next says what is wrong."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def check_spend(stack: Stack, key_id: str, wanted: dict[str, str]) -> None:
    """The ledger hears of an end a moment after the client."""
    until(lambda: spend(stack, key_id) == wanted)
    assert spend(stack, key_id) == wanted


def check_audit(stack: Stack, key_id: str, requests: int) -> None:
    """The audit says the same: all requests are settled, five dollars in all."""
    deadline = time.monotonic() + AUDIT_S
    while True:
        rows = stack.requests(key=key_id)
        if [row["outcome"] for row in rows] == ["settled"] * requests or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert [row["outcome"] for row in rows] == ["settled"] * requests
    assert sum(Decimal(row["actual_usd"]) for row in rows) == 5


def test_an_answer_lost_by_one_worker_and_replayed_to_another_counts_once(two: Stack) -> None:
    two.reset_vendors()
    key = two.issue(vendor="stripe", agent="retrier", total_usd_cap="20.00")
    with workers(two, key["token"]) as (one, other):
        two.faults({"fault": {"drop": "after"}, "path": INTENTS, "times": 2})
        for worker in (one, other):  # the second answer, a replay already, is lost as well
            status, refusal = worker.post(INTENTS, CHARGE)
            assert (status, refusal["error"]["code"]) == (502, "upstream_lost")
        check_spend(two, key["id"], {"settled": "0.00", "held": "10.00"})
        for worker in (other, one):
            status, intent = worker.post(INTENTS, CHARGE)
            assert (status, intent["amount_received"]) == (200, 500)
            check_spend(two, key["id"], COUNTED)
    assert sum(move["moved"] for entry in two.vendor_log() for move in entry["moves"]) == 500
    check_audit(two, key["id"], 4)


@pytest.mark.parametrize(
    ("raised", "replaced"),
    [
        pytest.param(False, False, id="a new object, retried at once"),
        pytest.param(True, False, id="an object that is counted already, retried at once"),
        pytest.param(False, True, id="a new object, retried when the worker is replaced"),
    ],
)
def test_an_answer_lost_with_its_worker_counts_once(two: Stack, raised: bool, replaced: bool) -> None:
    two.reset_vendors()
    key = two.issue(vendor="stripe", agent="retrier", total_usd_cap="20.00")
    path, fields = INTENTS, CHARGE
    with workers(two, key["token"]) as (doomed, other):
        if raised:
            _, intent = doomed.post(INTENTS, {"amount": 100, "currency": "usd"}, "order-6")
            path, fields = f"{INTENTS}/{intent['id']}", {"amount": 500}
            check_spend(two, key["id"], {"settled": "1.00", "held": "0.00"})
        two.faults({"fault": {"hang": "after"}, "path": path, "times": 1})
        asking = threading.Thread(target=lose, args=(doomed, path, fields), name="asking")
        asking.start()
        until(lambda: any(entry["path"] == path and entry["outcome"] == "executed" for entry in two.vendor_log()))
        os.kill(doomed.pid, signal.SIGKILL)
        asking.join()
        check_spend(
            two, key["id"], {"settled": "1.00", "held": "4.00"} if raised else {"settled": "0.00", "held": "5.00"}
        )
        if replaced:
            until(lambda: two.worker_pids().get("proxy-n1", doomed.pid) != doomed.pid)
        status, intent = other.post(path, fields)
        assert (status, intent["amount"]) == (200, 500)
    check_spend(two, key["id"], COUNTED)
    check_audit(two, key["id"], 3 if raised else 2)
    until(lambda: two.worker_pids().get("proxy-n1", doomed.pid) != doomed.pid)  # for the next test


def lose(worker: Worker, path: str, fields: dict[str, Any]) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        worker.post(path, fields)
