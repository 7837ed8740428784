import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from dataplane.core.access import (
    Caller,
    Callers,
    Unregistered,
    allow,
    allow_model,
    check_key,
    find_key,
    identify,
    still_allowed,
)
from dataplane.core.snapshot import Snapshot
from schemas.identity import Identity
from schemas.policy import AgentPolicy, KeyPolicy
from schemas.refusals import Refusal

TOKEN = "rfk_live"
DIGEST = hashlib.sha256(TOKEN.encode()).digest()
HEX = DIGEST.hex()
KEY = KeyPolicy("vk_1", 1, tokens=(HEX,), agent="bot", label="l", run="r1")
BOT = AgentPolicy("bot", 1, owner="finance", purpose="invoicing")


def snapshot_with(*records: KeyPolicy | AgentPolicy) -> Snapshot:
    snapshot = Snapshot()
    snapshot.put(records)
    return snapshot


def code(value: object) -> str:
    return value.code if isinstance(value, Refusal) else ""


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], "unknown_key"),
        (["sk_live_realkey"], "unknown_key"),
        (["rfk_other"], "unknown_key"),
        (["rfk_\udcff"], "unknown_key"),
        ([TOKEN, "rfk_other"], "unknown_key"),
        ([TOKEN], ""),
        ([TOKEN, TOKEN], ""),
        (["AC123", TOKEN], ""),
    ],
)
def test_find_key(tokens: list[str], expected: str) -> None:
    assert code(find_key(snapshot_with(KEY), tokens)) == expected


@pytest.mark.parametrize(
    ("change", "now_ns", "expected"),
    [
        ({}, 0, ""),
        ({"state": "revoked"}, 0, "key_revoked"),
        ({"state": "revoked", "expires_at_ns": 5}, 9, "key_revoked"),
        ({"dead_tokens": (HEX,), "tokens": ()}, 0, "key_revoked"),
        ({"state": "suspended"}, 0, "key_suspended"),
        ({"state": "suspended", "expires_at_ns": 5}, 5, "key_expired"),
        ({"expires_at_ns": 5}, 4, ""),
        ({"expires_at_ns": 5}, 5, "key_expired"),
    ],
)
def test_check_key(change: dict[str, Any], now_ns: int, expected: str) -> None:
    refusal = check_key(replace(KEY, **change), DIGEST, now_ns)
    assert (refusal.code if refusal else "") == expected


@pytest.mark.parametrize(
    ("change", "headers", "expected"),
    [
        ({}, [], ""),
        ({}, ["name=bot"], ""),
        ({}, ["name=bot; owner=finance; purpose=invoicing"], ""),
        ({}, ["name=other"], "identity_mismatch"),
        ({}, ["name=bot; owner=sales"], "identity_mismatch"),
        ({}, ["name=bot; purpose=fraud"], "identity_mismatch"),
        ({}, ["name=bot", "name=bot"], "identity_invalid"),
        ({}, ["bot"], "identity_invalid"),
        ({"agent": "nobody"}, [], "agent_unknown"),
        ({"identity": "declared"}, [], "identity_required"),
        ({"identity": "declared"}, ["name=bot"], ""),
        ({"identity": "declared"}, ["name=new"], "agent_unknown"),
        ({"allow_unknown_agents": True, "agent": "new"}, ["name=new"], "agent_unknown"),
    ],
)
def test_identify(change: dict[str, Any], headers: list[str], expected: str) -> None:
    assert code(identify(snapshot_with(BOT), replace(KEY, **change), headers)) == expected


def test_an_unknown_agent_of_a_declared_key_is_to_be_registered() -> None:
    key = replace(KEY, identity="declared", allow_unknown_agents=True)
    found = identify(snapshot_with(BOT), key, ["name=new; owner=ops"])
    assert found == Unregistered(Identity("new", "ops"))


def test_a_claimed_owner_never_moves_a_request_to_another_team() -> None:
    plain = AgentPolicy("bot", 1)
    found = identify(snapshot_with(plain), KEY, ["name=bot; owner=finance; purpose=audit"])
    assert found == (plain, "audit")
    caller = Caller(KEY, plain, "audit")
    assert caller.who.owner == ""
    assert caller.who.purpose == "audit"
    assert caller.accounts == ("key:vk_1", "agent:bot", "org:default")


def test_accounts_of_a_caller() -> None:
    assert Caller(KEY, BOT, "").accounts == ("key:vk_1", "agent:bot", "team:finance", "org:default")


@pytest.mark.parametrize(
    ("change", "method", "path", "expected"),
    [
        ({}, "GET", "v1/anything", ""),
        ({"upstreams": ("stripe",)}, "GET", "v1", ""),
        ({"upstreams": ("openai",)}, "GET", "v1", "upstream_not_allowed"),
        ({"endpoints": ("POST /v1/charges",)}, "POST", "v1/charges", ""),
        ({"endpoints": ("POST /v1/charges",)}, "GET", "v1/charges", "endpoint_not_allowed"),
        ({"endpoints": ("/v1/charges/*",)}, "GET", "v1/charges/ch_1/capture", "endpoint_not_allowed"),
        ({"endpoints": ("/v1/a", "/v1/b")}, "GET", "v1/b", ""),
        ({"endpoints": ("openai:/v1/**",)}, "GET", "v1/b", "endpoint_not_allowed"),
        ({"endpoints": ("not a pattern",)}, "GET", "v1/b", "endpoint_not_allowed"),
    ],
)
def test_allow(change: dict[str, Any], method: str, path: str, expected: str) -> None:
    caller = Caller(replace(KEY, **change), BOT, "")
    refusal = allow(caller, "stripe", method, tuple(path.split("/")))
    assert (refusal.code if refusal else "") == expected


def test_a_suspended_agent_is_refused_before_its_endpoints_are_looked_at() -> None:
    caller = Caller(replace(KEY, endpoints=("/x",)), replace(BOT, state="suspended"), "")
    refusal = allow(caller, "stripe", "GET", ("y",))
    assert refusal is not None
    assert refusal.code == "agent_suspended"


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        ((), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o",), "", True),
    ],
)
def test_models(models: tuple[str, ...], model: str, allowed: bool) -> None:
    assert (allow_model(Caller(replace(KEY, models=models), BOT, ""), model) is None) is allowed


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ((), ""),
        ((replace(KEY, seq=2, state="revoked"),), "key_revoked"),
        ((replace(KEY, seq=2, state="suspended"),), "key_suspended"),
        ((replace(KEY, seq=2, tokens=(), dead_tokens=(HEX,)),), "key_revoked"),
        ((replace(KEY, seq=2, tokens=("00" * 32,)),), "key_revoked"),
        ((replace(KEY, seq=2, endpoints=("/other",)),), "endpoint_not_allowed"),
        ((replace(KEY, seq=2, models=("other",)),), "model_not_allowed"),
        ((replace(KEY, seq=2, label="renamed"),), ""),
        ((replace(BOT, seq=2, state="suspended"),), "agent_suspended"),
        ((replace(BOT, seq=2, owner="sales"),), ""),
    ],
)
def test_what_was_allowed_is_asked_again(records: tuple[KeyPolicy | AgentPolicy, ...], expected: str) -> None:
    snapshot = snapshot_with(KEY, BOT)
    caller = Callers().get(KEY, BOT, "")
    snapshot.put(records)
    again, refusal = still_allowed(snapshot, caller, DIGEST, 0, ("stripe", "GET", ("v1",), "gpt-4o"))
    assert (refusal.code if refusal else "") == expected
    assert again.key is snapshot.keys["vk_1"] or refusal is not None


def test_a_suspended_agent_is_refused_also_where_no_record_has_changed() -> None:
    bot = replace(BOT, state="suspended")
    snapshot = snapshot_with(KEY, bot)
    caller = Callers().get(snapshot.keys["vk_1"], snapshot.agents["bot"], "")
    again, refusal = still_allowed(snapshot, caller, DIGEST, 0, ("stripe", "GET", ("v1",), "gpt-4o"))
    assert (again, code(refusal)) == (caller, "agent_suspended")


def test_callers_are_derived_anew_when_a_record_changes() -> None:
    callers = Callers()
    first = callers.get(KEY, BOT, "")
    assert callers.get(KEY, BOT, "") is first
    assert callers.get(replace(KEY, seq=2), BOT, "") is not first
