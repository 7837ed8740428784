"""Two control planes and real processes: the active one is killed, or stands still, under load."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any

import pytest
from support.arrivals import arrived_after
from support.load import Chargers, charges_at_once
from support.stack import ControlError, Stack, call, running_stack

NAMES = ("control", "control-2")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("twins") / "data"
    with running_stack(directory, workers=2, arguments=("--controls", "2")) as running:
        yield running


def urls(stack: Stack) -> list[str]:
    found: list[str] = json.loads((stack.data_dir / "endpoints.json").read_text())["controls"].split(",")
    return found


def ready(url: str) -> dict[str, Any]:
    """What /readyz says; {} while nobody answers or it is not ready."""
    try:
        answer: dict[str, Any] = call("GET", f"{url}/readyz", None, None)
    except (ControlError, OSError):
        return {}
    return answer


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def roles(stack: Stack) -> tuple[int, int]:
    """Which is active and which stands by, once both say so."""
    found: list[str] = []

    def both() -> bool:
        found[:] = [ready(url).get("role", "") for url in urls(stack)]
        return sorted(found) == ["leader", "standby"]

    until(both)
    return found.index("leader"), found.index("standby")


def at(stack: Stack, number: int, method: str, path: str, body: Any = None) -> Any:
    return call(method, urls(stack)[number] + path, body, stack.token)


async def load_during(stack: Stack, token: str, fault: Callable[[], None], after_s: float) -> list[str]:
    """What charges of a key far from its cap come to while `fault` happens; `after_s` of quiet load on both sides."""
    async with Chargers(stack.stripe, token, clients=4, cents=1, most=50_000, pause_s=0.02) as load:
        await asyncio.sleep(after_s)
        await asyncio.to_thread(fault)
        await asyncio.sleep(after_s)
        assert len(load.load.answers) > 20
    return [answer.refusal or str(answer.status) for answer in load.load.answers]


async def test_reads_at_the_standby_and_writes_through_it(twins: Stack) -> None:
    active, standby = roles(twins)
    key = at(twins, standby, "POST", "/v1/keys", {"agent": "twin", "vendor": "stripe", "total_usd_cap": "5.00"})
    assert at(twins, standby, "GET", f"/v1/keys/{key['id']}")["state"] == "active"
    assert at(twins, active, "GET", f"/v1/keys/{key['id']}") == at(twins, standby, "GET", f"/v1/keys/{key['id']}")
    load = await charges_at_once(twins.stripe, key["token"], 10, 3)
    assert load.by_outcome() == {"200": 3}
    at(twins, standby, "DELETE", f"/v1/keys/{key['id']}")
    refused = await charges_at_once(twins.stripe, key["token"], 10, 3)
    assert refused.by_outcome() == {"key_revoked": 3}
    with pytest.raises(ControlError) as caught:
        call("GET", f"{urls(twins)[standby]}/v1/keys", None, "rfo_wrong")
    assert caught.value.status == 401


async def test_the_active_one_is_killed_under_load(twins: Stack) -> None:
    """No request of a key far from its cap is refused; what was issued before works on, and can be revoked."""
    active, standby = roles(twins)
    key = twins.issue(vendor="stripe", agent="steady", total_usd_cap="5000.00")

    def kill() -> None:
        os.kill(twins.ready_pids()[NAMES[active]], signal.SIGKILL)
        until(lambda: ready(urls(twins)[standby]).get("role") == "leader")

    outcomes = await load_during(twins, key["token"], kill, 1.0)
    assert set(outcomes) == {"200"}
    at(twins, standby, "DELETE", f"/v1/keys/{key['id']}")
    assert (await charges_at_once(twins.stripe, key["token"], 1, 4)).by_outcome() == {"key_revoked": 4}
    assert roles(twins) == (standby, active)


async def test_the_active_one_stands_still_and_wakes(twins: Stack) -> None:
    active, standby = roles(twins)
    key = twins.issue(vendor="stripe", agent="steady", total_usd_cap="5000.00")
    pid = twins.ready_pids()[NAMES[active]]

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ControlError) as caught:  # sent to the one that stands still, until that is known
            at(twins, standby, "POST", f"/v1/keys/{key['id']}/suspend", {})
        assert (caught.value.status, caught.value.error["code"]) == (503, "not_leading")
        assert "may be recorded or not" in caught.value.error["message"]
        until(lambda: ready(urls(twins)[standby]).get("role") == "leader")

    try:
        outcomes = await load_during(twins, key["token"], stop, 1.0)
        assert set(outcomes) == {"200"}
        issued = at(twins, standby, "POST", "/v1/keys", {"agent": "b", "vendor": "stripe", "total_usd_cap": "1.00"})
    finally:
        os.kill(pid, signal.SIGCONT)
    # The old one has noticed, stands by in the same process, and what it is told to do the new one does.
    assert roles(twins) == (standby, active)
    assert twins.ready_pids()[NAMES[active]] == pid
    at(twins, active, "DELETE", f"/v1/keys/{issued['id']}")
    assert at(twins, standby, "GET", f"/v1/keys/{issued['id']}")["state"] == "revoked"
    log = (twins.data_dir / "logs" / f"{NAMES[active]}.log").read_text()
    assert "is deposed, and stands by" in log
    assert "CRITICAL" not in log


async def test_a_revocation_whose_leader_dies_is_confirmed_by_the_next(twins: Stack) -> None:
    """A worker stands still, so its barrier is open when the active one is killed; and so it is for its successor."""
    active, standby = roles(twins)
    key = twins.issue(vendor="stripe", agent="doomed", total_usd_cap="5000.00")
    assert (await charges_at_once(twins.stripe, key["token"], 1, 10)).by_outcome() == {"200": 10}
    worker = next(iter(twins.worker_pids().values()))
    os.kill(worker, signal.SIGSTOP)
    try:
        dying = asyncio.create_task(asyncio.to_thread(at, twins, active, "DELETE", f"/v1/keys/{key['id']}"))
        state = f"/v1/keys/{key['id']}"
        await asyncio.to_thread(until, lambda: at(twins, standby, "GET", state)["state"] == "revoked")
        os.kill(twins.ready_pids()[NAMES[active]], signal.SIGKILL)  # half a second before it could have answered
        with contextlib.suppress(OSError, HTTPException):
            await dying
        await asyncio.to_thread(until, lambda: ready(urls(twins)[standby]).get("role") == "leader")
        await asyncio.to_thread(at, twins, standby, "DELETE", f"/v1/keys/{key['id']}")
        answered_s = time.monotonic()
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (await charges_at_once(twins.stripe, key["token"], 1, 20)).by_outcome() == {"key_revoked": 20}
    entries = await asyncio.to_thread(twins.vendor_log)
    assert not arrived_after(entries, answered_s)
    roles(twins)


async def test_a_clean_end_hands_over(twins: Stack) -> None:
    active, standby = roles(twins)
    os.kill(twins.ready_pids()[NAMES[active]], signal.SIGTERM)
    until(lambda: ready(urls(twins)[standby]).get("role") == "leader")
    assert at(twins, standby, "GET", "/v1/keys")["data"]
    assert roles(twins) == (standby, active)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_no_control_plane_for_five_seconds(twins: Stack, number: signal.Signals) -> None:
    """A key that has been in use lives on its leases and rate shares: nothing is refused, and hardly anything waits."""
    roles(twins)
    caps = {"total_usd_cap": "50000.00", "daily_usd_cap": "40000.00", "rate_limit_rpm": 40_000}
    key = twins.issue(vendor="stripe", agent="steady", **caps)

    def away() -> None:
        until_s = time.monotonic() + 5.0
        while time.monotonic() < until_s:
            for name in NAMES:
                if (pid := twins.ready_pids().get(name)) is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.1)
        if number == signal.SIGSTOP:
            for name in NAMES:
                os.kill(twins.ready_pids()[name], signal.SIGCONT)

    outcomes = await load_during(twins, key["token"], away, 10.0)
    assert set(outcomes) == {"200"}
    roles(twins)
