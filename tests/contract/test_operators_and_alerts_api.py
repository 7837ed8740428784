"""Operator tokens that are rotated, failed logins that are limited, and alerts, over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.control_api import Api, serving

from controlplane.api.auth import FailedTries, network_of
from controlplane.commands.operators import MAX_ROTATIONS
from events.state.operators import OperatorFold
from events.types import SYSTEM, AlertCleared, AlertRaised, OperatorTokenIssued, OperatorTokenRotated
from schemas.ids import token_sha256


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


async def _issued(api: Api, **body: object) -> str:
    reply = await api("POST", "/v1/operators", {"name": "ada", "role": "viewer", **body})
    api.tokens["first"] = reply.json["token"]
    return str(reply.json["id"])


async def _works(api: Api, token: str) -> bool:
    return (await api("GET", "/v1/nodes", role=token)).status == 200


async def test_both_tokens_work_until_the_overlap_ends(api: Api) -> None:
    operator = await _issued(api)
    reply = await api("POST", f"/v1/operators/{operator}/rotate", {"overlap": "10m"})
    assert (reply.status, reply.json["id"]) == (201, operator)
    api.tokens["second"] = reply.json["token"]
    assert [await _works(api, name) for name in ("first", "second")] == [True, True]
    assert reply.json["old_token_ends_at"] == "2026-11-18T11:16:40Z"
    api.clock.advance_s(600)
    assert [await _works(api, name) for name in ("first", "second")] == [False, True]
    listed = await api("GET", "/v1/operators")
    assert not any(token in listed.text for token in api.tokens.values())
    assert listed.json["data"][0]["old_token_ends_at"] is None
    await api("DELETE", f"/v1/operators/{operator}")
    assert [await _works(api, name) for name in ("first", "second")] == [False, False]


async def test_a_lost_answer_may_be_repeated_without_ending_anybodys_token(api: Api) -> None:
    operator = await _issued(api)
    lost = await api("POST", f"/v1/operators/{operator}/rotate")
    api.tokens["lost"] = lost.json["token"]
    again = await api("POST", f"/v1/operators/{operator}/rotate", {"overlap": "1h"})
    api.tokens["again"] = again.json["token"]
    assert [await _works(api, name) for name in ("first", "lost", "again")] == [True, True, True]
    api.clock.advance_s(3_600)
    assert [await _works(api, name) for name in ("first", "lost", "again")] == [True, False, True]
    api.clock.advance_s(86_400 - 3_600)
    assert [await _works(api, name) for name in ("first", "again")] == [False, True]


async def test_a_rotated_token_lasts_as_long_and_the_old_one_no_longer_than_it_was_to(api: Api) -> None:
    operator = await _issued(api, expires_in="2h")
    api.clock.advance_s(3_600)
    reply = await api("POST", f"/v1/operators/{operator}/rotate", {"overlap": "24h"})
    assert reply.json["expires_at"] == "2026-11-18T14:06:40Z"
    assert reply.json["old_token_ends_at"] == "2026-11-18T13:06:40Z"
    api.clock.advance_s(3_600)
    assert not await _works(api, "first")
    api.clock.advance_s(3_600)
    ended = await api("POST", f"/v1/operators/{operator}/rotate")
    assert (ended.status, ended.code) == (409, "operator_ended")
    assert (await api("POST", "/v1/operators/op_none/rotate")).status == 404
    assert (await api("POST", f"/v1/operators/{operator}/rotate", role="issuer")).status == 403


async def test_only_digests_are_recorded_and_none_is_ever_admitted_again(api: Api) -> None:
    operator = await _issued(api)
    await api("POST", f"/v1/operators/{operator}/rotate")
    first = token_sha256(api.tokens["first"])
    assert not any(token in repr(event) for event in api.leader.log for token in api.tokens.values())
    api.leader.record(OperatorTokenIssued("op_thief", "thief", "admin", first, SYSTEM, at_ns=1))
    assert "op_thief" not in api.leader.state.operators
    image = api.leader.state.image()
    loaded = OperatorFold()
    loaded.load(image.operators)
    assert loaded.tokens == api.leader.state.operator_tokens


async def test_rotations_are_bounded(api: Api) -> None:
    operator = await _issued(api)
    for n in range(MAX_ROTATIONS):
        api.leader.record(OperatorTokenRotated(operator, f"digest-{n}", SYSTEM, at_ns=1, old_ends_at_ns=1))
    assert (await api("POST", f"/v1/operators/{operator}/rotate")).code == "too_many"


class TestFailedTries:
    def test_one_host_is_one_client(self) -> None:
        assert network_of("192.0.2.7") == "192.0.2.7"
        assert network_of("::ffff:192.0.2.7") == "192.0.2.7"
        assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
        assert network_of("fe80::1%eth0") == "fe80::/64"
        assert network_of("") == ""

    def test_who_is_over_is_told_as_long_as_the_window_lasts(self) -> None:
        tries = FailedTries()
        for _ in range(FailedTries.ALLOWED + 2):
            tries.failed("192.0.2.7", 0)
        tries.failed("192.0.2.8", 0)
        assert tries.over(1) == {"192.0.2.7": FailedTries.ALLOWED + 2}
        assert tries.over(FailedTries.WINDOW_NS) == {}
        assert (tries.total, tries.limited) == (FailedTries.ALLOWED + 3, 2)


async def test_alerts_are_listed_newest_first_and_filtered(api: Api) -> None:
    api.leader.record(AlertRaised("al_1", "node_fenced", "n1", "warning", "n1-a was fenced", api.clock.ns, seen=3))
    api.clock.advance_s(60)
    api.leader.record(
        AlertCleared("al_1", "node_fenced", "n1", "it is over", api.clock.ns),
        AlertRaised("al_2", "log_full", "", "critical", "nothing is admitted", api.clock.ns, {"share": "0.91"}),
    )
    rows = (await api("GET", "/v1/alerts")).json["data"]
    assert [(row["id"], row["state"], row["severity"]) for row in rows] == [
        ("al_2", "open", "critical"), ("al_1", "cleared", "warning"),
    ]  # fmt: skip
    assert rows[0]["details"] == {"share": "0.91"}
    assert "Widen the stream" in rows[0]["remedy"]
    assert rows[1]["cleared_at"] == "2026-11-18T11:07:40Z"

    async def ids(**query: Any) -> list[str]:
        return [row["id"] for row in (await api("GET", "/v1/alerts", **query)).json["data"]]

    assert await ids(state="open") == ["al_2"]
    assert await ids(kind="node_fenced") == ["al_1"]
    assert await ids(from_="2026-11-18T11:07:00Z") == ["al_2"]
    assert await ids(to="2026-11-18T11:07:00Z") == ["al_1"]
    page = await api("GET", "/v1/alerts", limit=1)
    rest = await api("GET", "/v1/alerts", cursor=page.json["next_cursor"])
    assert [row["id"] for row in rest.json["data"]] == ["al_1"]
    assert (await api("GET", "/v1/alerts", role="viewer")).status == 403
    assert (await api("GET", "/v1/alerts", from_="1h", to="2h")).status == 400
