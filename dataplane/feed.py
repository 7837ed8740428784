"""Follows the policy feed: loads a snapshot, applies deltas in order, repairs gaps, keeps the control plane's time.

| state | a delta that follows on | a delta beyond a gap | silence |
|---|---|---|---|
| loading | kept | kept | the load is repeated until it succeeds |
| current | applied | kept; catch-up asked | catch-up asked |
| catching up | applied | kept | the question is repeated |

A kept delta is applied as soon as it follows on, or dropped if too many are kept: the catch-up brings it anyway. The
position moves only over what has been applied, so "through S" never has holes (scenario 11, docs/PROTOCOL.md).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from dataplane.control import ControlPlane, Unanswered
from dataplane.core.controltime import ControlTime
from dataplane.core.snapshot import NO_CHANGES, Changes, Snapshot
from events import subjects
from events.clock import Clock
from events.messaging.port import Bus, Message, Subscription
from schemas.packed import unpack
from schemas.policy import FeedDelta, Record
from schemas.rpc import SnapshotChunk
from schemas.settings import Timing

_log = logging.getLogger(__name__)

KEPT_DELTAS: Final = 256
"""Deltas kept while something before them is missing; a catch-up takes a few milliseconds."""

ASK_TIMEOUT_S: Final = 1.0
CATCHUP_TIMEOUT_S: Final = 0.3
"""An answer takes milliseconds. A question to a leader that stands still must not outlast the takeover."""

PAUSE_S: Final = 0.05
"""Between two tries of an unanswered question: a takeover lasts seconds, and asking is cheap."""

PUT_AT_ONCE: Final = 250
"""Records of a snapshot taken in between two turns of the loop, half a millisecond: a node that loads anew goes on
serving."""

SILENT_BEATS: Final = 4
"""After so many missed heartbeats of the feed the node asks by itself: its subscription may be deaf."""

NEVER_NS: Final = 2**62


class Feed:
    """One node's feed. `on_applied(changes, through)` is called within the same step as the change itself;
    `changes` is None after a snapshot was loaded anew: anything may have changed.
    """

    def __init__(
        self,
        bus: Bus,
        control: ControlPlane,
        clock: Clock,
        timing: Timing,
        on_applied: Callable[[Changes | None, int], None],
    ) -> None:
        self._bus = bus
        self._control = control
        self._clock = clock
        self._on_applied = on_applied
        self._silence_s = timing.feed_heartbeat_ms * SILENT_BEATS / 1000
        self._decode = msgspec.json.Decoder(FeedDelta).decode
        self._time = ControlTime()
        self._epoch = 0
        self._heard_ns: int | None = None
        self._pushed_ns = 0
        self._kept: list[FeedDelta] = []
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self.snapshot = Snapshot()
        self.loaded = False
        self.unreadable = 0
        self.log_full = False
        """The leader's newest word: the logs are too full to admit anything (rule L6)."""
        self._silent = False

    @property
    def epoch(self) -> int:
        """Of the newest leader that was heard; 0 before."""
        return self._epoch

    def now_ns(self) -> int:
        """The control plane's time; 0 before anything was heard."""
        return self._time.now_ns(self._clock.elapsed_ns())

    def now_at(self, elapsed_ns: int) -> int:
        """The same at an instant of this machine's clock that was just read."""
        return self._time.now_ns(elapsed_ns)

    def age_ns(self) -> int:
        """How long nothing has been heard."""
        return NEVER_NS if self._heard_ns is None else self._clock.elapsed_ns() - self._heard_ns

    def deaf_ns(self) -> int:
        """How long nothing has come by itself, though questions are answered; 0 if nothing is heard at all."""
        if self._heard_ns is None or self.age_ns() > self._silence_s * 2e9:
            return 0
        return self._heard_ns - self._pushed_ns

    def heard(self, epoch: int, now_ns: int, *, log_full: bool | None) -> None:
        """The leader of `epoch` spoke, and its clock showed `now_ns`. A deposed leader's word proves nothing.
        `log_full` None: it does not know yet, so what was known stands.
        """
        if epoch >= self._epoch:
            self.log_full = self.log_full if log_full is None else log_full
            self._epoch = epoch
            elapsed_ns = self._clock.elapsed_ns()
            if self._heard_ns is None:
                self._pushed_ns = elapsed_ns
            self._heard_ns = elapsed_ns
            self._time.observe(now_ns, elapsed_ns)

    def observe(self, now_ns: int) -> None:
        """A message of the leader's that is not the feed's showed its clock."""
        if now_ns:
            self._time.observe(now_ns, self._clock.elapsed_ns())

    def seek(self) -> None:
        """Ask for what is missing now, without waiting for silence (after a join)."""
        self._wake.set()

    async def start(self) -> None:
        """Listen. Deltas are kept until `run` has loaded the snapshot."""
        self._subscription = await self._bus.subscribe(subjects.FEED, self._on_message)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def run(self) -> None:
        """Load, then repair whatever goes missing. Runs for ever."""
        while True:
            self._wake.clear()
            answered = await self._load() if not self.loaded else await self._catch_up()
            if not answered or self._kept:
                await asyncio.sleep(PAUSE_S)
            else:
                await self._until_missing()

    async def _until_missing(self) -> None:
        while not self._wake.is_set() and self.age_ns() < self._silence_s * 1e9:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s):
                    await self._wake.wait()

    async def _on_message(self, message: Message) -> None:
        try:
            delta = self._decode(message.payload)
        except msgspec.DecodeError as error:
            self.unreadable += 1
            _log.error("a message of the feed cannot be read: %s", error)
            return
        self._pushed_ns = self._clock.elapsed_ns()
        self.take(delta)

    def take(self, delta: FeedDelta) -> None:
        """Apply a delta, or keep it until what is missing before it has come."""
        self.heard(delta.epoch, delta.now_ns, log_full=delta.log_full)
        if self.loaded and not delta.resnapshot and self.snapshot.covers(delta):
            self._apply(delta)
            if self._kept:
                self._apply_kept()
            return
        if len(self._kept) < KEPT_DELTAS and not delta.resnapshot:
            self._kept.append(delta)
        self._wake.set()

    def _apply(self, delta: FeedDelta) -> None:
        changes = self.snapshot.apply(delta)
        if delta.records:
            self._on_applied(changes, self.snapshot.position)
        elif self._time.offset_ns is not None:
            self.snapshot.sweep(self.now_ns())

    def _apply_kept(self) -> None:
        kept, self._kept = sorted(self._kept, key=lambda delta: delta.from_seq), []
        for delta in kept:
            if delta.to_seq <= self.snapshot.position:
                continue
            if self.snapshot.covers(delta):
                self._apply(delta)
            else:
                self._kept.append(delta)

    async def _catch_up(self) -> bool:
        """Ask for everything after the position. False: not answered."""
        try:
            delta = await self._control.catchup(self.snapshot.position, CATCHUP_TIMEOUT_S)
        except Unanswered as reason:
            self._note_silence(reason)
            return False
        self._silent = False
        if delta.resnapshot:
            self.heard(delta.epoch, delta.now_ns, log_full=delta.log_full)
            return await self._load()
        self.take(delta)
        self._kept = [kept for kept in self._kept if kept.to_seq > self.snapshot.position]
        return True

    def _note_silence(self, reason: Exception) -> None:
        """Once per silence: the question is repeated many times a second."""
        if not self._silent:
            self._silent = True
            _log.warning("the control plane does not answer: %s", reason)

    async def _load(self) -> bool:
        """Load a whole snapshot and take its place. False: not answered, or older than what is here."""
        fresh, position = Snapshot(), NEVER_NS
        ask = self._ask_chunk("")
        try:
            while True:
                chunk = await ask
                if chunk.next_cursor:
                    ask = self._ask_chunk(chunk.next_cursor)  # under way while this one is unpacked
                    await asyncio.sleep(0)
                for part in batched(unpack(chunk.packed), PUT_AT_ONCE):
                    fresh.put(part)
                    await asyncio.sleep(0)
                position = min(position, chunk.as_of_seq)
                self._time.observe(chunk.now_ns, self._clock.elapsed_ns())
                if not chunk.next_cursor:
                    break
        except (Unanswered, ValueError) as reason:
            self._note_silence(reason)
            return False
        finally:
            ask.cancel()
        self._silent = False
        if position < self.snapshot.position:
            return False
        self._take_place(fresh, position)
        return True

    def _ask_chunk(self, cursor: str) -> asyncio.Task[SnapshotChunk]:
        asking = self._control.snapshot(cursor, ASK_TIMEOUT_S)
        return asyncio.get_running_loop().create_task(asking, name="a chunk of the snapshot")

    def _take_place(self, fresh: Snapshot, position: int) -> None:
        fresh.loaded(position)
        fresh.caps_version = self.snapshot.caps_version + fresh.caps_version + 1
        changes = None if self.loaded else NO_CHANGES
        self.snapshot, self.loaded = fresh, True
        self._on_applied(changes, position)
        self._apply_kept()
        self._wake.set()  # the snapshot may be some seconds old: ask for what came after it


def batched(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """The records in runs of at most `size`."""
    for begin in range(0, len(records), size):
        yield records[begin : begin + size]
