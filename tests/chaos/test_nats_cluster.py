"""A whole gateway over three nats-servers, of which one is killed and then two stand still."""

import os
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.stack import Stack, running_stack

pytestmark = pytest.mark.slow

RECOVERY_S = 90.0
"""Two servers elect within some ten seconds; a busy machine gets more."""


def server_pids(data_dir: Path) -> dict[int, int]:
    """Number of each server and its process, by the configuration on its command line."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        where = re.search(rf"{re.escape(str(data_dir))}/nats/s(\d)/nats\.conf", line)
        if process.name.isdigit() and where is not None:
            found[int(where.group(1))] = int(process.name)
    return found


def pay(stack: Stack, token: str) -> tuple[int, str]:
    """One payment; its status and, if refused, our code."""
    request = urllib.request.Request(
        f"{stack.stripe}/v1/payment_intents",
        data=b"amount=100&currency=usd",
        headers={"Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("X-Ringfence-Refusal") or ""


def paid_again(stack: Stack, token: str) -> int:
    """Pay until it works; returns how many were refused, all of them for want of a log or what follows from it."""
    refused, deadline = 0, time.monotonic() + RECOVERY_S
    while (answer := pay(stack, token))[0] != 200:
        assert answer[0] == 503, answer
        assert time.monotonic() < deadline, answer
        refused += 1
        time.sleep(0.1)
    return refused


def test_servers_killed_and_paused_cost_time_and_nothing_else(tmp_path: Path) -> None:
    with running_stack(tmp_path / "data", arguments=("--nats-servers", "3")) as stack:
        key = stack.issue(vendor="stripe", total_usd_cap="1000", label="cluster")
        token, paid = key["token"], 0
        assert pay(stack, token) == (200, "")
        paid += 1
        for number, pid in server_pids(stack.data_dir).items():
            os.kill(pid, signal.SIGKILL)
            paid_again(stack, token)
            paid += 1
            deadline = time.monotonic() + RECOVERY_S
            while server_pids(stack.data_dir).get(number, pid) == pid:
                assert time.monotonic() < deadline, "the supervisor starts it again"
                time.sleep(0.1)
            time.sleep(3.0)  # let it catch up: with two behind there is no majority
        paid_again(stack, token)
        paid += 1
        servers = server_pids(stack.data_dir)
        assert len(servers) == 3
        paused = [servers[1], servers[2]]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)  # longer than a proof lasts
        before = len(stack.vendor_log())
        for _ in range(4):
            assert pay(stack, token) == (503, "log_unavailable")
        assert len(stack.vendor_log()) == before, "nothing goes out on an old proof"
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
        paid_again(stack, token)
        paid += 1
        stack.settled_requests(paid, key=key["id"], outcome="settled")
        calls = [entry for entry in stack.vendor_log() if entry["path"] == "/v1/payment_intents"]
        assert len(calls) == paid
        spend = stack.control("GET", f"/v1/keys/{key['id']}")["spend"]["total"]
        assert (float(spend["settled"]), float(spend["held"])) == (float(paid), 0.0)
