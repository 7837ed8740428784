"""The fold of the control log: lifecycles as tables, revoked is terminal, images are exact."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.state import keys as keys_module
from events.state.control import ControlImage, ControlState
from events.state.keys import NEXT_STATE, shown_state
from events.state.nodes import ENDED_KEPT, live_nodes
from events.state.tightening import tightens
from events.types import (
    AgentRegistered,
    AgentRemoved,
    AgentResumed,
    AgentSuspended,
    AgentUpdated,
    BudgetSet,
    By,
    ControlEvent,
    KeyChanged,
    KeyIssued,
    KeyResumed,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
    LeaderStarted,
    LeaseGranted,
    Marked,
    NodeFenced,
    NodeJoined,
    OperatorTokenIssued,
    OperatorTokenRevoked,
    RequestReconciled,
)
from schemas.accounts import AccountCaps, Cap
from schemas.amounts import Amounts

BY = By("op_1", "ada")
HOUR = 3_600_000_000_000


def issued(key_id: str = "vk_1", at_ns: int = 0, **more: Any) -> KeyIssued:
    fields: dict[str, Any] = {"token_sha256": f"sha-{key_id}", "agent": "bot", "expires_at_ns": at_ns + HOUR, **more}
    return KeyIssued(id=key_id, by=BY, at_ns=at_ns, **fields)


def changed(key_id: str = "vk_1", **more: Any) -> KeyChanged:
    return KeyChanged(id=key_id, by=BY, **{"expires_at_ns": HOUR, **more})


def folded(*events: ControlEvent) -> ControlState:
    state = ControlState()
    for seq, event in enumerate(events, 1):
        state.apply(seq, event)
    return state


def dump(state: ControlState) -> bytes:
    return msgspec.json.encode(state.image())


KEY_EVENTS: dict[str, ControlEvent] = {
    "suspend": KeySuspended("vk_1", BY),
    "resume": KeyResumed("vk_1", BY),
    "revoke": KeyRevoked("vk_1", BY),
    "change": changed(label="new"),
    "issue": issued(),
    "token": KeyTokenRevoked("vk_1", "sha-vk_1", BY),
    "caps": BudgetSet(AccountCaps("key", "vk_1", (Cap("usd", "day", 5),)), BY),
}

KEY_TABLE: list[tuple[tuple[str, ...], str, str, bool]] = [
    # before, event, after, changed
    ((), "suspend", "suspended", True),
    ((), "resume", "active", False),
    ((), "revoke", "revoked", True),
    ((), "change", "active", True),
    ((), "issue", "active", False),
    ((), "token", "active", True),
    ((), "caps", "active", True),
    (("suspend",), "suspend", "suspended", False),
    (("suspend",), "resume", "active", True),
    (("suspend",), "revoke", "revoked", True),
    (("suspend",), "change", "suspended", True),
    (("suspend",), "issue", "suspended", False),
    (("revoke",), "suspend", "revoked", False),
    (("revoke",), "resume", "revoked", False),
    (("revoke",), "revoke", "revoked", False),
    (("revoke",), "change", "revoked", False),
    (("revoke",), "issue", "revoked", False),
    (("revoke",), "token", "revoked", False),
    (("revoke",), "caps", "revoked", False),
    (("suspend", "revoke"), "resume", "revoked", False),
]


@pytest.mark.parametrize(("before", "event", "after", "moves"), KEY_TABLE)
def test_key_lifecycle(before: Any, event: Any, after: Any, moves: Any) -> None:
    state = folded(issued(), *(KEY_EVENTS[name] for name in before))
    seq = state.seq
    state.apply(seq + 5, KEY_EVENTS[event])
    key = state.keys["vk_1"]
    assert key.state == after
    assert (key.changed_seq == seq + 5) is moves


def test_the_lifecycle_table_never_leaves_revoked() -> None:
    assert all(before != "revoked" for before, _ in NEXT_STATE)


def test_issue_that_lands_after_an_unseen_revocation_revives_nothing() -> None:
    state = folded(KeyRevoked("vk_1", BY), issued())
    assert state.keys["vk_1"].state == "revoked"
    assert state.tokens == {"sha-vk_1": "vk_1"}


def test_a_second_issue_of_another_id_cannot_take_over_a_token() -> None:
    state = folded(issued("vk_1"), issued("vk_2", token_sha256="sha-vk_1"))
    assert list(state.keys) == ["vk_1"]
    assert state.tokens == {"sha-vk_1": "vk_1"}


def test_dead_token_still_leads_to_its_key() -> None:
    state = folded(issued(), KeyTokenRevoked("vk_1", "sha-vk_1", BY))
    key = state.keys["vk_1"]
    assert (key.tokens, key.dead_tokens) == ((), ("sha-vk_1",))
    assert state.tokens["sha-vk_1"] == "vk_1"


def test_own_caps_come_with_the_issue_and_change_by_budget() -> None:
    caps = AccountCaps("key", "vk_1", (Cap("usd", "day", 7),))
    state = folded(issued(caps=caps))
    assert state.caps_of("key", "vk_1") == caps
    state.apply(9, BudgetSet(AccountCaps("key", "vk_1"), BY))
    assert state.caps_of("key", "vk_1") is None
    assert state.budget_seqs["key:vk_1"] == 9
    assert state.keys["vk_1"].changed_seq == 9


def test_late_budget_of_a_revoked_or_unknown_key_changes_nothing() -> None:
    caps = BudgetSet(AccountCaps("key", "vk_1", (Cap("usd", "day", 7),)), BY)
    assert not folded(caps).budgets
    assert not folded(issued(), KeyRevoked("vk_1", BY), caps).budgets


@pytest.mark.parametrize(
    ("key_events", "now_ns", "spent", "shown"),
    [
        ((), 1, False, "active"),
        ((), 1, True, "spent"),
        ((), HOUR, False, "expired"),
        ((), HOUR, True, "expired"),
        (("suspend",), 1, True, "suspended"),
        (("suspend",), HOUR, False, "expired"),
        (("revoke",), HOUR, True, "revoked"),
    ],
)
def test_shown_state(key_events: Any, now_ns: Any, spent: Any, shown: Any) -> None:
    state = folded(issued(), *(KEY_EVENTS[name] for name in key_events))
    assert shown_state(state.keys["vk_1"], now_ns, spent=spent) == shown


class TestDropping:
    """Ended keys go when a later KeyIssued tells the time, and only then."""

    def test_tombstone_outlives_the_expiry_by_the_kept_time(self) -> None:
        state = folded(issued("vk_1"), KeyRevoked("vk_1", BY))
        just_before = HOUR + keys_module.ENDED_KEPT_NS - 1
        state.apply(10, issued("vk_2", at_ns=just_before))
        assert "vk_1" in state.keys
        state.apply(11, issued("vk_3", at_ns=just_before + 2))
        assert "vk_1" not in state.keys
        assert "sha-vk_1" not in state.tokens

    def test_an_extended_key_stays(self) -> None:
        late = HOUR + keys_module.ENDED_KEPT_NS + 1
        state = folded(issued("vk_1"), changed(expires_at_ns=late + HOUR), issued("vk_2", at_ns=late))
        assert "vk_1" in state.keys

    def test_its_caps_and_its_own_agent_go_with_it(self) -> None:
        caps = AccountCaps("key", "vk_1", (Cap("usd", "day", 7),))
        registered = AgentRegistered("vk_1", BY, made_for="vk_1")
        late = HOUR + keys_module.ENDED_KEPT_NS + 1
        state = folded(registered, issued("vk_1", agent="vk_1", caps=caps), issued("vk_2", at_ns=late))
        assert not state.budgets
        assert not state.budget_seqs
        assert not state.agents

    @pytest.mark.parametrize(
        "adopted_by",
        [
            AgentUpdated("vk_1", BY, owner="finance"),
            BudgetSet(AccountCaps("agent", "vk_1", (Cap("usd", "day", 1),)), BY),
            issued("vk_5", agent="vk_1", expires_at_ns=2**62),
        ],
    )
    def test_an_agent_that_something_depends_on_stays(self, adopted_by: Any) -> None:
        late = HOUR + keys_module.ENDED_KEPT_NS + 1
        registered = AgentRegistered("vk_1", BY, made_for="vk_1")
        state = folded(registered, issued("vk_1", agent="vk_1"), adopted_by, issued("vk_2", at_ns=late))
        assert "vk_1" not in state.keys
        assert "vk_1" in state.agents

    def test_above_the_bound_expired_keys_go_at_once_and_live_ones_never(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(keys_module, "KEPT_KEYS", 3)
        state = folded(*(issued(f"vk_{i}", at_ns=i) for i in range(3)))
        state.apply(10, issued("vk_live", at_ns=10))
        assert len(state.keys) == 4
        state.apply(11, issued("vk_late", at_ns=HOUR + 1))
        assert list(state.keys) == ["vk_2", "vk_live", "vk_late"]


AGENT_EVENTS: dict[str, ControlEvent] = {
    "register": AgentRegistered("bot", BY, owner="new"),
    "update": AgentUpdated("bot", BY, owner="up"),
    "suspend": AgentSuspended("bot", BY),
    "resume": AgentResumed("bot", BY),
    "remove": AgentRemoved("bot", BY),
}


@pytest.mark.parametrize(
    ("before", "event", "state_after", "removed", "owner"),
    [
        ((), "register", "active", False, "new"),
        (("register",), "register", "active", False, "new"),
        (("register",), "update", "active", False, "up"),
        (("register",), "suspend", "suspended", False, "new"),
        (("register",), "resume", "active", False, "new"),
        (("register",), "remove", "suspended", True, "new"),
        (("register", "suspend"), "register", "suspended", False, "new"),
        (("register", "suspend"), "update", "suspended", False, "up"),
        (("register", "suspend"), "resume", "active", False, "new"),
        (("register", "suspend"), "remove", "suspended", True, "new"),
        (("register", "remove"), "update", "suspended", True, "new"),
        (("register", "remove"), "resume", "suspended", True, "new"),
        (("register", "remove"), "register", "active", False, "new"),
    ],
)
def test_agent_lifecycle(before: Any, event: Any, state_after: Any, removed: Any, owner: Any) -> None:
    agent = folded(*(AGENT_EVENTS[name] for name in (*before, event))).agents["bot"]
    assert (agent.state, agent.removed, agent.owner) == (state_after, removed, owner)


@pytest.mark.parametrize("event", ["update", "suspend", "resume", "remove"])
def test_events_of_an_unknown_agent_make_none(event: Any) -> None:
    assert not folded(AGENT_EVENTS[event]).agents


def test_operator_token_revoked_for_good() -> None:
    token = OperatorTokenIssued("op_1", "ada", "admin", "sha", BY, at_ns=0, expires_at_ns=HOUR)
    state = folded(token)
    assert state.operators["op_1"].live(HOUR - 1)
    assert not state.operators["op_1"].live(HOUR)
    state.apply(2, OperatorTokenRevoked("op_1", BY))
    state.apply(3, token)
    assert not state.operators["op_1"].live(0)
    assert state.operator_tokens == {"sha": "op_1"}


def test_nodes_remember_who_joined_and_who_is_fenced() -> None:
    joined = [NodeJoined("n1", f"n1-{i}", fence_seq=i, at_ns=i) for i in range(3)]
    state = folded(*joined, NodeFenced("n1", "n1-0", "silent", 7), NodeFenced("n1", "n1-0", "again", 8))
    assert [node.incarnation for node in live_nodes(state.nodes)] == ["n1-1", "n1-2"]
    assert state.nodes["n1-0"].fence_reason == "silent"


def test_a_slot_that_crashes_for_ever_does_not_grow_the_table() -> None:
    state = ControlState()
    for i in range(3 * ENDED_KEPT):
        state.apply(2 * i + 1, NodeJoined("n1", f"n1-{i}", fence_seq=1, at_ns=i))
        state.apply(2 * i + 2, NodeFenced("n1", f"n1-{i}", "silent", 1))
    assert len(state.nodes) <= ENDED_KEPT + 1
    assert f"n1-{3 * ENDED_KEPT - 1}" in state.nodes


def test_a_log_that_goes_back_is_corrupt() -> None:
    state = folded(Marked(), Marked())
    with pytest.raises(ValueError, match="went back"):
        state.apply(1, Marked())


def test_events_without_a_record_only_move_the_position() -> None:
    state = folded(LeaderStarted(7), LeaseGranted("n1-0", {"l": 1}), RequestReconciled("req_1", Amounts(), BY))
    assert (state.seq, state.epoch) == (3, 7)
    assert not any((state.keys, state.agents, state.budgets, state.operators, state.nodes))


class TestTightening:
    CAPS = AccountCaps("team", "fin", (Cap("usd", "day", 10), Cap("usd", "month", 100)))

    @pytest.mark.parametrize(
        ("caps", "zone", "expected"),
        [
            ((Cap("usd", "day", 10), Cap("usd", "month", 100)), "UTC", False),
            ((Cap("usd", "day", 11), Cap("usd", "month", 100)), "UTC", False),
            ((Cap("usd", "day", 10),), "UTC", False),
            ((), "Europe/Berlin", False),
            ((Cap("usd", "day", 9), Cap("usd", "month", 100)), "UTC", True),
            ((Cap("usd", "day", 99), Cap("usd", "hour", 50)), "UTC", True),
            ((Cap("usd", "day", 10), Cap("usd", "month", 100)), "Europe/Berlin", True),
        ],
    )
    def test_caps(self, caps: Any, zone: Any, expected: Any) -> None:
        state = folded(BudgetSet(self.CAPS, BY))
        assert tightens(state, BudgetSet(AccountCaps("team", "fin", caps, zone), BY)) is expected

    def test_a_first_cap(self) -> None:
        assert tightens(ControlState(), BudgetSet(self.CAPS, BY))

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ({}, {}, False),
            ({}, {"label": "x", "metadata": {"a": "b"}, "on_exhausted": "suspend"}, False),
            ({}, {"expires_at_ns": HOUR - 1}, True),
            ({}, {"expires_at_ns": HOUR + 1}, False),
            ({}, {"endpoints": ("/a",)}, True),
            ({"endpoints": ("/a", "/b")}, {"endpoints": ("/a",)}, True),
            ({"endpoints": ("/a",)}, {"endpoints": ("/a", "/b")}, False),
            ({"endpoints": ("/a",)}, {}, False),
            ({"models": ("m",)}, {"models": ("n",)}, True),
            ({"upstreams": ("stripe",)}, {"upstreams": ("openai",)}, True),
            ({}, {"rpm": 5}, True),
            ({"rpm": 5}, {"rpm": 6}, False),
            ({"rpm": 5}, {"rpm": 4}, True),
            ({"rpm": 5}, {}, False),
            ({"tpm": 5}, {"tpm": 4}, True),
        ],
    )
    def test_key(self, before: Any, after: Any, expected: Any) -> None:
        assert tightens(folded(issued(**before)), changed(**after)) is expected

    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            (AgentUpdated("bot", BY, owner="fin", rpm=5), False),
            (AgentUpdated("bot", BY, owner="ops", rpm=5), True),
            (AgentUpdated("bot", BY, owner="fin", rpm=4), True),
            (AgentUpdated("bot", BY, owner="fin"), False),
            (AgentSuspended("bot", BY), True),
            (AgentRemoved("bot", BY), True),
            (AgentResumed("bot", BY), False),
            (KeyRevoked("vk_1", BY), True),
            (KeySuspended("vk_1", BY), True),
            (KeyTokenRevoked("vk_1", "sha-vk_1", BY), True),
            (KeyResumed("vk_1", BY), False),
            (issued("vk_2"), False),
            (Marked(), False),
        ],
    )
    def test_others(self, event: Any, expected: Any) -> None:
        state = folded(AgentRegistered("bot", BY, owner="fin", rpm=5), issued())
        assert tightens(state, event) is expected


def any_event() -> st.SearchStrategy[ControlEvent]:
    ids = st.sampled_from(["vk_1", "vk_2", "vk_3"])
    names = st.sampled_from(["bot", "vk_1"])
    times = st.integers(0, 40).map(lambda hours: hours * 6 * HOUR)
    caps = st.sampled_from([(), (Cap("usd", "day", 5),), (Cap("requests", "hour", 2), Cap("usd", "total", 9))])
    accounts = st.builds(AccountCaps, st.just("key"), ids, caps) | st.builds(AccountCaps, st.just("agent"), names, caps)
    return st.one_of(
        st.builds(lambda i, t, a: issued(i, at_ns=t, agent=a), ids, times, names),
        st.builds(lambda i, t: changed(i, expires_at_ns=t), ids, times),
        st.builds(KeySuspended, ids, st.just(BY)),
        st.builds(KeyResumed, ids, st.just(BY)),
        st.builds(KeyRevoked, ids, st.just(BY)),
        st.builds(lambda i, t: KeyTokenRevoked(i, f"sha-{t}", BY), ids, ids),
        st.builds(BudgetSet, accounts, st.just(BY)),
        st.builds(lambda n, m: AgentRegistered(n, BY, made_for=m), names, st.sampled_from(["", "vk_1"])),
        st.builds(AgentUpdated, names, st.just(BY), st.sampled_from(["", "fin"])),
        st.builds(AgentSuspended, names, st.just(BY)),
        st.builds(AgentRemoved, names, st.just(BY)),
        st.builds(NodeJoined, st.just("n1"), st.sampled_from(["n1-a", "n1-b"]), st.just(1), times),
        st.builds(NodeFenced, st.just("n1"), st.sampled_from(["n1-a", "n1-b"]), st.just("r"), st.just(1)),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(any_event(), max_size=40), st.data())
def test_restored_state_goes_on_byte_for_byte(events: Any, data: Any) -> None:
    """A checkpoint taken anywhere, and the events after it, give the same bytes as the whole log."""
    cut = data.draw(st.integers(0, len(events)))
    whole = folded(*events)
    first = folded(*events[:cut])
    restored = ControlState.from_image(msgspec.json.decode(dump(first), type=ControlImage))
    for seq, event in enumerate(events[cut:], cut + 1):
        restored.apply(seq, event)
    assert dump(restored) == dump(whole)
    assert restored.tokens == whole.tokens


@settings(max_examples=150, deadline=None)
@given(st.lists(any_event(), max_size=40))
def test_revoked_stays_revoked(events: Any) -> None:
    """After its KeyRevoked a key is never seen in any other state again, and its tokens lead nowhere else."""
    state = ControlState()
    revoked: set[str] = set()
    for seq, event in enumerate(events, 1):
        state.apply(seq, event)
        if isinstance(event, KeyRevoked):
            revoked.add(event.id)
        dropped = revoked - set(state.keys) - set(state._keys.revoked_early)
        revoked -= dropped
        assert all(state.keys[key].state == "revoked" for key in revoked & set(state.keys))
        assert set(itertools.chain.from_iterable((*k.tokens, *k.dead_tokens) for k in state.keys.values())) == set(
            state.tokens
        )
