"""A gateway that is stopped, or killed whole, comes back with what it knew: keys, revocations, spending, figures."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import stripe
from support.stack import Stack, running_stack

CARD = {"currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


def charge(stack: Stack, token: str, cents: int) -> str:
    """The intent's status, or our refusal's code."""
    sdk = stripe.StripeClient(token, base_addresses={"api": stack.stripe})
    try:
        return str(sdk.v1.payment_intents.create({"amount": cents, **CARD}).status)
    except stripe.StripeError as error:
        return str(error.error.code) if error.error is not None else repr(error)


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_forgotten(tmp_path: Path, killed: bool) -> None:
    with running_stack(tmp_path / "data", workers=1) as stack:
        key = stack.issue(vendor="stripe", total_usd_cap="10.00")
        revoked = stack.issue(vendor="stripe", total_usd_cap="10.00")
        assert charge(stack, key["token"], 700) == "succeeded"
        stack.control("DELETE", f"/v1/keys/{revoked['id']}")
        assert len(stack.settled_requests(1, key=key["id"])) == 1
        token = stack.token
        if killed:
            children = own_processes(stack)
            stack.process.send_signal(signal.SIGKILL)
            stack.process.wait()
            await_end(children)
    with running_stack(tmp_path / "data", workers=2) as stack:
        assert stack.token == token
        assert stack.control("GET", f"/v1/keys/{key['id']}")["spend"]["total"]["settled"] == "7.00"
        assert charge(stack, key["token"], 301) == "cap_exhausted"
        assert charge(stack, key["token"], 300) == "succeeded"
        assert charge(stack, revoked["token"], 100) == "key_revoked"
        rows = stack.settled_requests(3, key=key["id"])
        assert sorted(row["outcome"] for row in rows) == ["refused", "settled", "settled"]


def own_processes(stack: Stack) -> list[int]:
    listing = subprocess.run(["ps", "--ppid", str(stack.process.pid), "-o", "pid="], capture_output=True, check=True)
    return [int(pid) for pid in listing.stdout.split()]


def await_end(pids: list[int]) -> None:
    """Nothing outlives a supervisor that was killed."""
    assert len(pids) > 4
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a child outlived its supervisor"
        time.sleep(0.1)
