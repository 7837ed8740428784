"""Snapshots for nodes that start: all records as of one moment, packed once and handed to whoever asks.

The idea
    Records of the state are frozen, so a list of them is an image of this moment that costs a millisecond to take and
    does not change while the state goes on. It is packed chunk by chunk as somebody asks for it (a few milliseconds
    each, so asks and barriers do not wait behind a node's start), and each chunk is packed once: twenty nodes that
    start together cost little more than one.

    An image may be some seconds old. The node then asks for what changed since (`Feed.catchup`), as it does after
    every load; so an image lives only while those changes are still remembered.

Tombstones of revoked keys are among the records until long after the key's expiry: a node that loads the image must not
take a late record of before the revocation for something new (rule B4, docs/PROTOCOL.md).
"""

from collections import OrderedDict

from controlplane.projector import agent_policy, cluster_policy, key_policy
from events.clock import Clock
from events.state.control import ControlState
from events.state.keys import Key
from events.state.registry import Agent
from events.state.replica import Replica
from schemas.accounts import AccountCaps, account_key
from schemas.packed import encode_record, pack
from schemas.policy import BudgetPolicy, ClusterPolicy, Record
from schemas.rpc import SnapshotChunk

EXPIRED_SENT_NS = 3_600 * 1_000_000_000
"""A node that starts is told of keys that expired within the last hour, so that it can say `key_expired`."""

CHUNK_BYTES = 256 << 10
"""Of one chunk before it is packed, about: 6 ms of work here and as much at the node."""

SHARED_NS = 10 * 1_000_000_000
"""Nodes that start within this time share an image."""

IDLE_NS = 60 * 1_000_000_000
"""An image that nobody has asked for this long is dropped: packed, it is 100 bytes a key."""

MAX_IMAGES = 3
"""At once. A node that is still loading a fourth one starts over."""


class Image:
    """All records at `position`. `now_ns` decides which keys expired too long ago to be sent."""

    def __init__(self, state: ControlState, position: int, now_ns: int) -> None:
        self.position = position
        self._stale_ns = now_ns - EXPIRED_SENT_NS
        self._live_keys = state.keys
        self._keys: list[Key] = list(state.keys.values())
        self._agents: list[Agent] = list(state.agents.values())
        self._accounts: list[AccountCaps] = list(state.budgets.values())
        self._account_seqs = state.budget_seqs.copy()
        self._cluster: ClusterPolicy = cluster_policy(state)
        self._count = len(self._keys) + len(self._agents) + len(self._accounts) + 1
        self._begins = [0]
        self._packed: list[bytes] = []

    def chunk(self, index: int) -> tuple[bytes, bool]:
        """Chunk `index`, packed, and whether it is the last. Raises ValueError for one that is not there (yet)."""
        if not 0 <= index <= len(self._packed) or self._begins[index] >= self._count:
            raise ValueError(f"the snapshot has no chunk {index}")
        if index == len(self._packed):
            self._pack_next()
        return self._packed[index], self._begins[index + 1] >= self._count

    def _pack_next(self) -> None:
        place, size = self._begins[-1], 0
        parts: list[bytes] = []
        while place < self._count and size < CHUNK_BYTES:
            record = self._record(place)
            place += 1
            if record is not None:
                part = encode_record(record)
                parts.append(part)
                size += len(part)
        self._packed.append(pack(parts))
        self._begins.append(place)
        if place >= self._count:  # the bytes are all that is asked for from now on
            self._keys, self._agents, self._accounts, self._account_seqs = [], [], [], {}

    def _record(self, place: int) -> Record | None:
        """The record at a place; None for one that is not sent."""
        if place < len(self._keys):
            key = self._keys[place]
            return None if key.expires_at_ns < self._stale_ns else key_policy(key)
        place -= len(self._keys)
        if place < len(self._agents):
            return agent_policy(self._agents[place])
        place -= len(self._agents)
        if place < len(self._accounts):
            account = self._accounts[place]
            seq = self._account_seqs[account_key(account.kind, account.id)]
            return None if self._is_stale(account) else BudgetPolicy(seq, account)
        return self._cluster

    def _is_stale(self, account: AccountCaps) -> bool:
        """Whether it is of a key that is not sent. The key as it is now: one that is sent in vain does no harm."""
        key = self._live_keys.get(account.id) if account.kind == "key" else None
        return key is not None and key.expires_at_ns < self._stale_ns


class Snapshots:
    """One leader's images. `cursor` is `<position>.<chunk>`; empty begins."""

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._images: OrderedDict[int, Image] = OrderedDict()
        """By position, the most recently asked last."""
        self._asked_ns: dict[int, int] = {}
        self._newest = -1
        self._newest_ns = 0

    def chunk(self, cursor: str, floor: int) -> SnapshotChunk:
        """The chunk at `cursor`. Changes after `floor` are still remembered; an older image is of no use.

        Raises ValueError for a cursor of an image that is gone, or of another leader's: load anew.
        """
        self._drop_idle(floor)
        image, index = self._begin() if not cursor else self._find(cursor)
        self._asked_ns[image.position] = self._clock.elapsed_ns()
        self._images.move_to_end(image.position)
        packed, last = image.chunk(index)
        next_cursor = "" if last else f"{image.position}.{index + 1}"
        return SnapshotChunk(image.position, self._clock.wall_ns(), packed, next_cursor)

    def _begin(self) -> tuple[Image, int]:
        now_ns = self._clock.elapsed_ns()
        image = self._images.get(self._newest)
        position = self._replica.control_seq
        if image is None or (now_ns - self._newest_ns > SHARED_NS and image.position != position):
            # Never a second image of one position: its chunks could begin elsewhere.
            image = Image(self._replica.state, position, self._clock.wall_ns())
            self._images[position] = image
            self._newest, self._newest_ns = position, now_ns
            while len(self._images) > MAX_IMAGES:
                self._drop(next(iter(self._images)))
        return image, 0

    def _find(self, cursor: str) -> tuple[Image, int]:
        position, _, index = cursor.partition(".")
        image = self._images.get(int(position)) if position.isdecimal() else None
        if image is None or not index.isdecimal():
            raise ValueError("the snapshot is no longer here; load it from its beginning")
        return image, int(index)

    def _drop_idle(self, floor: int) -> None:
        limit_ns = self._clock.elapsed_ns() - IDLE_NS
        for position in [p for p in self._images if p < floor or self._asked_ns.get(p, limit_ns) < limit_ns]:
            self._drop(position)

    def _drop(self, position: int) -> None:
        del self._images[position]
        self._asked_ns.pop(position, None)
