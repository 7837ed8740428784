"""The sole writer of a log: group commit, one append in flight, proof, and the end by a fence.

The idea
    An actor (one incarnation of a node, the leading control plane) writes its log subject alone (L1). It
    sends one message, waits until its fate is known, and only then sends the next. What its callers append
    meanwhile shares that next message: alone an append waits for nothing, under load batches grow by
    themselves. With a second append in flight, order and fate of both would be unknown after a failure.

States of a writer, and what moves it
    idle      -> in flight   an entry is queued, or the heartbeat is due (A2)
    in flight -> idle        acknowledged, or acknowledged as a duplicate
    in flight -> in flight   uncertain: the same bytes under the same id `<incarnation>.<n>` again (L3). An
                             append that was given up could land later: a hold nobody knows of.
    in flight -> closed      uncertain for `give_up_s`: soon the stream will no longer know the id. The whole
                             writer ends, as by a fence; what was in flight is decided by the fence that the
                             control plane sets when the actor joins again.
    any       -> fenced      the fence moved (L2). Every waiter and every later append gets `Fenced`. It does
                             not say that the message was not stored; the log decides that.
    any       -> closed      by the owner; by a bug in what was passed in, which is then raised here.

Proof (A1)
    The proof's age counts from the *first* send of the newest message that was acknowledged as stored by
    that very send. A duplicate acknowledgement (L4) says that the message is stored, but not when: it may
    date from before a fence. So `Appended.duplicate` is passed on, the proof is left as it was, and who
    wants to act appends afresh, under a new number.

What would be wrong
    - Counting proof from the acknowledgement: the fence may have moved while the answer travelled.
    - A wall clock, or one that stands still while the machine sleeps: `clock_ns` counts suspension.
    - Encoding when queued: the batch's number is known only when it is sent.
    - Splitting one call's events over two messages: a crash between them would store half an intent.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic

from events.log.group import (
    Appended,
    Batch,
    Entry,
    EventT,
    GroupQueue,
    LogOverloaded,
    Unwritable,
    WriterSettings,
)
from events.log.port import (
    AppendPort,
    AppendUncertain,
    FenceExpectation,
    FenceMoved,
    LogError,
    PayloadTooLarge,
    PubAck,
)
from events.log.stats import AppendStats

__all__ = [
    "NO_PROOF_NS",
    "Appended",
    "Fenced",
    "LogClosed",
    "LogOverloaded",
    "SoleWriterLog",
    "Unconfirmed",
    "WriterSettings",
]

NO_PROOF_NS: Final = 2**63 - 1
"""Age of a proof that was never given: older than any limit."""

_log = logging.getLogger(__name__)


class Fenced(LogError):
    """The incarnation is fenced. The fate of what was in flight is decided by the log; join anew."""


class LogClosed(LogError):
    """The writer was closed, or ended by a bug, before the fate of this append was known."""


class Unconfirmed(LogClosed):
    """An append could not be confirmed within `give_up_s`. Its fate is unknown until the actor's fence is set."""


class SoleWriterLog(Generic[EventT]):
    """The writer of `subject`. Call `start` in the loop that will use it, `close` at the end.

    `encode(n, events)` makes one message of the n-th batch; n counts from `first_n` without gaps, so that
    folds can skip repeats and notice gaps (L5). `id_salt` (secret, random, any length) makes message ids
    unguessable: ids are compared over the whole stream, and a node that knew another's next id could
    otherwise make that append vanish as a "duplicate". `on_fenced` is called once, at the moment it is known;
    `on_unconfirmed` when the writer has given up.
    """

    def __init__(
        self,
        port: AppendPort,
        *,
        subject: str,
        fence: FenceExpectation,
        incarnation: str,
        encode: Callable[[int, Sequence[EventT]], bytes],
        clock_ns: Callable[[], int],
        settings: WriterSettings | None = None,
        on_fenced: Callable[[], None] | None = None,
        on_unconfirmed: Callable[[], None] | None = None,
        id_salt: str = "",
        first_n: int = 1,
        stats: AppendStats | None = None,
    ) -> None:
        if fence.sequence < 1:
            raise ValueError("a fence is opened before its log is written; sequence 0 asserts nothing (L2)")
        self._port = port
        self._subject = subject
        self._fence = fence
        self._incarnation = incarnation
        self._clock_ns = clock_ns
        self._settings = settings or WriterSettings()
        self._on_fenced = on_fenced
        self._on_unconfirmed = on_unconfirmed
        self._id_tail = f".{id_salt}" if id_salt else ""
        self._next_n = first_n
        self.stats = stats or AppendStats()

        self._queue = GroupQueue(self._settings, encode)
        self._in_flight: Batch[EventT] | None = None
        self._in_flight_since_ns = 0
        self._trouble = ""
        self._proof_ns: int | None = None
        self._last: Appended | None = None

        self._end: type[LogError] | None = None
        self._end_reason = ""
        self._closing = False
        self._flushed: bool | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Future[None] | None = None
        self._beat_interval_s = 0.0
        self._make_beat: Callable[[], EventT] | None = None
        self._beat_due = 0.0

    @property
    def fenced(self) -> bool:
        return self._end is Fenced

    @property
    def queued_events(self) -> int:
        """Events that wait for their message to be sent."""
        return self._queue.events

    @property
    def last(self) -> Appended | None:
        """The newest acknowledged message."""
        return self._last

    @property
    def trouble(self) -> str:
        """Why the message in flight had to be sent again (`AppendUncertain.reason`); empty if all is well."""
        return self._trouble

    def proof_age_ns(self) -> int:
        """Age of the newest proof (A1); NO_PROOF_NS before the first, and at the end."""
        return self.proof_age_at(self._clock_ns())

    def proof_age_at(self, now_ns: int) -> int:
        """The same at an instant of the writer's clock that was just read."""
        if self._proof_ns is None or self._end is not None:
            return NO_PROOF_NS
        return now_ns - self._proof_ns

    def stalled_ns(self) -> int:
        """How long the message in flight has been waiting since its first send; 0 if none is."""
        return self._clock_ns() - self._in_flight_since_ns if self._in_flight is not None else 0

    def append_nowait(self, events: Sequence[EventT], *, essential: bool = False) -> asyncio.Future[Appended]:
        """Queue events for the next message; all of them share it. The future tells when it is stored.

        `essential` may use the room kept for what must not be refused. Raises Fenced, LogClosed,
        LogOverloaded. The future raises Fenced or LogClosed (fate unknown), PayloadTooLarge or what
        `encode` raised (not stored). Cancelling the future does not take the events back.
        """
        # Asking for the running loop is a system call (in Python 3.11), and this is done for every request.
        loop = self._loop or asyncio.get_running_loop()
        waiter: asyncio.Future[Appended] = loop.create_future()
        self._accept(Entry(events, waiter), essential=essential)
        return waiter

    def append(self, events: Sequence[EventT], *, essential: bool = False) -> None:
        """Queue events that nobody waits for: same order, same bounds, same exceptions from the call.

        Events that turn out to be unwritable are logged as an error.
        """
        self._accept(Entry(events, None), essential=essential)

    def heartbeat(self, interval_s: float, make_event: Callable[[], EventT]) -> None:
        """From now on append `make_event()` whenever the proof is `interval_s` old and nothing waits (A2)."""
        self._beat_interval_s = interval_s
        self._make_beat = make_event
        self._beat_due = 0.0
        self._rouse()

    def start(self) -> None:
        """Begin to write. Once."""
        if self._task is not None:
            raise RuntimeError("the writer has been started already")
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"log-writer {self._subject}")
        self._task.add_done_callback(self._ended)

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Accept nothing more, write what is queued, stop. True if everything queued was acknowledged.

        What is not when `timeout_s` is over gets LogClosed; it may still land. Idempotent.
        """
        self._closing = True
        self._rouse()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)
            self._task.cancel()
            await asyncio.wait({self._task})
        unwritten = self._end is not None or self._in_flight is not None or bool(self._queue)
        if self._flushed is None:
            self._flushed = not unwritten
        self._finish(LogClosed, "the writer is closed")
        return self._flushed

    def _accept(self, entry: Entry[EventT], *, essential: bool) -> None:
        if self._end is not None:
            raise self._end(self._end_reason)
        if self._closing:
            raise LogClosed("the writer is closing")
        self._queue.push(entry, essential=essential)
        if self._wake is not None:
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        while self._end is None:
            if not self._queue and not self._beat():
                if self._closing:
                    return
                await self._idle()
                continue
            taken = self._queue.take(self._next_n, self._port.max_payload_bytes)
            if isinstance(taken, Unwritable):
                self._drop(taken.entry, taken.error)
            else:
                await self._commit(taken)

    def _beat(self) -> bool:
        """Queue a heartbeat if it is due; tell whether it was."""
        if self._make_beat is None or self._closing or self._now_s() < self._beat_due:
            return False
        self._queue.push(Entry((self._make_beat(),), None), essential=True)
        return True

    def _now_s(self) -> float:
        """The loop's time, which the timers go by."""
        return (self._loop or asyncio.get_running_loop()).time()

    async def _idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_at(self._beat_due, self._rouse) if self._make_beat is not None else None
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _commit(self, batch: Batch[EventT]) -> None:
        """Send one message until its fate is known."""
        self._in_flight = batch
        self._in_flight_since_ns = self._clock_ns()
        sent_at = self._now_s()
        try:
            ack = await self._publish(batch.payload)
        except FenceMoved:
            self._finish(Fenced, f"{self._subject} is fenced")
            if self._on_fenced is not None:
                self._on_fenced()
            return
        except Unconfirmed as end:
            self._finish(Unconfirmed, str(end))
            if self._on_unconfirmed is not None:
                self._on_unconfirmed()
            return
        except PayloadTooLarge as refusal:
            # The server takes less than we thought. Nothing was sent, so the number is still free.
            self._in_flight = None
            if len(batch.entries) > 1:
                self._queue.put_back(batch)
            else:
                self._drop(batch.entries[0], refusal)
            return
        self._in_flight = None
        self._trouble = ""
        events = sum(len(entry.events) for entry in batch.entries)
        self.stats.stored(self._clock_ns() - self._in_flight_since_ns, events, len(batch.payload))
        appended = Appended(ack.sequence, self._next_n, self._in_flight_since_ns, ack.duplicate)
        self._next_n += 1
        self._last = appended
        if not ack.duplicate:
            self._proof_ns = appended.first_sent_ns
            self._beat_due = sent_at + self._beat_interval_s
        for entry in batch.entries:
            entry.succeed(appended)

    async def _publish(self, payload: bytes) -> PubAck:
        pause_s = self._settings.retry_pause_s
        msg_id = f"{self._incarnation}.{self._next_n}{self._id_tail}"
        while True:
            try:
                return await self._port.publish(
                    self._subject,
                    payload,
                    msg_id=msg_id,
                    expect=self._fence,
                    timeout_s=self._settings.ack_timeout_s,
                )
            except AppendUncertain as doubt:
                self._trouble = doubt.reason
                self.stats.retries[doubt.reason] += 1
            except PayloadTooLarge:
                if not self._trouble:
                    raise
                # An earlier send of these bytes may be stored, so they can no longer be taken apart.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_pause_max_s)
            if self.stalled_ns() > self._settings.give_up_s * 1e9:
                raise Unconfirmed(f"{self._subject}: batch {self._next_n} was not confirmed ({self._trouble})")

    def _drop(self, entry: Entry[EventT], error: Exception) -> None:
        if entry.waiter is None:
            _log.error("event dropped, it cannot be written to %s: %s", self._subject, type(error).__name__)
        entry.fail(error)

    def _finish(self, end: type[LogError], reason: str) -> None:
        """Refuse everything from now on, and tell everybody who waits. The first reason stays."""
        if self._end is None:
            self._end, self._end_reason = end, reason
        waiting = self._queue.drain()
        if self._in_flight is not None:
            waiting = self._in_flight.entries + waiting
        self._in_flight = None
        for entry in waiting:
            entry.fail(self._end(self._end_reason))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._finish(LogClosed, "the writer was stopped")
        elif (error := task.exception()) is not None:
            name = type(error).__name__
            _log.critical("the writer of %s ended unexpectedly: %s", self._subject, name, exc_info=error)
            self._finish(LogClosed, f"the writer ended by a bug: {name}")
