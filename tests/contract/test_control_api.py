"""The control plane's HTTP API, over real HTTP, with the real fold behind a leader without a log."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from support.control_api import ROLES, Api, serving
from support.control_fakes import Sum

from controlplane.api.auth import FailedTries
from controlplane.api.ports import FIGURE_COLUMNS, REQUEST_COLUMNS, AuditUnavailable, NodeStatus
from controlplane.api.routes import ROUTES
from controlplane.errors import BarrierOpen, LogUnavailable, NotLeading
from events.types import KeyRevoked, NodeFenced, NodeJoined
from schemas.amounts import Amounts
from schemas.durations import parse_time_ns
from schemas.readiness import reason

KEY = {"agent": "billing-bot", "vendor": "stripe", "daily_usd_cap": "25.00"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def issue(api: Api, **fields: Any) -> Any:
    reply = await api("POST", "/v1/keys", {**KEY, **fields})
    assert reply.status == 201, reply.text
    return reply.json


class TestKeys:
    async def test_issue_shows_the_token_once(self, api: Api) -> None:
        reply = await api("POST", "/v1/keys", {**KEY, "label": "nightly", "expires_in": "10m"})
        made = reply.json
        assert reply.status == 201
        assert made["token"] == made["vault_key"]
        assert made["token"].startswith("rfk_")
        assert made["id"].startswith("vk_")
        assert reply.headers["Location"] == f"/v1/keys/{made['id']}"
        assert reply.headers["Cache-Control"] == "no-store"
        assert parse_time_ns(made["expires_at"], 0) == api.clock.ns + 600 * 10**9
        assert made["policy"]["daily_usd_cap"] == "25.00"
        assert made["policy"]["upstreams"] == ["stripe"]
        shown = await api("GET", f"/v1/keys/{made['id']}")
        assert made["token"] not in shown.text
        assert "sha256" not in shown.text
        listed = await api("GET", "/v1/keys")
        assert made["token"] not in listed.text
        assert (
            {k: v for k, v in made.items() if k not in {"token", "vault_key"}} == shown.json == listed.json["data"][0]
        )

    async def test_money_is_read_from_its_own_digits(self, api: Api) -> None:
        raw = b'{"agent":"a","daily_usd_cap":0.123456789,"monthly_usd_cap":1000000.000000001,"total_usd_cap":1e3}'
        reply = await api("POST", "/v1/keys", raw=raw)
        policy = reply.json["policy"]
        assert policy["daily_usd_cap"] == "0.123456789"
        assert policy["monthly_usd_cap"] == "1000000.000000001"
        assert policy["total_usd_cap"] == "1000.00"

    async def test_spend_per_window(self, api: Api) -> None:
        made = await issue(api, max_uses=3, daily_token_cap=1000)
        sums = api.leader.budget.sums
        sums["key", made["id"], "usd", "day"] = Sum(20_000_000_000, 6_500_000_001)
        sums["key", made["id"], "usd", "total"] = Sum(21_000_000_000, 0)
        sums["key", made["id"], "tokens", "day"] = Sum(400, 100)
        shown = (await api("GET", f"/v1/keys/{made['id']}")).json
        assert shown["spend"]["day"] == {
            "cap": "25.00", "settled": "20.00", "held": "6.500000001", "remaining": "0.00",
            "resets_at": "2026-11-19T00:00:00Z",
        }  # fmt: skip
        assert shown["spend"]["total"] == {
            "cap": None, "settled": "21.00", "held": "0.00", "remaining": None, "resets_at": None,
        }  # fmt: skip
        assert set(shown["spend"]) == {"hour", "day", "month", "total"}
        assert shown["spend"]["hour"]["resets_at"] == "2026-11-18T12:00:00Z"
        assert shown["spend"]["month"]["resets_at"] == "2026-12-01T00:00:00Z"
        assert shown["counts"]["daily_token_cap"]["remaining"] == 500
        assert shown["counts"]["max_uses"]["cap"] == 3

    async def test_spent_key_shows_as_spent(self, api: Api) -> None:
        made = await issue(api, max_uses=3)
        api.leader.budget.sums["key", made["id"], "requests", "total"] = Sum(2, 1)
        assert (await api("GET", f"/v1/keys/{made['id']}")).json["state"] == "spent"
        assert [row["id"] for row in (await api("GET", "/v1/keys", state="spent")).json["data"]] == [made["id"]]

    async def test_patch_merges_and_null_removes(self, api: Api) -> None:
        made = await issue(api, label="old", models=["m"])
        reply = await api("PATCH", f"/v1/keys/{made['id']}", {"models": None, "hourly_usd_cap": 2})
        assert reply.status == 200
        assert reply.json["label"] == "old"
        assert reply.json["policy"]["models"] is None
        assert reply.json["policy"]["hourly_usd_cap"] == "2.00"
        assert reply.json["policy"]["daily_usd_cap"] == "25.00"

    async def test_suspend_resume_take_no_body_or_a_reason(self, api: Api) -> None:
        made = await issue(api)
        path = f"/v1/keys/{made['id']}"
        assert (await api("POST", f"{path}/suspend")).json["state"] == "suspended"
        assert (await api("POST", f"{path}/resume", {"reason": "checked"})).json["state"] == "active"
        assert api.leader.state.keys[made["id"]].changed_by.reason == "checked"

    @pytest.mark.parametrize("by", ["id", "token"])
    async def test_revoke_twice_then_unknown(self, api: Api, by: str) -> None:
        made = await issue(api)
        for _ in range(2):
            reply = await api("DELETE", f"/v1/keys/{made[by]}")
            assert (reply.status, reply.text) == (204, "")
        assert (await api("GET", f"/v1/keys/{made['id']}")).json["state"] == "revoked"
        unknown = await api("DELETE", f"/v1/keys/{made[by]}x")
        assert (unknown.status, unknown.code) == (404, "not_found")
        assert made[by] not in unknown.text

    async def test_delete_keeps_the_reason_and_who(self, api: Api) -> None:
        made = await issue(api)
        await api("DELETE", f"/v1/keys/{made['id']}", reason="runaway", role="issuer")
        event = api.leader.log[-1]
        assert isinstance(event, KeyRevoked)
        assert (event.by.name, event.by.reason, event.by.address) == ("issuer", "runaway", "127.0.0.1")

    async def test_a_delete_with_a_body_is_refused(self, api: Api) -> None:
        made = await issue(api)
        reply = await api("DELETE", f"/v1/keys/{made['id']}", {"dry_run": True})
        assert reply.status == 400
        assert api.leader.state.keys[made["id"]].state == "active"

    async def test_revoke_many_in_as_many_decisions_as_needed(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("controlplane.commands.key_stops.REVOKED_AT_ONCE", 2)
        for _ in range(5):
            await issue(api, metadata={"run_id": "r1"})
        await issue(api)
        dry = await api("POST", "/v1/keys/revoke", {"run": "r1", "dry_run": True})
        assert dry.json == {"revoked": 5, "dry_run": True}
        done = await api("POST", "/v1/keys/revoke", {"run": "r1"})
        assert done.json == {"revoked": 5, "dry_run": False}
        assert len((await api("GET", "/v1/keys", state="active")).json["data"]) == 1

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"agent": "a"}, ["1", "0"]),
            ({"label": "odd"}, ["3", "1"]),
            ({"run": "r2"}, ["2"]),
            ({"state": "suspended"}, ["0"]),
            ({"agent": "a", "state": "active"}, ["1"]),
            ({"agent": "nobody"}, []),
        ],
    )
    async def test_filters(self, api: Api, query: dict[str, Any], expected: list[str]) -> None:
        ids = []
        for i in range(4):
            fields = {"agent": "a" if i < 2 else "b", "label": "odd" if i % 2 else "even"}
            ids.append((await issue(api, **fields, metadata={"run_id": f"r{i}", "n": str(i)}))["id"])
        await api("POST", f"/v1/keys/{ids[0]}/suspend")
        rows = (await api("GET", "/v1/keys", **query)).json["data"]
        assert [row["metadata"]["n"] for row in rows] == expected

    @pytest.mark.parametrize("field", ["duplicates", "policies"])
    async def test_what_a_later_version_will_have(self, api: Api, field: str) -> None:
        reply = await api("POST", "/v1/keys", {**KEY, field: "x"})
        assert (reply.status, reply.code, reply.param) == (400, "not_available", field)
        assert reply.json["error"]["remedy"]

    async def test_pages_cover_all_once_newest_first(self, api: Api) -> None:
        made = [(await issue(api))["id"] for _ in range(7)]
        api.leader.clock.advance_s(1)
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 3}
        while True:
            page = (await api("GET", "/v1/keys", **query)).json
            assert len(page["data"]) <= 3
            seen += [row["id"] for row in page["data"]]
            query["cursor"] = page["next_cursor"]
            if query["cursor"] is None:
                break
            made.append((await issue(api))["id"])  # newer ones do not disturb the pages that follow
        assert seen == list(reversed(made[:7]))


class TestIdempotency:
    async def test_the_same_answer_token_included(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        first = await api("POST", "/v1/keys", KEY, headers=headers)
        again = await api("POST", "/v1/keys", KEY, headers=headers)
        assert first.json == again.json
        assert again.status == 201
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len(api.leader.state.keys) == 1

    async def test_another_body_is_refused(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        await api("POST", "/v1/keys", KEY, headers=headers)
        reply = await api("POST", "/v1/keys", {**KEY, "label": "other"}, headers=headers)
        assert (reply.status, reply.code) == (422, "idempotency_key_reused")

    async def test_two_at_once_make_one_key(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        replies = await asyncio.gather(*(api("POST", "/v1/keys", KEY, headers=headers) for _ in range(5)))
        assert len({reply.json["token"] for reply in replies}) == 1
        assert len(api.leader.state.keys) == 1

    async def test_forgotten_after_ten_minutes(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        first = await api("POST", "/v1/keys", KEY, headers=headers)
        api.clock.advance_s(601)
        assert (await api("POST", "/v1/keys", KEY, headers=headers)).json["id"] != first.json["id"]

    async def test_operators_do_not_share_keys(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        first = await api("POST", "/v1/keys", KEY, headers=headers)
        other = await api("POST", "/v1/keys", KEY, headers=headers, role="issuer")
        assert first.json["id"] != other.json["id"]

    async def test_a_failure_is_not_kept(self, api: Api) -> None:
        headers = {"Idempotency-Key": "abc"}
        api.leader.failures.append(LogUnavailable())
        assert (await api("POST", "/v1/keys", KEY, headers=headers)).status == 503
        refused = await api("POST", "/v1/keys", {**KEY, "vendor": "nowhere"}, headers=headers)
        assert refused.status == 400
        assert (await api("POST", "/v1/keys", KEY, headers=headers)).status == 201


class TestAgentsTeamsBudgets:
    async def test_agent_by_put_patch_delete(self, api: Api) -> None:
        assert (await api("PUT", "/v1/agents/bot", {"owner": "finance"})).status == 201
        assert (await api("PUT", "/v1/agents/bot", {"owner": "finance"})).status == 200
        reply = await api("PATCH", "/v1/agents/bot", {"limits": {"rate_limit_rpm": 60}})
        assert reply.json["limits"] == {"rate_limit_rpm": 60, "rate_limit_tpm": None}
        assert reply.json["owner"] == "finance"
        assert (await api("POST", "/v1/agents/bot/suspend")).json["state"] == "suspended"
        assert (await api("POST", "/v1/agents/bot/resume")).json["state"] == "active"
        assert [(await api("DELETE", "/v1/agents/bot")).status for _ in range(2)] == [204, 204]
        assert (await api("GET", "/v1/agents/bot")).status == 404
        assert (await api("GET", "/v1/agents")).json["data"] == []
        assert (await api("DELETE", "/v1/agents/nobody")).status == 404

    async def test_caps_on_an_agent_point_to_its_budget(self, api: Api) -> None:
        for body in ({"daily_usd_cap": 5}, {"limits": {"daily_usd_cap": 5}}):
            reply = await api("PUT", "/v1/agents/bot", body)
            assert reply.code == "unknown_parameter"
            assert "/v1/budgets/agent/" in reply.json["error"]["remedy"]

    async def test_removal_is_refused_while_keys_live(self, api: Api) -> None:
        await issue(api, agent="bot")
        reply = await api("DELETE", "/v1/agents/bot")
        assert (reply.status, reply.code) == (409, "agent_in_use")

    async def test_teams_come_from_owners_and_budgets(self, api: Api) -> None:
        await api("PUT", "/v1/agents/a", {"owner": "finance"})
        await api("PUT", "/v1/agents/b", {"owner": "finance"})
        await api("PUT", "/v1/budgets/team/ops", {"monthly_usd_cap": 100})
        teams = (await api("GET", "/v1/teams")).json["data"]
        assert [(team["name"], team["agents"]) for team in teams] == [("ops", 0), ("finance", 2)]
        assert teams[0]["spend"]["month"]["cap"] == "100.00"
        assert (await api("GET", "/v1/teams/finance")).json["agents"] == 2
        assert (await api("GET", "/v1/teams/nobody")).status == 404
        assert [team["name"] for team in (await api("GET", "/v1/teams", limit=1)).json["data"]] == ["ops"]

    async def test_budget_put_show_list_delete(self, api: Api) -> None:
        body = {"daily_usd_cap": "5", "daily_request_cap": 9, "time_zone": "Asia/Tokyo"}
        put = await api("PUT", "/v1/budgets/agent/bot", body)
        assert put.json["caps"]["daily_usd_cap"] == "5.00"
        assert put.json["caps"]["monthly_usd_cap"] is None
        assert put.json["spend"]["day"]["resets_at"] == "2026-11-18T15:00:00Z"
        assert put.json["counts"]["daily_request_cap"]["cap"] == 9
        assert (await api("GET", "/v1/budgets/agent/bot")).json == put.json
        await issue(api)  # a key's own caps are not in this list
        assert [row["id"] for row in (await api("GET", "/v1/budgets")).json["data"]] == ["bot"]
        assert (await api("GET", "/v1/budgets", kind="team")).json["data"] == []
        assert [(await api("DELETE", "/v1/budgets/agent/bot")).status for _ in range(2)] == [204, 204]
        assert (await api("GET", "/v1/budgets/agent/bot")).status == 404

    async def test_newest_budget_is_the_one_set_last(self, api: Api) -> None:
        for name in ("a", "b", "c", "a"):
            body = {"daily_usd_cap": len(api.leader.log) + 1}
            assert (await api("PUT", f"/v1/budgets/team/{name}", body)).status == 200
        assert [row["id"] for row in (await api("GET", "/v1/budgets")).json["data"]] == ["a", "c", "b"]

    @pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
    async def test_a_keys_caps_are_the_keys(self, api: Api, method: str) -> None:
        reply = await api(method, "/v1/budgets/key/vk_1", {"daily_usd_cap": 1} if method == "PUT" else None)
        assert (reply.status, reply.code) == (409, "key_caps")
        assert "PATCH /v1/keys/" in reply.json["error"]["remedy"]


ROW = dict.fromkeys(REQUEST_COLUMNS) | {"request_id": "req_1", "agent": "=cmd()", "actual_usd": "-1.50"}


class TestAudit:
    async def test_filters_reach_the_audit(self, api: Api) -> None:
        await api(
            "GET", "/v1/requests", agent="a", team="t", purpose="p", key="k", run="r", user="u", upstream="stripe",
            status=402, outcome="refused", refusal="cap_exhausted", from_="24h", to="2026-11-18T11:00:00Z", limit=7,
        )  # fmt: skip
        _, filters, limit, cursor = api.audit.asked[0]
        assert (filters.agent, filters.team, filters.purpose, filters.key) == ("a", "t", "p", "k")
        assert (filters.run, filters.user, filters.upstream) == ("r", "u", "stripe")
        assert (filters.status, filters.outcome, filters.refusal) == (402, "refused", "cap_exhausted")
        assert filters.from_ns == api.clock.ns - 86400 * 10**9
        assert filters.to_ns == parse_time_ns("2026-11-18T11:00:00Z", 0)
        assert (limit, cursor) == (7, None)

    async def test_rows_and_cursor(self, api: Api) -> None:
        api.audit.rows = [ROW]
        reply = await api("GET", "/v1/requests")
        assert reply.json == {"data": [ROW], "next_cursor": "1"}
        assert (await api("GET", "/v1/requests", cursor="1")).json["next_cursor"] is None
        bad = await api("GET", "/v1/requests", cursor="nonsense")
        assert (bad.status, bad.param) == (400, "cursor")

    async def test_csv_starts_no_formula(self, api: Api) -> None:
        api.audit.rows = [ROW, {**ROW, "agent": 'quote " comma ,', "label": "@x", "path": "+1", "user": "\t=x"}]
        reply = await api("GET", "/v1/requests", format="csv")
        assert reply.headers["Content-Type"].startswith("text/csv")
        assert reply.headers["X-Next-Cursor"] == "1"
        header, first, second = reply.text.splitlines()
        assert header == ",".join(REQUEST_COLUMNS)
        assert ",'=cmd()," in first
        assert ",-1.50," in first
        assert '"quote "" comma ,"' in second
        assert ",'@x," in second
        assert ",'+1," in second
        assert ",'\t=x," in second

    async def test_one_request(self, api: Api) -> None:
        api.audit.rows = [ROW]
        assert (await api("GET", "/v1/requests/req_1")).json == ROW
        assert (await api("GET", "/v1/requests/req_2")).status == 404

    @pytest.mark.parametrize("name", ["spend", "requests"])
    async def test_reports(self, api: Api, name: str) -> None:
        api.audit.rows = [{"team": "finance", **dict.fromkeys(FIGURE_COLUMNS, 0)}]
        reply = await api("GET", f"/v1/reports/{name}", group_by="team", agent="a", from_="7d")
        assert reply.json["data"] == api.audit.rows
        asked_name, group_by, filters, limit, _ = api.audit.asked[0]
        assert (asked_name, group_by, filters.agent, limit) == (name, "team", "a", 1000)
        csv = await api("GET", f"/v1/reports/{name}", group_by="team", format="csv")
        assert csv.text.splitlines()[0] == ",".join(("team", *FIGURE_COLUMNS))

    async def test_changes(self, api: Api) -> None:
        assert (await api("GET", "/v1/reports/changes", limit=5)).status == 200
        assert api.audit.asked[0][:2] == ("changes", "")

    @pytest.mark.parametrize(
        ("path", "query", "param"),
        [
            ("/v1/reports/spend", {"group_by": "colour"}, "group_by"),
            ("/v1/reports/spend", {"from_": "yesterday"}, "from"),
            ("/v1/reports/spend", {"to": "2026-02-30T00:00:00Z"}, "to"),
            ("/v1/reports/spend", {"from_": "1h", "to": "2h"}, "from"),
            ("/v1/reports/spend", {"format": "parquet"}, "format"),
            ("/v1/reports/changes", {"group_by": "agent"}, "group_by"),
            ("/v1/requests", {"status": "4o2"}, "status"),
            ("/v1/requests", {"outcome": "lost"}, "outcome"),
            ("/v1/requests", {"limit": 1001}, "limit"),
            ("/v1/requests", {"limit": 0}, "limit"),
            ("/v1/requests", {"agnet": "a"}, "agnet"),
        ],
    )
    async def test_refused(self, api: Api, path: str, query: dict[str, Any], param: str) -> None:
        reply = await api("GET", path, **query)
        assert (reply.status, reply.param) == (400, param)
        assert not api.audit.asked

    async def test_reconcile(self, api: Api) -> None:
        api.leader.budget.unknown["req_1"] = Amounts(usd=50, requests=1)
        body = {"actual_usd": "0.25", "reason": "the vendor's invoice"}
        reply = await api("POST", "/v1/requests/req_1/reconcile", body)
        assert reply.json == {"request_id": "req_1", "actual_usd": "0.25"}
        assert api.leader.log[-1].by.reason == "the vendor's invoice"  # type: ignore[union-attr]  # a RequestReconciled

    @pytest.mark.parametrize(
        ("outcome", "status", "code"),
        [(None, 404, "not_found"), ("settled", 409, "outcome_known"), ("open", 409, "outcome_known")],
    )
    async def test_only_unknown_outcomes_are_reconciled(
        self, api: Api, outcome: str | None, status: int, code: str
    ) -> None:
        api.audit.rows = [{"request_id": "req_1", "outcome": outcome}] if outcome else []
        reply = await api("POST", "/v1/requests/req_1/reconcile", {"actual_usd": 1, "reason": "x"})
        assert (reply.status, reply.code) == (status, code)

    async def test_reconcile_needs_a_reason(self, api: Api) -> None:
        assert (await api("POST", "/v1/requests/r/reconcile", {"actual_usd": 1})).param == "reason"
        assert (await api("POST", "/v1/requests/r/reconcile", {"actual_usd": 1, "reason": ""})).param == "reason"

    async def test_audit_down(self, api: Api) -> None:
        api.audit.failure = AuditUnavailable("secret dsn")
        reply = await api("GET", "/v1/requests")
        assert (reply.status, reply.code) == (503, "audit_unavailable")
        assert "secret" not in reply.text
        refused = await api("POST", "/v1/requests/req_1/reconcile", {"actual_usd": 1, "reason": "x"})
        assert refused.status == 404


class TestOperatorsAndProbes:
    async def test_operator_token_once_then_revoked(self, api: Api) -> None:
        reply = await api("POST", "/v1/operators", {"name": "ada", "role": "viewer", "expires_in": "1h"})
        assert reply.status == 201
        api.tokens["ada"] = reply.json["token"]
        assert (await api("GET", "/v1/nodes", role="ada")).status == 200
        listed = await api("GET", "/v1/operators")
        assert reply.json["token"] not in listed.text
        assert listed.json["data"][0]["name"] == "ada"
        assert [(await api("DELETE", f"/v1/operators/{reply.json['id']}")).status for _ in range(2)] == [204, 204]
        assert (await api("GET", "/v1/nodes", role="ada")).status == 401

    async def test_expired_operator(self, api: Api) -> None:
        reply = await api("POST", "/v1/operators", {"name": "ada", "role": "viewer", "expires_in": 60})
        api.tokens["ada"] = reply.json["token"]
        api.clock.advance_s(60)
        assert (await api("GET", "/v1/nodes", role="ada")).code == "unauthorized"
        assert (await api("GET", "/v1/operators")).json["data"][0]["state"] == "expired"

    async def test_nodes(self, api: Api) -> None:
        for seq, incarnation in enumerate(("n4-a", "n1-a", "n1-b", "n2-a", "n3-a"), 1):
            api.leader.record(NodeJoined(incarnation[:2], incarnation, fence_seq=seq, at_ns=api.clock.ns, pid=seq))
        api.leader.record(NodeFenced("n1", "n1-a", "silent", 9), NodeFenced("n4", "n4-a", "stopped", 9))
        api.statuses["n1-b"] = NodeStatus(applied=5, silent_ms=10)
        api.statuses["n2-a"] = NodeStatus(applied=4, silent_ms=10_000)
        api.statuses["n3-a"] = NodeStatus(applied=4, silent_ms=0, fenced=True, stopped=True)
        rows = (await api("GET", "/v1/nodes")).json["data"]
        assert [(row["incarnation"], row["state"], row["applied"]) for row in rows] == [
            ("n3-a", "stopped", 4), ("n2-a", "silent", 4), ("n1-b", "live", 5), ("n1-a", "fenced", None),
            ("n4-a", "stopped", None),
        ]  # fmt: skip
        assert rows[0]["head"] == api.leader.state.seq
        assert rows[3]["fence_reason"] == "silent"
        assert len((await api("GET", "/v1/nodes", state="live")).json["data"]) == 1

    async def test_probes_need_no_token(self, api: Api) -> None:
        assert (await api("GET", "/healthz", role=None)).json["status"] == "ok"
        assert (await api("GET", "/readyz", role=None)).status == 200
        api.not_ready.append(reason("audit_behind", "the audit is 70 s behind"))
        warned = await api("GET", "/readyz", role=None)
        assert (warned.status, warned.json["ready"], len(warned.json["reasons"])) == (200, True, 1)
        api.not_ready.append(reason("log_stalled", "the control log takes no appends"))
        reply = await api("GET", "/readyz", role=None)
        assert (reply.status, reply.json["ready"]) == (503, False)
        assert [(row["code"], row["warning"]) for row in reply.json["reasons"]] == [
            ("audit_behind", True), ("log_stalled", False),
        ]  # fmt: skip
        assert all(row["message"] and row["remedy"] for row in reply.json["reasons"])
        text = await api("GET", "/readyz", role=None, view="text")
        assert (text.status, text.text.splitlines()[0]) == (503, "not ready (leader)")
        metrics = await api("GET", "/metrics", role=None)
        assert metrics.text == "ringfence_up 1\n"
        assert metrics.headers["Content-Type"].startswith("text/plain")


class TestEdges:
    @pytest.mark.parametrize(
        "header",
        [
            None, "", "Bearer", "Bearer ", "Basic cmY6eA==", "Bearer rfo_wrong", "Bearer rfk_vault", "rfo_wrong",
            "Bearer " + "rfo_" + "x" * 5000, "Bearer rfo_\xff",
        ],
    )  # fmt: skip
    async def test_unauthorized(self, api: Api, header: str | None) -> None:
        headers = {"Authorization": header} if header is not None else {}
        reply = await api("GET", "/v1/keys", role=None, headers=headers)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_two_authorization_headers_are_none(self, api: Api) -> None:
        headers = [("Authorization", f"Bearer {api.tokens['admin']}"), ("Authorization", "Bearer rfo_x")]
        async with api.session.get(f"{api.url}/v1/keys", headers=headers) as answer:
            assert answer.status == 401

    async def test_failed_tries_are_limited_and_live_tokens_still_pass(self, api: Api) -> None:
        wrong = {"Authorization": "Bearer rfo_wrong"}
        statuses = [
            (await api("GET", "/v1/keys", role=None, headers=wrong)).status for _ in range(FailedTries.ALLOWED + 1)
        ]
        assert statuses == [401] * FailedTries.ALLOWED + [429]
        limited = await api("GET", "/v1/keys", role=None, headers=wrong)
        assert 1 <= int(limited.headers["Retry-After"]) <= 60
        assert (await api("GET", "/v1/keys")).status == 200
        api.clock.advance_s(61)
        assert (await api("GET", "/v1/keys", role=None, headers=wrong)).status == 401

    @pytest.mark.parametrize("role", ROLES)
    async def test_the_roles_table_holds(self, api: Api, role: str) -> None:
        """Every endpoint, with every role: refused by role exactly where the table says so."""
        for route in ROUTES:
            path = route.path.replace("{kind}", "team").replace("{id}", "x").replace("{name}", "x")
            reply = await api(route.method, path, role=role)
            assert (reply.status == 403) == (bool(route.roles) and role not in route.roles), route.path
            assert reply.status != 401
            assert reply.status < 500

    async def test_every_protected_endpoint_wants_a_token(self, api: Api) -> None:
        for route in ROUTES:
            path = route.path.replace("{kind}", "team").replace("{id}", "x").replace("{name}", "x")
            reply = await api(route.method, path, role=None)
            assert (reply.status == 401) == bool(route.roles), route.path

    async def test_unknown_paths_and_methods(self, api: Api) -> None:
        assert (await api("GET", "/v1/nothing")).code == "not_found"
        reply = await api("PUT", "/v1/keys")
        assert (reply.status, reply.code) == (405, "method_not_allowed")
        assert set(reply.headers["Allow"].split(",")) == {"GET", "POST"}

    @pytest.mark.parametrize(
        ("error", "code"),
        [(LogUnavailable(), "log_unavailable"), (BarrierOpen(), "barrier_open"), (NotLeading(), "not_leading")],
    )
    async def test_unavailable(self, api: Api, error: Exception, code: str) -> None:
        made = await issue(api)
        api.leader.failures.append(error)
        reply = await api("DELETE", f"/v1/keys/{made['id']}")
        assert (reply.status, reply.code) == (503, code)
        assert reply.headers["Retry-After"] == "1"
        assert (await api("DELETE", f"/v1/keys/{made['id']}")).status == 204

    async def test_body_too_large(self, api: Api) -> None:
        reply = await api("POST", "/v1/keys", raw=b" " * 200_000)
        assert (reply.status, reply.code) == (413, "body_too_large")

    async def test_body_that_is_not_what_it_says(self, api: Api) -> None:
        reply = await api("POST", "/v1/keys", raw=b"not gzip", headers={"Content-Encoding": "gzip"})
        assert reply.status == 400

    async def test_a_query_parameter_twice(self, api: Api) -> None:
        headers = {"Authorization": f"Bearer {api.tokens['admin']}"}
        async with api.session.get(f"{api.url}/v1/keys?agent=a&agent=b", headers=headers) as answer:
            assert answer.status == 400

    @pytest.mark.parametrize(
        "cursor", ["x", "!!!!", "AAAA", base64.urlsafe_b64encode(b'["a",1]').decode(), "é" * 20, "W10"]
    )
    @pytest.mark.parametrize("path", ["keys", "agents", "teams", "budgets", "operators", "nodes"])
    async def test_bad_cursors(self, api: Api, path: str, cursor: str) -> None:
        reply = await api("GET", f"/v1/{path}", cursor=cursor)
        assert (reply.status, reply.param) == (400, "cursor")

    async def test_a_client_that_goes_away_does_not_stop_the_command(self, api: Api) -> None:
        made = await issue(api)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        head = (
            f"DELETE /v1/keys/{made['id']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.tokens['admin']}\r\n\r\n"
        )
        writer.write(head.encode())
        await writer.drain()
        writer.close()
        deadline = asyncio.get_running_loop().time() + 5
        while api.leader.state.keys[made["id"]].state != "revoked":
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)
        del reader


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def test_no_secret_is_logged() -> None:
    """Tokens in headers, paths, queries and bodies, on success, refusal and defect alike."""
    logger = logging.getLogger("test-control-api")
    logger.setLevel(logging.DEBUG)
    records = _Records()
    logger.addHandler(records)
    logging.getLogger("aiohttp").addHandler(records)
    try:
        async with serving(logger) as api:
            made = (await api("POST", "/v1/keys", KEY)).json
            secrets = {made["token"], *api.tokens.values()}
            await api("DELETE", f"/v1/keys/{made['token']}")
            await api("GET", f"/v1/keys/{made['token']}")
            await api("GET", f"/nowhere/{made['token']}")
            await api("GET", "/v1/keys", agent=made["token"])
            await api("POST", "/v1/keys", {made["token"]: 1})
            api.leader.failures.append(RuntimeError(f"defect with {made['token']}"))
            reply = await api("DELETE", f"/v1/keys/{made['token']}")
            assert (reply.status, reply.code) == (500, "internal")
            assert made["token"] not in reply.text
            lines = "\n".join(records.lines)
            assert not any(secret in lines for secret in secrets)
            assert "DELETE /v1/keys/{id} 204" in lines
            assert "RuntimeError" in lines
            assert ("DELETE", "/v1/keys/{id}", 204) in api.observed
            assert ("GET", "-", 404) in api.observed
    finally:
        logging.getLogger("aiohttp").removeHandler(records)


async def test_openapi_is_served(api: Api) -> None:
    reply = await api("GET", "/openapi.json", role=None)
    assert reply.json["openapi"] == "3.1.0"
    assert json.loads(reply.text)["paths"]["/v1/keys"]["post"]


async def test_server_names_itself_only(api: Api) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{api.url}/healthz") as answer:
        assert answer.headers["Server"] == "ringfence"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
