"""Snapshots for nodes that start: whole, of one moment, packed once, gone when they are of no more use."""

import asyncio

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, START_WALL_NS, RigClock

from controlplane import snapshots
from controlplane.snapshots import IDLE_NS, MAX_IMAGES, SHARED_NS, Image, Snapshots
from events.state.control import ControlState
from events.state.replica import Replica
from events.types import AgentRegistered, BudgetSet, ControlEvent, KeyIssued, KeyRevoked
from schemas.accounts import AccountCaps, Cap
from schemas.packed import encode_record, pack, unpack
from schemas.policy import BudgetPolicy, ClusterPolicy, KeyPolicy, Record, record_id

HOUR_NS = 3_600 * 10**9


def key(key_id: str, *, cap: int = 5) -> KeyIssued:
    caps = AccountCaps("key", key_id, (Cap("usd", "day", cap),))
    return KeyIssued(key_id, BY, f"sha-{key_id}", "bot", START_WALL_NS, START_WALL_NS + HOUR_NS, caps=caps)


def fold(replica: Replica, *events: ControlEvent) -> None:
    for event in events:
        replica.control_seq += 1
        replica.state.apply(replica.control_seq, event)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 1_000)


def load(shelf: Snapshots, begin: str = "") -> tuple[int, list[Record]]:
    found: list[Record] = []
    cursor = begin
    while True:
        chunk = shelf.chunk(cursor, floor=0)
        found += unpack(chunk.packed)
        cursor = chunk.next_cursor
        if not cursor:
            return chunk.as_of_seq, found


@pytest.mark.usefixtures("small_chunks")
def test_a_load_meets_every_record_of_its_moment_once_whatever_happens_meanwhile() -> None:
    async def main() -> None:
        replica = Replica()
        fold(replica, AgentRegistered("bot", BY), *(key(f"vk_{n:03}") for n in range(50)))
        shelf = Snapshots(replica, RigClock())
        first = shelf.chunk("", floor=0)
        # Changed, revoked and new after the image was taken: that comes with the catch-up from its position.
        fold(replica, BudgetSet(AccountCaps("key", "vk_049"), BY), KeyRevoked("vk_048", BY), key("vk_999"))
        position, rest = load(shelf, first.next_cursor)
        found = [*unpack(first.packed), *rest]
        keys = [record for record in found if isinstance(record, KeyPolicy)]
        assert position == first.as_of_seq == 51
        assert len({record_id(record) for record in found}) == len(found) == 50 + 50 + 1 + 1
        assert sorted(record.id for record in keys) == [f"vk_{n:03}" for n in range(50)]
        assert {record.state for record in keys} == {"active"}
        assert all(record.seq <= position for record in found)
        capped = {record.account.id: record for record in found if isinstance(record, BudgetPolicy)}
        assert (capped["vk_049"].seq, len(capped["vk_049"].account.caps)) == (51, 1)

    run_virtual(main())


@pytest.mark.usefixtures("small_chunks")
def test_nodes_that_start_together_share_an_image_and_later_ones_get_a_new_one() -> None:
    async def main() -> None:
        replica = Replica()
        fold(replica, *(key(f"vk_{n:03}") for n in range(50)))
        shelf = Snapshots(replica, RigClock())
        first = shelf.chunk("", floor=0)
        fold(replica, key("vk_999"))
        assert shelf.chunk("", floor=0).packed is first.packed
        await asyncio.sleep(2 * SHARED_NS / 1e9)
        newer = shelf.chunk("", floor=0)
        assert newer.as_of_seq == first.as_of_seq + 1
        assert load(shelf, first.next_cursor)[0] == first.as_of_seq  # who has begun with the old one can finish

    run_virtual(main())


@pytest.mark.usefixtures("small_chunks")
def test_an_image_of_no_more_use_is_refused_and_the_node_begins_anew() -> None:
    async def main() -> None:
        replica = Replica()
        fold(replica, *(key(f"vk_{n:03}") for n in range(50)))
        shelf = Snapshots(replica, RigClock())
        begun = shelf.chunk("", floor=0).next_cursor
        with pytest.raises(ValueError, match="from its beginning"):
            shelf.chunk(begun, floor=replica.control_seq + 1)  # what came after it is no longer remembered
        for cursor in ("", "7", "7.1", "7.x", "x.1", "-1.0", "50.-1"):
            if cursor:
                with pytest.raises(ValueError, match=r"from its beginning|no chunk"):
                    shelf.chunk(cursor, floor=0)
        begun = shelf.chunk("", floor=0).next_cursor
        position, _, index = begun.partition(".")
        with pytest.raises(ValueError, match="no chunk"):
            shelf.chunk(f"{position}.{int(index) + 2}", floor=0)  # chunks are asked for in order
        await asyncio.sleep(2 * IDLE_NS / 1e9)
        with pytest.raises(ValueError, match="from its beginning"):
            shelf.chunk(begun, floor=0)

    run_virtual(main())


def test_no_more_than_a_few_images_are_kept() -> None:
    async def main() -> None:
        replica = Replica()
        shelf = Snapshots(replica, RigClock())
        for number in range(3 * MAX_IMAGES):
            fold(replica, key(f"vk_{number}"))
            shelf.chunk("", floor=0)
            await asyncio.sleep(1.5 * SHARED_NS / 1e9)
        assert len(shelf._images) == MAX_IMAGES

    run_virtual(main())


def test_tombstones_are_sent_until_long_after_expiry() -> None:
    state = ControlState()
    events: tuple[ControlEvent, ...] = (key("vk_1"), KeyRevoked("vk_1", BY))
    for seq, event in enumerate(events, start=1):
        state.apply(seq, event)
    for hours, kinds in ((0, {"KeyPolicy", "BudgetPolicy"}), (1.9, {"KeyPolicy", "BudgetPolicy"}), (2.1, set())):
        packed, last = Image(state, 2, START_WALL_NS + int(hours * HOUR_NS)).chunk(0)
        assert last
        assert {type(record).__name__ for record in unpack(packed)} - {"ClusterPolicy"} == kinds, hours


def test_packed_records_come_back_as_they_were_and_nothing_else_does() -> None:
    records: tuple[Record, ...] = (ClusterPolicy(3, 2), KeyPolicy("vk_1", 4, tokens=("ab",)))
    packed = pack(map(encode_record, records))
    assert unpack(packed) == records
    assert unpack(pack(())) == ()
    for broken in (b"", packed[:-3], b"[]", pack([b"{}"]), pack([b"nonsense"])):
        with pytest.raises(ValueError, match=r"."):
            unpack(broken)
