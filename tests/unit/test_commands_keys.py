"""Commands on keys: what is issued, refused, changed and stopped, as tables."""

import itertools
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from support.control_fakes import OPERATOR, START_NS, Clock, FakeLeader

from controlplane.api.decode import BodyDecoder
from controlplane.commands import agents, key_changes, key_stops, keys
from controlplane.commands.base import CommandRefusal, Moment
from controlplane.commands.keys import IssuedKey, KeyRules
from events.types import (
    AgentRegistered,
    BudgetSet,
    KeyChanged,
    KeyIssued,
    KeyResumed,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
)
from schemas.accounts import Cap
from schemas.api import AgentPut, KeyIssue, KeyPatch, RevokeMany
from schemas.caps import CAP_FIELDS
from schemas.ids import token_sha256
from schemas.settings import Defaults

RULES = KeyRules(frozenset({"stripe", "openai"}), Defaults(expires_in_s=3600, max_expires_in_s=86400))
CAP = {"daily_usd_cap": "25"}


def body(kind: Any, fields: dict[str, Any]) -> Any:
    """A body as the API reads it from JSON."""
    decoded = BodyDecoder(kind).decode(msgspec.json.encode(fields))
    assert not isinstance(decoded, CommandRefusal), decoded
    return decoded


@pytest.fixture
def leader() -> FakeLeader:
    return FakeLeader(Clock())


def issue(leader: FakeLeader, **fields: Any) -> Any:
    return leader.run(keys.issue(body(KeyIssue, fields or dict(CAP)), RULES))


def issued(leader: FakeLeader, **fields: Any) -> IssuedKey:
    answer = issue(leader, **{**CAP, **fields})
    assert isinstance(answer, IssuedKey), answer
    return answer


class TestIssue:
    def test_records_the_digest_and_gives_the_token(self, leader: FakeLeader) -> None:
        answer = issued(leader, agent="billing-bot", label="nightly", vendor="stripe")
        registered, event = leader.log
        assert isinstance(registered, AgentRegistered)
        assert (registered.name, registered.made_for) == ("billing-bot", "")
        assert isinstance(event, KeyIssued)
        assert event.token_sha256 == token_sha256(answer.token)
        assert leader.state.tokens == {token_sha256(answer.token): answer.id}
        assert answer.token not in repr(leader.log)
        assert answer.token not in repr(answer)
        assert (event.agent, event.upstreams, event.label) == ("billing-bot", ("stripe",), "nightly")
        assert event.caps is not None
        assert event.caps.caps == (Cap("usd", "day", 25_000_000_000),)

    def test_one_append_for_agent_and_key(self, leader: FakeLeader) -> None:
        issued(leader, agent="a")
        assert leader.state.seq == 1
        issued(leader, agent="a")
        assert [type(event) for event in leader.log] == [AgentRegistered, KeyIssued, KeyIssued]

    @pytest.mark.parametrize(
        ("fields", "agent", "made_for_it"),
        [
            ({}, None, True),
            ({"label": "nightly"}, "nightly", True),
            ({"label": "two words"}, None, True),
            ({"label": "taken"}, None, True),
            ({"agent": "taken"}, "taken", False),
            ({"agent": "new"}, "new", False),
        ],
    )
    def test_which_agent(
        self, leader: FakeLeader, fields: dict[str, Any], agent: str | None, made_for_it: bool
    ) -> None:
        leader.run(agents.put("taken", AgentPut()))
        answer = issued(leader, **fields)
        key = leader.state.keys[answer.id]
        assert key.agent == (agent or answer.id)
        assert leader.state.agents[key.agent].made_for == (answer.id if made_for_it else "")

    def test_declared_without_an_agent_has_none(self, leader: FakeLeader) -> None:
        answer = issued(leader, identity="declared", allow_unknown_agents=True)
        assert leader.state.keys[answer.id].agent == ""
        assert not leader.state.agents

    def test_every_cap_becomes_its_meter_and_window(self, leader: FakeLeader) -> None:
        amounts = {name: index for index, name in enumerate(CAP_FIELDS, 1)}
        answer = issue(leader, **amounts)
        account = leader.state.caps_of("key", answer.id)
        assert account is not None
        assert {(cap.meter, cap.window): cap.amount for cap in account.caps} == {
            where: amounts[name] * (10**9 if where[0] in {"usd", "refund"} else 1) for name, where in CAP_FIELDS.items()
        }

    @pytest.mark.parametrize(("expires_in", "lasts_s"), [(None, 3600), (60, 60), ("10m", 600), ("24h", 86400)])
    def test_expiry(self, leader: FakeLeader, expires_in: Any, lasts_s: int) -> None:
        leader.clock.ns += 1  # off the millisecond
        answer = issued(leader, expires_in=expires_in)
        ends_ns = leader.state.keys[answer.id].expires_at_ns
        assert 0 <= ends_ns - (START_NS + 1 + lasts_s * 10**9) < 10**6
        assert ends_ns % 10**6 == 0

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"label": "x"}, "cap_required", "uncapped"),
            ({"uncapped": False}, "cap_required", "uncapped"),
            ({"refund_daily_usd_cap": 5}, "cap_required", "uncapped"),
            ({"max_uses": 5}, "cap_required", "uncapped"),
            ({"uncapped": True, "daily_usd_cap": 5}, "invalid_parameter", "uncapped"),
            ({**CAP, "vendor": "nowhere"}, "upstream_unknown", "vendor"),
            ({**CAP, "upstreams": ["stripe", "nowhere"]}, "upstream_unknown", "upstreams"),
            ({**CAP, "upstreams": ["stripe", "stripe"]}, "invalid_parameter", "upstreams"),
            ({**CAP, "vendor": "stripe", "upstreams": ["stripe"]}, "invalid_parameter", "vendor"),
            ({**CAP, "agent": "not a name"}, "invalid_parameter", "agent"),
            ({**CAP, "agent": "a:b"}, "invalid_parameter", "agent"),
            ({**CAP, "label": "bell\x07"}, "invalid_parameter", "label"),
            ({**CAP, "label": " blank"}, "invalid_parameter", "label"),
            ({**CAP, "allowed_endpoints": ["nonsense"]}, "invalid_parameter", "allowed_endpoints"),
            ({**CAP, "allowed_endpoints": ["/a", "/a"]}, "invalid_parameter", "allowed_endpoints"),
            ({**CAP, "vendor": "stripe", "allowed_endpoints": ["openai:/v1/x"]}, "invalid_parameter", "allowed_endpoints"),
            ({**CAP, "models": ["m", "m"]}, "invalid_parameter", "models"),
            ({**CAP, "metadata": {"bad key": "x"}}, "invalid_parameter", "metadata"),
            ({**CAP, "metadata": {"k": "x" * 200}}, "invalid_parameter", "metadata"),
            ({**CAP, "metadata": {"k": "line\nbreak"}}, "invalid_parameter", "metadata"),
            ({**CAP, "allow_unknown_agents": True}, "invalid_parameter", "allow_unknown_agents"),
            ({**CAP, "expires_in": "25h"}, "invalid_parameter", "expires_in"),
        ],
    )  # fmt: skip
    def test_refused(self, leader: FakeLeader, fields: dict[str, Any], code: str, param: str) -> None:
        refusal = issue(leader, **fields)
        assert isinstance(refusal, CommandRefusal)
        assert (refusal.code, refusal.param) == (code, param)
        assert refusal.remedy
        assert not leader.log

    def test_zero_is_a_cap(self, leader: FakeLeader) -> None:
        answer = issue(leader, daily_usd_cap=0)
        account = leader.state.caps_of("key", answer.id)
        assert account is not None
        assert account.caps == (Cap("usd", "day", 0),)

    def test_uncapped_with_counts_only(self, leader: FakeLeader) -> None:
        answer = issue(leader, uncapped=True, max_uses=3, refund_daily_usd_cap="1.5")
        assert leader.state.keys[answer.id].uncapped
        assert not isinstance(answer, CommandRefusal)

    def test_a_suspended_agent_gets_no_key(self, leader: FakeLeader) -> None:
        leader.run(agents.put("bot", AgentPut()))
        leader.run(agents.suspend("bot"))
        assert issue(leader, **CAP, agent="bot").code == "agent_suspended"

    def test_a_removed_agent_is_registered_again(self, leader: FakeLeader) -> None:
        leader.run(agents.put("bot", AgentPut()))
        leader.run(agents.remove("bot"))
        issued(leader, agent="bot")
        assert not leader.state.agents["bot"].removed

    def test_full(self, leader: FakeLeader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keys, "MAX_KEYS", 1)
        issued(leader)
        assert issue(leader).code == "too_many"

    def test_same_state_moment_and_randomness_decide_the_same(self, leader: FakeLeader) -> None:
        def moment() -> Moment:
            draws = itertools.count(9)
            return Moment(START_NS, lambda size: next(draws).to_bytes(size, "big"), OPERATOR)

        issued(leader)
        decide = keys.issue(body(KeyIssue, CAP), RULES)
        assert decide(leader.state, leader.budget, moment()) == decide(leader.state, leader.budget, moment())


class TestChange:
    def patch(self, leader: FakeLeader, key_id: str, **fields: Any) -> Any:
        return leader.run(key_changes.change(key_id, body(KeyPatch, fields), RULES))

    @pytest.mark.parametrize(
        ("fields", "name", "value"),
        [
            ({"label": "new"}, "label", "new"),
            ({"label": None}, "label", ""),
            ({"vendor": "openai"}, "upstreams", ("openai",)),
            ({"vendor": None}, "upstreams", ()),
            ({"upstreams": ["openai", "stripe"]}, "upstreams", ("openai", "stripe")),
            ({"upstreams": None}, "upstreams", ()),
            ({"allowed_endpoints": ["GET /v1/**"]}, "endpoints", ("GET /v1/**",)),
            ({"allowed_endpoints": None}, "endpoints", ()),
            ({"models": ["m"]}, "models", ("m",)),
            ({"rate_limit_rpm": 7}, "rpm", 7),
            ({"rate_limit_rpm": None}, "rpm", 0),
            ({"rate_limit_tpm": 9}, "tpm", 9),
            ({"on_exhausted": "suspend"}, "on_exhausted", "suspend"),
            ({"metadata": {"run_id": "r"}}, "metadata", {"run_id": "r"}),
            ({"metadata": None}, "metadata", {}),
            ({"expires_in": 60}, "expires_at_ns", START_NS + 60 * 10**9),
        ],
    )
    def test_one_field_changes_and_nothing_else(
        self, leader: FakeLeader, fields: dict[str, Any], name: str, value: Any
    ) -> None:
        answer = issued(
            leader, label="old", vendor="stripe", allowed_endpoints=["/v1/x"], rate_limit_rpm=3, metadata={"user": "u"}
        )
        before = leader.state.keys[answer.id]
        self.patch(leader, answer.id, **fields)
        after = leader.state.keys[answer.id]
        assert getattr(after, name) == value
        moved = {f for f in before.__struct_fields__ if getattr(before, f) != getattr(after, f)}
        assert moved == {name, "changed_seq"}
        assert isinstance(leader.log[-1], KeyChanged)
        account = leader.state.caps_of("key", answer.id)
        assert account is not None
        assert account.caps == (Cap("usd", "day", 25_000_000_000),)

    def test_caps_merge_in_a_budget_event(self, leader: FakeLeader) -> None:
        answer = issued(leader, total_usd_cap=100, max_uses=5)
        self.patch(leader, answer.id, daily_usd_cap="30", max_uses=None)
        assert isinstance(leader.log[-1], BudgetSet)
        account = leader.state.caps_of("key", answer.id)
        assert account is not None
        assert account.caps == (Cap("usd", "day", 30 * 10**9), Cap("usd", "total", 100 * 10**9))

    def test_nothing_new_is_no_event_but_waits_for_the_last_change(self, leader: FakeLeader) -> None:
        answer = issued(leader, label="x")
        self.patch(leader, answer.id, rate_limit_rpm=5)
        events = len(leader.log)
        self.patch(leader, answer.id, rate_limit_rpm=5, label="x", daily_usd_cap="25.00")
        assert len(leader.log) == events
        assert leader.barriers[-1] == leader.state.keys[answer.id].changed_seq == 2

    def test_last_dollar_cap_goes_only_with_uncapped(self, leader: FakeLeader) -> None:
        answer = issued(leader)
        assert self.patch(leader, answer.id, daily_usd_cap=None).code == "cap_required"
        assert self.patch(leader, answer.id, uncapped=True).code == "invalid_parameter"
        assert self.patch(leader, answer.id, daily_usd_cap=None, uncapped=True) == answer.id
        assert leader.state.keys[answer.id].uncapped

    def test_first_dollar_cap_ends_uncapped(self, leader: FakeLeader) -> None:
        answer = issue(leader, uncapped=True)
        self.patch(leader, answer.id, total_usd_cap=1)
        assert not leader.state.keys[answer.id].uncapped

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"vendor": "nowhere"}, "upstream_unknown", "upstreams"),
            ({"vendor": "openai", "upstreams": ["openai"]}, "invalid_parameter", "vendor"),
            ({"vendor": "openai"}, "invalid_parameter", "allowed_endpoints"),
            ({"allowed_endpoints": ["openai:/v1/x"]}, "invalid_parameter", "allowed_endpoints"),
            ({"expires_in": "30d"}, "invalid_parameter", "expires_in"),
            ({"label": "\t"}, "invalid_parameter", "label"),
            ({"uncapped": True}, "invalid_parameter", "uncapped"),
        ],
    )
    def test_refused(self, leader: FakeLeader, fields: dict[str, Any], code: str, param: str) -> None:
        answer = issued(leader, vendor="stripe", allowed_endpoints=["stripe:/v1/x"])
        refusal = self.patch(leader, answer.id, **fields)
        assert isinstance(refusal, CommandRefusal)
        assert (refusal.code, refusal.param) == (code, param)

    def test_an_upstream_gone_from_the_configuration_does_not_freeze_the_key(self, leader: FakeLeader) -> None:
        answer = issued(leader, vendor="stripe")
        without = KeyRules(frozenset({"openai"}), RULES.defaults)
        assert leader.run(key_changes.change(answer.id, body(KeyPatch, {"label": "x"}), without)) == answer.id


def stops(leader: FakeLeader, action: str, key: IssuedKey) -> Any:
    match action:
        case "suspend":
            return leader.run(key_stops.suspend(key.id))
        case "resume":
            return leader.run(key_stops.resume(key.id))
        case "change":
            return leader.run(key_changes.change(key.id, body(KeyPatch, {"label": "z"}), RULES))
        case "revoke":
            return leader.run(key_stops.revoke(key.id))
        case "token":
            return leader.run(key_stops.revoke(key.token))
        case _:
            leader.clock.advance_s(7200)
            return None


STOPS: list[tuple[tuple[str, ...], str, Any]] = [
    # what came before, the command, its event or the refusal's code
    ((), "suspend", KeySuspended),
    ((), "resume", None),
    ((), "revoke", KeyRevoked),
    ((), "token", KeyRevoked),
    (("suspend",), "suspend", None),
    (("suspend",), "resume", KeyResumed),
    (("suspend",), "change", KeyChanged),
    (("suspend",), "revoke", KeyRevoked),
    (("revoke",), "suspend", "key_revoked"),
    (("revoke",), "resume", "key_revoked"),
    (("revoke",), "change", "key_revoked"),
    (("revoke",), "revoke", None),
    (("revoke",), "token", None),
    (("expire",), "suspend", "key_expired"),
    (("expire",), "resume", "key_expired"),
    (("expire",), "change", "key_expired"),
    (("expire",), "revoke", KeyRevoked),
    (("expire",), "token", KeyRevoked),
    (("revoke", "expire"), "change", "key_revoked"),
]


@pytest.mark.parametrize(("before", "action", "outcome"), STOPS)
def test_stops(leader: FakeLeader, before: tuple[str, ...], action: str, outcome: Any) -> None:
    key = issued(leader)
    for earlier in before:
        stops(leader, earlier, key)
    events = len(leader.log)
    answer = stops(leader, action, key)
    if isinstance(outcome, str):
        assert answer.code == outcome
        assert len(leader.log) == events
    elif outcome is None:
        assert answer == key.id
        assert len(leader.log) == events
    else:
        assert answer == key.id
        assert [type(event) for event in leader.log[events:]] == [outcome]


@pytest.mark.parametrize("action", ["suspend", "revoke", "token"])
def test_a_repeated_stop_waits_for_the_first_ones_barrier(leader: FakeLeader, action: str) -> None:
    key = issued(leader)
    stops(leader, action, key)
    recorded = leader.state.seq
    issued(leader)
    stops(leader, action, key)
    assert leader.barriers[-1] == recorded


def test_one_of_two_tokens_ends_alone(leader: FakeLeader) -> None:
    key = issued(leader)
    record = leader.state.keys[key.id]
    leader.state.keys[key.id] = replace(record, tokens=(*record.tokens, token_sha256("rfk_other")))
    leader.state.tokens[token_sha256("rfk_other")] = key.id
    leader.run(key_stops.revoke("rfk_other"))
    assert leader.log[-1] == KeyTokenRevoked(key.id, token_sha256("rfk_other"), OPERATOR)
    assert leader.state.keys[key.id].state == "active"
    leader.run(key_stops.revoke("rfk_other"))
    assert leader.barriers[-1] == leader.state.keys[key.id].changed_seq
    leader.run(key_stops.revoke(key.token))
    assert leader.state.keys[key.id].state == "revoked"


@pytest.mark.parametrize("reference", ["vk_nobody", "rfk_nobody", "", "x" * 5000, "\udcff"])
def test_an_unknown_reference_is_not_repeated(leader: FakeLeader, reference: str) -> None:
    issued(leader)
    refusal = leader.run(key_stops.revoke(reference))
    assert (refusal.status, refusal.code) == (404, "not_found")
    assert not reference or reference not in str(refusal)


def test_a_digest_is_no_token(leader: FakeLeader) -> None:
    key = issued(leader)
    assert leader.run(key_stops.revoke(token_sha256(key.token))).code == "not_found"


class TestRevokeMany:
    @pytest.fixture
    def fleet(self, leader: FakeLeader) -> dict[str, str]:
        leader.run(agents.put("bot", AgentPut(owner="finance")))
        made = {
            "stripe": issued(leader, agent="bot", vendor="stripe", label="l1", metadata={"run_id": "r1"}),
            "openai": issued(leader, agent="bot", vendor="openai", label="l2", metadata={"run_id": "r2"}),
            "any": issued(leader, agent="other", label="l1", metadata={"run_id": "r1"}),
            "shared": issued(leader, identity="declared", vendor="openai"),
        }
        return {key.id: name for name, key in made.items()}

    @pytest.mark.parametrize(
        ("selector", "revoked"),
        [
            ({"agent": "bot"}, {"stripe", "openai"}),
            ({"team": "finance"}, {"stripe", "openai"}),
            ({"run": "r1"}, {"stripe", "any"}),
            ({"label": "l1"}, {"stripe", "any"}),
            ({"upstream": "stripe"}, {"stripe", "any"}),
            ({"upstream": "openai"}, {"openai", "any", "shared"}),
            ({"agent": "nobody"}, set()),
            ({"team": "nobody"}, set()),
        ],
    )
    def test_selectors(
        self, leader: FakeLeader, fleet: dict[str, str], selector: dict[str, str], revoked: set[str]
    ) -> None:
        wanted = body(RevokeMany, selector)
        dry = leader.run(key_stops.revoke_many(body(RevokeMany, {**selector, "dry_run": True})))
        assert dry.revoked == len(revoked)
        assert all(key.state == "active" for key in leader.state.keys.values())
        done = leader.run(key_stops.revoke_many(wanted))
        assert (done.revoked, done.more) == (len(revoked), False)
        assert {fleet[k] for k, key in leader.state.keys.items() if key.state == "revoked"} == revoked

    @pytest.mark.parametrize("selector", [{}, {"agent": "a", "team": "b"}, {"dry_run": True}])
    def test_exactly_one_selector(self, leader: FakeLeader, selector: dict[str, Any]) -> None:
        assert leader.run(key_stops.revoke_many(body(RevokeMany, selector))).param == "selector"

    def test_many_take_several_decisions(self, leader: FakeLeader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_stops, "REVOKED_AT_ONCE", 2)
        for _ in range(5):
            issued(leader, agent="bot")
        decide = key_stops.revoke_many(body(RevokeMany, {"agent": "bot"}))
        outcomes = [leader.run(decide) for _ in range(4)]
        assert [(o.revoked, o.more) for o in outcomes] == [(2, True), (2, True), (1, False), (0, False)]

    def test_a_repeat_waits_for_the_barrier_of_the_first(self, leader: FakeLeader, fleet: dict[str, str]) -> None:
        decide = key_stops.revoke_many(body(RevokeMany, {"agent": "bot"}))
        leader.run(decide)
        recorded = leader.state.seq
        issued(leader)
        assert leader.run(decide).revoked == 0
        assert leader.barriers[-1] == recorded
