"""Revocation as a barrier over three workers: after the 204 no vendor call, and other keys go on undisturbed."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from support.arrivals import arrived_after
from support.load import Chargers, charges_at_once
from support.stack import Stack, running_stack


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("three") / "data", workers=3) as running:
        yield running


async def test_no_vendor_call_after_the_204_and_others_undisturbed(three: Stack) -> None:
    doomed = [three.issue(vendor="stripe", agent=f"doomed-{n}", total_usd_cap="1000") for n in range(5)]
    other = three.issue(vendor="stripe", agent="bystander", total_usd_cap="1000")
    async with Chargers(three.stripe, other["token"], clients=4) as bystander:
        for key in doomed:
            three.reset_vendors()
            async with Chargers(three.stripe, key["token"], clients=8, cents=50) as runaway:
                while sum(answer.status == 200 for answer in runaway.load.answers) < 40:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(three.control, "DELETE", f"/v1/keys/{key['id']}")
                answered_s = time.monotonic()
                charged = three.control("GET", f"/v1/keys/{key['id']}")["spend"]["total"]
                while not any(a.refusal == "key_revoked" and a.began_s > answered_s for a in runaway.load.answers):
                    await asyncio.sleep(0.01)
            late = [a for a in runaway.load.answers if a.began_s > answered_s]
            assert late
            assert {a.refusal for a in late} == {"key_revoked"}
            # The vendor's own books: only the bystander's one-cent charges arrived after the answer.
            entries = arrived_after(await asyncio.to_thread(three.vendor_log), answered_s)
            assert not [entry for entry in entries if any(move["moved"] != 1 for move in entry["moves"])]
            assert charged["cap"] == "1000.00"
    assert set(bystander.load.by_outcome()) == {"200"}


async def test_a_worker_that_stands_still_forwards_nothing_when_it_wakes(three: Stack) -> None:
    """It has connections waiting when it wakes. Whatever it looks at first, it cannot prove that it may act."""
    doomed = three.issue(vendor="stripe", agent="doomed", total_usd_cap="1000")
    other = three.issue(vendor="stripe", agent="bystander", total_usd_cap="1000")
    assert (await charges_at_once(three.stripe, doomed["token"], 50, 20)).by_outcome() == {"200": 20}
    pid = next(iter(three.worker_pids().values()))
    async with Chargers(three.stripe, other["token"], clients=4, pause_s=0.02) as bystander:
        os.kill(pid, signal.SIGSTOP)
        try:
            async with Chargers(three.stripe, doomed["token"], clients=16, cents=50, pause_s=0.02) as runaway:
                await asyncio.sleep(0.5)
                await asyncio.to_thread(three.control, "DELETE", f"/v1/keys/{doomed['id']}")
                answered_s = time.monotonic()
                await asyncio.sleep(1.0)
                os.kill(pid, signal.SIGCONT)
        finally:
            os.kill(pid, signal.SIGCONT)
        # Those who were sent to the one that stood still were answered after the revocation, wherever they began.
        waited = [a for a in runaway.load.answers if a.began_s < answered_s and a.ended_s > answered_s + 0.9]
        while not any(a.began_s > answered_s + 1.0 for a in bystander.load.answers):
            await asyncio.sleep(0.01)
    assert waited
    late = [a for a in runaway.load.answers if a.began_s > answered_s]
    assert {a.refusal for a in [*waited, *late]} == {"key_revoked"}
    entries = arrived_after(await asyncio.to_thread(three.vendor_log), answered_s)
    assert not [entry for entry in entries if any(move["moved"] != 1 for move in entry["moves"])]
    assert set(bystander.load.by_outcome()) == {"200"}


async def test_deleting_again_by_id_or_token_answers_204_and_an_unknown_key_404(three: Stack) -> None:
    from support.stack import ControlError

    key = three.issue(vendor="stripe", total_usd_cap="1")
    for name in (key["token"], key["id"], key["token"], key["id"]):
        assert three.control("DELETE", f"/v1/keys/{name}") is None
    with pytest.raises(ControlError) as unknown:
        three.control("DELETE", "/v1/keys/vk_unknown")
    assert unknown.value.status == 404
