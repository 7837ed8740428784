"""The feed: what changed, to all nodes at once; heartbeats, catch-ups and snapshots for who missed something.

Deltas form a chain without gaps: each begins where the last one that held records ended. A node that misses one
notices at the next, a heartbeat at the latest, and asks. Answers come from a bounded memory of recent deltas, or send
the node to load a snapshot. Nothing here is certain to arrive, and nothing depends on it: the barrier looks at what
the nodes' logs say (rule B1, docs/PROTOCOL.md).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from controlplane.projector import changed_ids, records_of
from controlplane.snapshots import Snapshots
from events.clock import Clock
from events.messaging.port import Bus, BusTooLarge, BusUnavailable
from events.state.replica import Replica
from events.subjects import FEED
from events.types import ControlEvent
from schemas.policy import FeedDelta, Record, record_id
from schemas.rpc import SnapshotChunk

MAX_RECENT_RECORDS = 20_000
"""Kept for catch-ups: minutes of busy changes, some 20 MB; who missed more loads a snapshot."""

MAX_DELTA_BYTES = 4 << 20
"""Of one message; the bus carries 8 MiB. What is larger is a snapshot's business."""

MAX_UNSENT = 1_000
"""Deltas waiting for the bus; the oldest are dropped above it, which nodes notice as a gap."""


class Recent(NamedTuple):
    """One delta of the chain."""

    from_seq: int
    to_seq: int
    records: tuple[Record, ...]


class Feed:
    """One leader's feed. `begin` once the takeover is complete."""

    def __init__(self, replica: Replica, bus: Bus, clock: Clock, epoch: int, heartbeat_ms: int) -> None:
        self._replica = replica
        self._bus = bus
        self._clock = clock
        self._epoch = epoch
        self._heartbeat_s = heartbeat_ms / 1000
        self._snapshots = Snapshots(replica, clock)
        self._recent: deque[Recent] = deque()
        self._recent_records = 0
        self._floor = replica.control_seq
        self._last_seq = replica.control_seq
        self._unsent: deque[FeedDelta] = deque(maxlen=MAX_UNSENT)
        self._wake = asyncio.Event()
        self._log_full: bool | None = None
        self.told_seq = 0
        """Of the newest change that nodes were told of, for metrics; 0 before this leadership's first."""
        self.lost = 0
        """Messages that could not leave, for metrics."""

    def project(self, seq: int, events: Sequence[ControlEvent]) -> bool:
        """The leader has folded these events: tell the nodes. Returns whether there was anything to tell."""
        ids = changed_ids(events)
        if not ids:
            return False
        records = records_of(self._replica.state, ids)
        recent = Recent(self._last_seq, seq, records)
        self._last_seq = self.told_seq = seq
        self._remember(recent)
        self._send(self._delta(*recent))
        return True

    @property
    def log_full(self) -> bool | None:
        """What nodes are told: the logs are too full to admit anything (rule L6). None: not known yet."""
        return self._log_full

    @property
    def unsent(self) -> int:
        """Deltas that wait for the bus."""
        return len(self._unsent)

    def say_log_full(self, full: bool) -> None:  # noqa: FBT001 - the fact is the argument
        """Tell all nodes, now if it is news and with every delta from now on."""
        if full != self._log_full:
            self._log_full = full
            self._send(self._heartbeat())

    def push_from(self, seq: int) -> None:
        """Send again everything after `seq`, gapless: somebody has not applied it yet (rule B1)."""
        self._send(self.catchup(seq))

    def catchup(self, after_seq: int) -> FeedDelta:
        """Everything after `after_seq`, or the advice to load a snapshot."""
        now = self._replica.control_seq
        if after_seq < self._floor:
            return self._delta(after_seq, after_seq, (), resnapshot=True)
        missed: list[Recent] = []
        for delta in reversed(self._recent):
            if delta.to_seq <= after_seq:
                break
            missed.append(delta)
        newest: dict[str, Record] = {}
        for delta in reversed(missed):
            newest.update((record_id(record), record) for record in delta.records)
        return self._delta(after_seq, max(now, after_seq), tuple(newest.values()))

    def snapshot(self, cursor: str) -> SnapshotChunk:
        """One chunk of all records, as of a moment from which a catch-up goes on. Raises ValueError: load anew."""
        return self._snapshots.chunk(cursor, self._floor)

    async def run(self) -> None:
        """Send what there is, and a heartbeat whenever there was nothing for a while. Runs for ever."""
        while True:
            if not self._unsent:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_s):
                        await self._wake.wait()
            delta = self._unsent.popleft() if self._unsent else self._heartbeat()
            await self._publish(delta)

    async def leave(self) -> None:
        """Say goodbye: a standby may take over at once."""
        await self._publish(msgspec.structs.replace(self._heartbeat(), leaving=True))

    def _heartbeat(self) -> FeedDelta:
        return self._delta(self._last_seq, self._replica.control_seq, ())

    def _delta(self, from_seq: int, to_seq: int, records: tuple[Record, ...], *, resnapshot: bool = False) -> FeedDelta:
        now_ns = self._clock.wall_ns()
        return FeedDelta(self._epoch, from_seq, to_seq, now_ns, records, resnapshot, log_full=self._log_full)

    def _send(self, delta: FeedDelta) -> None:
        self._unsent.append(delta)
        self._wake.set()

    def _remember(self, recent: Recent) -> None:
        self._recent.append(recent)
        self._recent_records += len(recent.records)
        while self._recent_records > MAX_RECENT_RECORDS:
            oldest = self._recent.popleft()
            self._recent_records -= len(oldest.records)
            self._floor = oldest.to_seq

    async def _publish(self, delta: FeedDelta) -> None:
        payload = msgspec.json.encode(delta)
        if len(payload) > MAX_DELTA_BYTES:
            payload = msgspec.json.encode(self._delta(delta.from_seq, delta.from_seq, (), resnapshot=True))
        try:
            await self._bus.publish(FEED, payload)
        except (BusUnavailable, BusTooLarge):
            self.lost += 1  # nodes notice the gap
