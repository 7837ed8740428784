import hashlib

import pytest

from dataplane.core.snapshot import EXPIRED_KEPT_NS, Snapshot
from schemas.accounts import AccountCaps, Cap
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, FeedDelta, KeyPolicy, Record

DAY_CAP = Cap("usd", "day", 100)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def raw(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def key(seq: int, *tokens: str, state: str = "active", dead: tuple[str, ...] = (), expires: int = 0) -> KeyPolicy:
    return KeyPolicy(
        "vk_1",
        seq,
        state=state,  # type: ignore[arg-type]  # a literal in each test
        tokens=tuple(map(digest, tokens)),
        dead_tokens=tuple(map(digest, dead)),
        expires_at_ns=expires,
    )


def budget(seq: int, *caps: Cap, zone: str = "UTC") -> BudgetPolicy:
    return BudgetPolicy(seq, AccountCaps("agent", "bot", caps, zone))


def delta(after: int, through: int, *records: Record) -> FeedDelta:
    return FeedDelta(epoch=1, from_seq=after, to_seq=through, now_ns=0, records=records)


def test_a_lower_sequence_never_replaces_a_higher() -> None:
    snapshot = Snapshot()
    snapshot.put([key(5, "new"), AgentPolicy("bot", 5, state="suspended"), budget(5, DAY_CAP), ClusterPolicy(5, 3)])
    changes = snapshot.put([key(4, "old"), AgentPolicy("bot", 4), budget(4), ClusterPolicy(4, 9)])
    assert not changes
    assert snapshot.key_of(raw("new")) is snapshot.keys["vk_1"]
    assert snapshot.key_of(raw("old")) is None
    assert snapshot.agents["bot"].state == "suspended"
    assert snapshot.caps_of("agent:bot") is not None
    assert snapshot.live_nodes == 3


def test_a_delta_over_a_gap_is_not_taken() -> None:
    snapshot = Snapshot()
    snapshot.apply(delta(0, 299))
    with pytest.raises(ValueError, match="gap"):
        snapshot.apply(delta(313, 314, key(314, "t", state="revoked")))
    assert snapshot.position == 299
    snapshot.apply(delta(299, 313, key(300, "t")))
    snapshot.apply(delta(313, 314, key(314, "t", state="revoked")))
    assert snapshot.position == 314


def test_an_overlapping_or_repeated_delta_changes_nothing_and_never_moves_back() -> None:
    snapshot = Snapshot()
    snapshot.apply(delta(0, 20, key(20, "t")))
    held = snapshot.keys["vk_1"]
    assert not snapshot.apply(delta(5, 10, key(10, "t")))
    assert not snapshot.apply(delta(0, 20, key(20, "t")))
    assert snapshot.keys["vk_1"] is held
    assert snapshot.position == 20


def test_revoked_is_final_whatever_comes() -> None:
    snapshot = Snapshot()
    snapshot.put([key(7, "t", state="revoked")])
    assert not snapshot.put([key(8, "t")])
    assert snapshot.keys["vk_1"].state == "revoked"


def test_tokens_follow_their_key() -> None:
    snapshot = Snapshot()
    snapshot.put([key(1, "a", "b")])
    snapshot.put([key(2, "b", "c", dead=("a",))])
    assert {t: snapshot.key_of(raw(t)) is not None for t in "abc"} == {"a": True, "b": True, "c": True}
    snapshot.put([key(3, "c")])
    assert {t: snapshot.key_of(raw(t)) is not None for t in "abc"} == {"a": False, "b": False, "c": True}


@pytest.mark.parametrize(
    ("before", "after", "tightens"),
    [
        (None, (DAY_CAP,), True),
        (None, (), False),
        ((DAY_CAP,), (Cap("usd", "day", 99),), True),
        ((DAY_CAP,), (Cap("usd", "day", 101),), False),
        ((DAY_CAP,), (DAY_CAP, Cap("usd", "hour", 1000)), True),
        ((DAY_CAP,), (DAY_CAP,), False),
        ((DAY_CAP,), (), False),
    ],
)
def test_which_caps_tighten(before: tuple[Cap, ...] | None, after: tuple[Cap, ...], tightens: bool) -> None:
    snapshot = Snapshot()
    if before is not None:
        snapshot.put([budget(1, *before)])
    assert snapshot.put([budget(2, *after)]).tightened == (frozenset({"agent:bot"}) if tightens else frozenset())


def test_another_zone_turns_the_windows_elsewhere() -> None:
    snapshot = Snapshot()
    snapshot.put([budget(1, DAY_CAP)])
    assert snapshot.put([budget(2, DAY_CAP, zone="Europe/Berlin")]).tightened


def test_keys_are_forgotten_a_day_after_their_expiry() -> None:
    snapshot = Snapshot()
    snapshot.put([key(1, "t", expires=1000), KeyPolicy("vk_2", 2, expires_at_ns=0)])
    for _ in range(4):
        snapshot.sweep(1000 + EXPIRED_KEPT_NS)
    assert snapshot.key_of(raw("t")) is not None
    for _ in range(4):
        snapshot.sweep(1001 + EXPIRED_KEPT_NS)
    assert snapshot.key_of(raw("t")) is None
    assert set(snapshot.keys) == {"vk_2"}
