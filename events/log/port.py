"""The port of a log stream: what the sole writer and the folds need, in bytes.

Three things implement it: `MemoryStream` (tests and the seeded simulation), `JetStreamStream` (control
plane, audit), and for nodes, which may only append, `JetStreamAppender`. One contract suite runs on all.

What a publish can end in (rule L4, docs/PROTOCOL.md):

| outcome | meaning | what the writer does |
|---|---|---|
| `PubAck(duplicate=False)` | stored by this very message | proof |
| `PubAck(duplicate=True)` | stored earlier under the same id | stored, but no proof about now |
| `FenceMoved` | the fence subject no longer ends where the writer expects | stop for ever |
| `AppendUncertain` | no answer, or an answer that decides nothing | send the same id again |
| `PayloadTooLarge` | refused before it was sent | send less |

Neither `FenceMoved` nor `AppendUncertain` proves that the message was not stored.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

UNBOUNDED = -1
"""`StreamState.max_bytes` of a stream without a limit."""


class FenceExpectation(NamedTuple):
    """The publish counts only if the last message on `subject` has this stream sequence.

    `sequence` is at least 1: the control plane opens a fence before its log is used. Zero ("no message
    there") would hold again once the fence is purged, and let a fenced writer back in (rule L2).
    """

    subject: str
    sequence: int


class PubAck(NamedTuple):
    """The stream holds the message at `sequence`."""

    sequence: int
    duplicate: bool = False


class Stored(NamedTuple):
    """One message of a stream. `time_ns` is when the server stored it (UTC, its wall clock)."""

    sequence: int
    subject: str
    payload: bytes
    time_ns: int


class StreamState(NamedTuple):
    """Sequences are 0 while nothing was ever stored. After a trim `first_sequence` is the oldest left."""

    first_sequence: int
    last_sequence: int
    messages: int
    size_bytes: int
    max_bytes: int
    replicas: int = 1

    @property
    def full_share(self) -> float:
        """How full the stream is, 0 to 1. Above 0.9 nothing may be admitted (rule L6)."""
        return self.size_bytes / self.max_bytes if self.max_bytes > 0 else 0.0


class LogError(Exception):
    """Base of everything that a log port raises."""


class FenceMoved(LogError):
    """The fence was written after this actor was let in. It never un-happens."""


class AppendUncertain(LogError):
    """Nobody can say whether the message is stored. Publish again under the same id.

    `reason` is one of `timeout`, `disconnected`, `backlog`, `no_responders`, `stream_full`, `server`;
    `code` is the server's error code, 0 where it sent none.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(f"append uncertain: {reason}" + (f" ({code})" if code else ""))
        self.reason = reason
        self.code = code


class PayloadTooLarge(LogError):
    """The message exceeds what the stream accepts; it was not sent."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"payload of {size_bytes} bytes, the limit is {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class LogTrimmed(LogError):
    """Messages after `after` are gone; the oldest that can follow is `available`.

    A fold must not go on from here: it would forget spending or revocations (rule L7).
    """

    def __init__(self, after: int, available: int) -> None:
        super().__init__(f"log is trimmed: asked to go on after {after}, the next message is {available}")
        self.after = after
        self.available = available


class LogRewound(LogError):
    """The stream ends at `last`, before the message `after` that was read from it once.

    It was restored from a backup, or lost its end. Nothing that was decided since may be forgotten: an
    operator has to fence every known actor and start from what is left (rule L6).
    """

    def __init__(self, after: int, last: int) -> None:
        super().__init__(f"log is shorter than it was: asked to go on after {after}, it ends at {last}")
        self.after = after
        self.last = last


class LogUnavailable(LogError):
    """The stream could not be read now. Ask again."""


class AppendPort(Protocol):
    """The right to write, which is all that a node has."""

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that a publish accepts."""

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None,
        expect: FenceExpectation | None,
        timeout_s: float,
    ) -> PubAck:
        """Store one message.

        `msg_id` de-duplicates within the stream's window, `expect` is the fence. Answers within about
        `timeout_s`. Raises FenceMoved, AppendUncertain or PayloadTooLarge as the table above says.
        A caller that is cancelled knows nothing about the message's fate.
        """


class Follower(Protocol):
    """Reads a stream in order, for ever, and never skips a message silently.

    It outlives restarts of the server and losses of the connection by itself, going on after the last
    sequence that it has handed out. Belongs to one task.
    """

    @property
    def position(self) -> int:
        """Sequence of the message handed out last, or the `after` that it began with."""

    @property
    def lag(self) -> int:
        """Messages known to be stored and not handed out yet (as of the newest news)."""

    @property
    def caught_up(self) -> bool:
        """Whether everything that was stored at the newest news has been handed out."""

    async def next_batch(self, max_messages: int = 1_000, timeout_s: float | None = None) -> list[Stored]:
        """Return the next messages: at least one, at most `max_messages`; none once `timeout_s` is over.

        Raises LogTrimmed if the next messages no longer exist, LogRewound if the ones before do not.
        """

    def __aiter__(self) -> AsyncIterator[Stored]:
        """Iterate over single messages."""

    async def aclose(self) -> None:
        """Release what it holds at the server. Idempotent."""


class StreamPort(AppendPort, Protocol):
    """A whole stream: what the control plane and the audit have."""

    @property
    def name(self) -> str:
        """Name of the stream."""

    def read(
        self,
        *,
        after: int,
        subject_filter: str | Sequence[str] | None = None,
        accept_trimmed: bool = False,
    ) -> Follower:
        """Follow the messages with sequence > `after` on subjects that match (None: all).

        A stream that begins above `after + 1` raises LogTrimmed at the first batch. So does, without a
        filter, a hole further on; `accept_trimmed` is for readers that want what is left.
        """

    async def state(self) -> StreamState:
        """Raises LogUnavailable."""

    async def get(self, sequence: int) -> Stored | None:
        """Return the message at `sequence`; None if there is none (any more). Raises LogUnavailable."""

    async def last_on_subject(self, subject: str) -> Stored | None:
        """Return the newest message on exactly this subject. Raises LogUnavailable."""

    async def trim(self, subject_filter: str, through: int) -> int:
        """Remove the messages that match up to and including sequence `through`; return how many.

        The caller has a verified checkpoint above `through`, and never names fences (rule L6).
        Raises LogUnavailable; asking again is harmless.
        """
