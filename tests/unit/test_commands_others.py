"""Commands on agents, budgets, operators and requests."""

from typing import Any

import msgspec
import pytest
from support.control_fakes import OPERATOR, START_NS, Clock, FakeLeader

from controlplane.api.decode import BodyDecoder
from controlplane.commands import agents, budgets, keys, operators, requests
from controlplane.commands.base import CommandRefusal, Figures, Moment
from controlplane.commands.keys import KeyRules
from controlplane.commands.refusals import ERRORS
from events.state.budget import Budget
from events.types import (
    AgentRegistered,
    AgentRemoved,
    AgentResumed,
    AgentSuspended,
    AgentUpdated,
    BudgetSet,
    OperatorTokenIssued,
    RequestReconciled,
)
from schemas.accounts import AccountCaps, Cap
from schemas.amounts import Amounts
from schemas.api import AgentPatch, AgentPut, BudgetPut, KeyIssue, OperatorIssue, Span, Usd
from schemas.ids import token_sha256
from schemas.settings import Defaults


@pytest.fixture
def leader() -> FakeLeader:
    return FakeLeader(Clock())


def body(kind: Any, fields: dict[str, Any]) -> Any:
    decoded = BodyDecoder(kind).decode(msgspec.json.encode(fields))
    assert not isinstance(decoded, CommandRefusal), decoded
    return decoded


FULL: dict[str, Any] = {
    "owner": "finance",
    "purpose": "invoicing of the month",
    "cost_center": "CC 12",
    "limits": {"rate_limit_rpm": 60, "rate_limit_tpm": 9000},
    "roles": ["payer"],
    "on_exhausted": "suspend",
    "metadata": {"repo": "billing"},
}


class TestAgents:
    def test_put_registers_then_replaces(self, leader: FakeLeader) -> None:
        assert leader.run(agents.put("bot", body(AgentPut, FULL))) is True
        agent = leader.state.agents["bot"]
        assert (agent.owner, agent.rpm, agent.tpm, agent.roles) == ("finance", 60, 9000, ("payer",))
        assert agent.registered_at_ns == leader.clock.ns
        assert leader.run(agents.put("bot", body(AgentPut, {"purpose": "x"}))) is False
        agent = leader.state.agents["bot"]
        assert (agent.owner, agent.purpose, agent.rpm, agent.on_exhausted) == ("", "x", 0, "refuse")

    def test_the_same_again_is_no_event(self, leader: FakeLeader) -> None:
        leader.run(agents.put("bot", body(AgentPut, FULL)))
        leader.run(agents.put("bot", body(AgentPut, FULL)))
        assert [type(event) for event in leader.log] == [AgentRegistered]
        assert leader.barriers[-1] == 1

    @pytest.mark.parametrize(
        ("fields", "name", "value"),
        [
            ({"owner": "ops"}, "owner", "ops"),
            ({"owner": None}, "owner", ""),
            ({"purpose": None}, "purpose", ""),
            ({"cost_center": "CC 13"}, "cost_center", "CC 13"),
            ({"limits": {"rate_limit_rpm": 5}}, "rpm", 5),
            ({"limits": {"rate_limit_rpm": None}}, "rpm", 0),
            ({"limits": {"rate_limit_tpm": 7}}, "tpm", 7),
            ({"roles": None}, "roles", ()),
            ({"on_exhausted": "refuse"}, "on_exhausted", "refuse"),
            ({"metadata": {}}, "metadata", {}),
        ],
    )
    def test_patch_changes_one_field(self, leader: FakeLeader, fields: dict[str, Any], name: str, value: Any) -> None:
        leader.run(agents.put("bot", body(AgentPut, FULL)))
        before = leader.state.agents["bot"]
        assert leader.run(agents.patch("bot", body(AgentPatch, fields))) is False
        after = leader.state.agents["bot"]
        assert getattr(after, name) == value
        assert {f for f in before.__struct_fields__ if getattr(before, f) != getattr(after, f)} == {name, "changed_seq"}

    def test_patch_of_limits_null_removes_both(self, leader: FakeLeader) -> None:
        leader.run(agents.put("bot", body(AgentPut, FULL)))
        leader.run(agents.patch("bot", body(AgentPatch, {"limits": None})))
        assert (leader.state.agents["bot"].rpm, leader.state.agents["bot"].tpm) == (0, 0)

    @pytest.mark.parametrize(
        ("name", "fields", "param"),
        [
            ("not a name", {}, "name"),
            ("a:b", {}, "name"),
            ("bot", {"owner": "two words"}, "owner"),
            ("bot", {"purpose": "semi;colon"}, "purpose"),
            ("bot", {"cost_center": "x\n"}, "cost_center"),
            ("bot", {"roles": ["a", "a"]}, "roles"),
            ("bot", {"roles": ["a b"]}, "roles"),
            ("bot", {"metadata": {"a b": "c"}}, "metadata"),
        ],
    )
    def test_refused(self, leader: FakeLeader, name: str, fields: dict[str, Any], param: str) -> None:
        refusal = leader.run(agents.put(name, body(AgentPut, fields)))
        assert (refusal.code, refusal.param) == ("invalid_parameter", param)

    @pytest.mark.parametrize(
        ("before", "action", "outcome"),
        [
            ((), "suspend", AgentSuspended),
            ((), "resume", None),
            ((), "remove", AgentRemoved),
            (("suspend",), "suspend", None),
            (("suspend",), "resume", AgentResumed),
            (("suspend",), "remove", AgentRemoved),
            (("remove",), "suspend", "not_found"),
            (("remove",), "resume", "not_found"),
            (("remove",), "patch", "not_found"),
            (("remove",), "remove", None),
            (("remove",), "put", AgentRegistered),
            (("suspend",), "put", AgentUpdated),
        ],
    )
    def test_lifecycle(self, leader: FakeLeader, before: tuple[str, ...], action: str, outcome: Any) -> None:
        actions = {
            "suspend": agents.suspend("bot"),
            "resume": agents.resume("bot"),
            "remove": agents.remove("bot"),
            "patch": agents.patch("bot", AgentPatch(owner="x")),
            "put": agents.put("bot", AgentPut(owner="y")),
        }
        leader.run(agents.put("bot", AgentPut()))
        for earlier in before:
            leader.run(actions[earlier])
        events = len(leader.log)
        answer = leader.run(actions[action])
        if isinstance(outcome, str):
            assert answer.code == outcome
        assert [type(event) for event in leader.log[events:]] == (
            [outcome] if outcome is not None and not isinstance(outcome, str) else []
        )

    @pytest.mark.parametrize("action", [agents.suspend, agents.resume, agents.remove])
    def test_unknown(self, leader: FakeLeader, action: Any) -> None:
        assert leader.run(action("nobody")).code == "not_found"

    def test_removal_waits_until_no_live_key_names_it(self, leader: FakeLeader) -> None:
        rules = KeyRules(frozenset(), Defaults())
        leader.run(keys.issue(KeyIssue(uncapped=True, agent="bot", expires_in=Span(60)), rules))
        assert leader.run(agents.remove("bot")).code == "agent_in_use"
        leader.clock.advance_s(61)
        assert leader.run(agents.remove("bot")) == "bot"

    def test_declared_agents(self, leader: FakeLeader) -> None:
        assert leader.run(agents.register_declared("bot", "finance", "x")) is True
        assert leader.run(agents.register_declared("bot", "other", "y")) is False
        assert leader.state.agents["bot"].owner == "finance"
        leader.run(agents.remove("bot"))
        assert leader.run(agents.register_declared("bot", "finance", "x")) is False
        assert leader.state.agents["bot"].removed

    def test_declared_agents_are_bounded(self, leader: FakeLeader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "MAX_AGENTS", 1)
        assert leader.run(agents.register_declared("one", "", "")) is True
        assert leader.run(agents.register_declared("two", "", "")).code == "too_many"
        assert leader.run(agents.put("two", AgentPut())).code == "too_many"


class TestBudgets:
    def test_set_replaces_all(self, leader: FakeLeader) -> None:
        leader.run(budgets.set_budget("team", "fin", body(BudgetPut, {"daily_usd_cap": 5, "daily_token_cap": 7})))
        leader.run(
            budgets.set_budget("team", "fin", body(BudgetPut, {"monthly_usd_cap": "9.5", "time_zone": "Asia/Tokyo"}))
        )
        assert leader.state.budgets["team:fin"] == AccountCaps(
            "team", "fin", (Cap("usd", "month", 9_500_000_000),), "Asia/Tokyo"
        )

    def test_the_same_again_waits_only(self, leader: FakeLeader) -> None:
        for _ in range(2):
            leader.run(budgets.set_budget("org", "default", BudgetPut(daily_usd_cap=Usd(5))))
        assert [type(event) for event in leader.log] == [BudgetSet]
        assert leader.barriers == [0, 1]

    def test_remove_and_again(self, leader: FakeLeader) -> None:
        leader.run(budgets.set_budget("agent", "bot", BudgetPut(daily_usd_cap=Usd(5), time_zone="Asia/Tokyo")))
        assert leader.run(budgets.remove_budget("agent", "bot")) is None
        assert leader.state.caps_of("agent", "bot") is None
        assert leader.run(budgets.remove_budget("agent", "bot")) is None
        assert len(leader.log) == 2

    @pytest.mark.parametrize(
        ("kind", "account", "fields", "status", "code"),
        [
            ("key", "vk_1", {"daily_usd_cap": 1}, 409, "key_caps"),
            ("nation", "x", {"daily_usd_cap": 1}, 404, "not_found"),
            ("org", "other", {"daily_usd_cap": 1}, 404, "not_found"),
            ("team", "a b", {"daily_usd_cap": 1}, 400, "invalid_parameter"),
            ("team", "fin", {}, 400, "cap_required"),
            ("team", "fin", {"daily_usd_cap": 1, "time_zone": "Mars/Base"}, 400, "invalid_parameter"),
            ("team", "fin", {"daily_usd_cap": 1, "time_zone": "../../etc/passwd"}, 400, "invalid_parameter"),
            ("team", "fin", {"daily_usd_cap": 1, "time_zone": "Europe"}, 400, "invalid_parameter"),
        ],
    )
    def test_refused(
        self, leader: FakeLeader, kind: str, account: str, fields: dict[str, Any], status: int, code: str
    ) -> None:
        refusal = leader.run(budgets.set_budget(kind, account, body(BudgetPut, fields)))
        assert (refusal.status, refusal.code) == (status, code)
        assert not leader.log

    def test_the_keys_remedy_names_the_way(self, leader: FakeLeader) -> None:
        for command in (budgets.set_budget("key", "vk_1", BudgetPut()), budgets.remove_budget("key", "vk_1")):
            assert "PATCH /v1/keys/" in leader.run(command).remedy

    def test_never_set(self, leader: FakeLeader) -> None:
        assert leader.run(budgets.remove_budget("team", "fin")).code == "not_found"


class TestOperators:
    def test_issue(self, leader: FakeLeader) -> None:
        issued = leader.run(operators.issue(OperatorIssue(name="ada", role="auditor", expires_in=Span(60))))
        assert issued.token.startswith("rfo_")
        assert issued.token not in repr(issued)
        assert issued.token not in repr(leader.log)
        operator = leader.state.operators[leader.state.operator_tokens[token_sha256(issued.token)]]
        assert (operator.name, operator.role) == ("ada", "auditor")
        assert operator.expires_at_ns == leader.clock.ns + 60 * 10**9

    def test_admit_is_repeatable(self, leader: FakeLeader) -> None:
        first = leader.run(operators.admit(OperatorIssue(name="setup", role="admin"), "rfo_drawn"))
        again = leader.run(operators.admit(OperatorIssue(name="setup", role="admin"), "rfo_drawn"))
        assert first.id == again.id
        assert [type(event) for event in leader.log] == [OperatorTokenIssued]

    def test_revoke_and_again(self, leader: FakeLeader) -> None:
        first = leader.run(operators.issue(OperatorIssue(name="a", role="admin")))
        leader.run(operators.issue(OperatorIssue(name="b", role="admin")))
        assert leader.run(operators.revoke(first.id)) == first.id
        assert leader.run(operators.revoke(first.id)) == first.id
        assert len(leader.log) == 3

    def test_the_last_live_admin_stays(self, leader: FakeLeader) -> None:
        admin = leader.run(operators.issue(OperatorIssue(name="a", role="admin")))
        leader.run(operators.issue(OperatorIssue(name="b", role="issuer")))
        brief = leader.run(operators.issue(OperatorIssue(name="c", role="admin", expires_in=Span(60))))
        leader.clock.advance_s(61)
        assert leader.run(operators.revoke(admin.id)).code == "last_admin"
        assert leader.run(operators.revoke(brief.id)) == brief.id

    def test_refused(self, leader: FakeLeader) -> None:
        assert leader.run(operators.issue(OperatorIssue(name="a b", role="admin"))).param == "name"
        assert leader.run(operators.revoke("op_nobody")).code == "not_found"


class TestReconcile:
    @pytest.mark.parametrize(
        ("bound", "actual"),
        [
            (Amounts(usd=50, requests=1, tokens=9), Amounts(usd=7, requests=1, tokens=9)),
            (Amounts(refund=50, requests=1), Amounts(refund=7, requests=1)),
            (Amounts(usd=5, refund=50, requests=1), Amounts(usd=7, requests=1)),
            (Amounts(requests=1), Amounts(usd=7, requests=1)),
        ],
    )
    def test_the_meter_that_was_held(self, leader: FakeLeader, bound: Amounts, actual: Amounts) -> None:
        leader.budget.unknown["req_1"] = bound
        assert leader.run(requests.reconcile("req_1", 7)) == actual
        event = leader.log[-1]
        assert isinstance(event, RequestReconciled)
        assert event.actual == actual

    def test_not_while_a_fenced_node_may_still_send_it(self, leader: FakeLeader) -> None:
        leader.budget.unknown["req_1"] = Amounts(usd=5, requests=1)
        moment = Moment(START_NS, bytes, OPERATOR, young_fence=True)
        refused = requests.reconcile("req_1", 0)(leader.state, leader.budget, moment)
        assert isinstance(refused, CommandRefusal)
        assert (refused.status, refused.code) == (409, "outcome_open")

    def test_only_unknown_outcomes(self, leader: FakeLeader) -> None:
        assert leader.run(requests.reconcile("req_1", 7)).code == "not_found"


def test_the_ledger_answers_what_commands_ask() -> None:
    """The fold of both logs has the face that commands and the API are written against."""
    figures: Figures = Budget()
    sums = figures.figure("key", "vk_1", "usd", "day", START_NS, "Europe/Berlin")
    assert (sums.settled, sums.held) == (0, 0)
    assert figures.unknown_bound("req_1") is None


def test_every_error_has_a_remedy_and_a_status_of_its_kind() -> None:
    for code, kind in ERRORS.items():
        assert kind.remedy.endswith("."), code
        assert 400 <= kind.status <= 503, code
