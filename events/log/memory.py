"""A log stream in memory, with the semantics of JetStream where the protocol depends on them.

`MemoryStream` is the server: one ordered list of messages, de-duplication by id, the fence assertion,
*discard new*. `MemoryStream.port(...)` is one client's way to it, with that client's faults. Only asyncio
primitives of the running loop are used and no clock is read but the two that are passed in, so the same
seed on a virtual-time loop gives the same run.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from events.log.faults import NoFaults, PublishFate, StreamFaults
from events.log.memory_follower import MemoryFollower
from events.log.port import (
    UNBOUNDED,
    AppendUncertain,
    FenceExpectation,
    FenceMoved,
    LogError,
    PayloadTooLarge,
    PubAck,
    Stored,
    StreamState,
)
from events.messaging.delay import later
from events.subjects import matches

_STREAM_FULL = 10077
"""JetStream's code for "maximum bytes exceeded"."""

_OVERHEAD_BYTES = 64
"""What a stored message costs beside subject and payload; only its order of magnitude matters."""

_Request = tuple[str, bytes, str | None, FenceExpectation | None]


class MemoryStream:
    """One stream.

    `now_ns` is the server's wall clock. `duplicate_before_fence`: whether a resend is looked up before the
    fence is compared. A stream with three replicas does so and answers `duplicate` to a fenced writer, one
    with a single replica answers that the fence has moved; the first is harder to bear, hence the default.
    """

    def __init__(
        self,
        name: str,
        *,
        now_ns: Callable[[], int],
        max_bytes: int = UNBOUNDED,
        max_payload_bytes: int = 8 << 20,
        duplicate_window_s: float = 600.0,
        duplicate_before_fence: bool = True,
    ) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self.max_payload_bytes = max_payload_bytes
        self._now_ns = now_ns
        self._window_ns = int(duplicate_window_s * 1e9)
        self._duplicate_before_fence = duplicate_before_fence
        self._messages: dict[int, Stored] = {}
        self._last_on_subject: dict[str, int] = {}
        self._last_sequence = 0
        self._size_bytes = 0
        self._known_ids: dict[str, int] = {}
        self._known_order: deque[tuple[int, str]] = deque()
        self._followers: dict[MemoryFollower, None] = {}  # a set would call them in an order of its own

    def port(self, faults: StreamFaults | None = None) -> "MemoryPort":
        """Return one client's way to this stream."""
        return MemoryPort(self, faults or NoFaults())

    def store(self, subject: str, payload: bytes, msg_id: str | None, expect: FenceExpectation | None) -> PubAck:
        """Do what the server does with one message that arrives. Raises as `AppendPort.publish`."""
        now_ns = self._now_ns()
        known = self._known(msg_id, now_ns)
        if known and self._duplicate_before_fence:
            return PubAck(known, duplicate=True)
        if expect is not None and self._last_on_subject.get(expect.subject, 0) != expect.sequence:
            raise FenceMoved(expect.subject)
        if known:
            return PubAck(known, duplicate=True)
        size = len(subject) + len(payload) + _OVERHEAD_BYTES
        if self.max_bytes > 0 and self._size_bytes + size > self.max_bytes:
            raise AppendUncertain("stream_full", _STREAM_FULL)
        # Nothing refuses the message any more.
        self._last_sequence += 1
        stored = Stored(self._last_sequence, subject, payload, now_ns)
        self._messages[stored.sequence] = stored
        self._last_on_subject[subject] = stored.sequence
        self._size_bytes += size
        if msg_id is not None:
            self._known_ids[msg_id] = stored.sequence
            self._known_order.append((now_ns, msg_id))
        for follower in tuple(self._followers):
            follower.stored(stored.sequence)
        return PubAck(stored.sequence)

    def _known(self, msg_id: str | None, now_ns: int) -> int:
        """Return the sequence under which `msg_id` is stored, 0 if it is new or forgotten."""
        while self._known_order and self._known_order[0][0] < now_ns - self._window_ns:
            self._known_ids.pop(self._known_order.popleft()[1], None)
        return self._known_ids.get(msg_id, 0) if msg_id is not None else 0

    def state(self) -> StreamState:
        first = next(iter(self._messages), self._last_sequence + 1 if self._last_sequence else 0)
        return StreamState(first, self._last_sequence, len(self._messages), self._size_bytes, self.max_bytes)

    def get(self, sequence: int) -> Stored | None:
        return self._messages.get(sequence)

    def last_on_subject(self, subject: str) -> Stored | None:
        return self._messages.get(self._last_on_subject.get(subject, 0))

    def between(self, after: int, through: int) -> Iterator[Stored]:
        """Yield what is left of the messages in (after, through], in order."""
        return (self._messages[s] for s in range(after + 1, through + 1) if s in self._messages)

    def trim(self, subject_filter: str, through: int) -> int:
        doomed = [
            message
            for message in self._messages.values()
            if message.sequence <= through and matches(subject_filter, message.subject)
        ]
        for message in doomed:
            del self._messages[message.sequence]
            self._size_bytes -= len(message.subject) + len(message.payload) + _OVERHEAD_BYTES
            if self._last_on_subject.get(message.subject) == message.sequence:
                del self._last_on_subject[message.subject]
        return len(doomed)

    def attach(self, follower: MemoryFollower) -> None:
        self._followers[follower] = None

    def detach(self, follower: MemoryFollower) -> None:
        self._followers.pop(follower, None)


class MemoryPort:
    """One client's `StreamPort` onto a `MemoryStream`."""

    def __init__(self, stream: MemoryStream, faults: StreamFaults) -> None:
        self._stream = stream
        self._faults = faults

    @property
    def name(self) -> str:
        return self._stream.name

    @property
    def max_payload_bytes(self) -> int:
        return self._stream.max_payload_bytes

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None,
        expect: FenceExpectation | None,
        timeout_s: float,
    ) -> PubAck:
        if len(payload) > self.max_payload_bytes:
            raise PayloadTooLarge(len(payload), self.max_payload_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                fate = await self._faults.on_publish(subject, msg_id)
                return await self._send((subject, payload, msg_id, expect), fate)
        except TimeoutError:
            raise AppendUncertain("timeout") from None

    def _send(self, request: _Request, fate: PublishFate) -> "asyncio.Future[PubAck]":
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        for delay_s in fate.arrivals_s:
            # Not bound to the caller: what is on its way arrives, whether or not somebody still waits.
            later(delay_s, partial(self._arrive, request, answer, fate.ack_delay_s))
        return answer

    def _arrive(self, request: _Request, answer: "asyncio.Future[PubAck]", ack_delay_s: float) -> None:
        try:
            ack = self._stream.store(*request)
        except LogError as refusal:
            later(ack_delay_s, partial(_refuse, answer, refusal))
        else:
            later(ack_delay_s, partial(_acknowledge, answer, ack))

    def read(
        self,
        *,
        after: int,
        subject_filter: str | Sequence[str] | None = None,
        accept_trimmed: bool = False,
    ) -> MemoryFollower:
        filters = (subject_filter,) if isinstance(subject_filter, str) else tuple(subject_filter or ())
        return MemoryFollower(self._stream, self._faults, after=after, filters=filters, accept_trimmed=accept_trimmed)

    async def state(self) -> StreamState:
        return self._stream.state()

    async def get(self, sequence: int) -> Stored | None:
        return self._stream.get(sequence)

    async def last_on_subject(self, subject: str) -> Stored | None:
        return self._stream.last_on_subject(subject)

    async def trim(self, subject_filter: str, through: int) -> int:
        return self._stream.trim(subject_filter, through)


def _acknowledge(answer: "asyncio.Future[PubAck]", ack: PubAck) -> None:
    if not answer.done():
        answer.set_result(ack)


def _refuse(answer: "asyncio.Future[PubAck]", refusal: LogError) -> None:
    if not answer.done():
        answer.set_exception(refusal)
