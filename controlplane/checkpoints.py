"""Checkpoints: the state at a pair of sequences, so that a start need not fold everything (rule L7).

A checkpoint names both logs' sequences and the hashes of the messages there. A start compares them with the streams:
a stream that begins above the sequence, or holds another message there, was restored, purged or is another one's, and
the control plane refuses to start rather than forget spending or revocations. The one before the newest is kept, in
case the newest cannot be read; and if neither can, it refuses too, unless the streams still hold everything: then it
folds from their beginning. So nothing may be trimmed above the older one (`Recorder.saved_through`).

The bytes: one line of JSON (`Header`), and the state behind it, compressed: a sixth of the writing, while the log's own
disk has to sync each append.
"""

import gc
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from events.log.port import Stored, StreamPort
from events.state.replica import Replica

FORMAT = 2
"""Of 1, the state was not compressed; it is still read."""

LEVEL = 1

_log = logging.getLogger(__name__)


class Unsafe(Exception):
    """Going on would forget something. The message says what, and what an operator can do."""


class Header(msgspec.Struct, frozen=True):
    """`*_hash`: of the message at that sequence (`message_hash`); empty at sequence 0."""

    format: int
    control_seq: int
    control_hash: str
    nodes_seq: int
    nodes_hash: str
    body_sha256: str


class Position(msgspec.Struct, frozen=True):
    """How far a log was folded, and the hash of the message there."""

    sequence: int = 0
    hash: str = ""

    @classmethod
    def of(cls, message: Stored) -> "Position":
        return cls(message.sequence, message_hash(message.subject, message.payload))


class CheckpointStore(Protocol):
    """Keeps the two newest checkpoints."""

    async def load(self) -> bytes | None:
        """The newest; None if there is none. Raises OSError."""

    async def load_older(self) -> bytes | None:
        """The one before the newest; None if there is none. Raises OSError."""

    async def drop_newest(self) -> None:
        """The newest cannot be read: the older one takes its place. Raises OSError."""

    async def write(self, make: Callable[[], bytes]) -> int:
        """Keep what `make` gives for the state as it is now, before anything more is folded; returns its size.

        All or nothing; on return it survives a power failure, and has been read back. Raises OSError.
        """


class MemoryCheckpoints:
    """For tests and simulations: survives the process, not the test."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.older: bytes | None = None

    async def load(self) -> bytes | None:
        return self.data

    async def load_older(self) -> bytes | None:
        return self.older

    async def drop_newest(self) -> None:
        self.data = self.older

    async def write(self, make: Callable[[], bytes]) -> int:
        data = make()
        await self.save(data)
        return len(data)

    async def save(self, data: bytes) -> None:
        self.data, self.older = data, self.data


def message_hash(subject: str, payload: bytes) -> str:
    return hashlib.sha256(subject.encode() + b"\n" + payload).hexdigest()


def write_checkpoint(replica: Replica, control: Position, nodes: Position) -> bytes:
    body = zlib.compress(replica.dump(), LEVEL)
    digest = hashlib.sha256(body).hexdigest()
    header = Header(FORMAT, control.sequence, control.hash, nodes.sequence, nodes.hash, digest)
    return msgspec.json.encode(header) + b"\n" + body


def read_checkpoint(data: bytes) -> tuple[Header, Replica]:
    """Raises ValueError for bytes that are no sound checkpoint of this format."""
    head, _, body = data.partition(b"\n")
    header = msgspec.json.decode(head, type=Header)
    if header.format not in {1, FORMAT}:
        raise ValueError(f"format {header.format}, this version reads {FORMAT}")
    if hashlib.sha256(body).hexdigest() != header.body_sha256:
        raise ValueError("the state does not match its hash")
    with _collector_off():
        return header, Replica.load(body if header.format == 1 else zlib.decompress(body))


@contextmanager
def _collector_off() -> Iterator[None]:
    """Loading makes a million objects and no garbage: looking for it again and again doubles the time of a start."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Restored(msgspec.Struct, frozen=True):
    """A state, and how far it has folded each log."""

    replica: Replica
    control: Position = Position()
    nodes: Position = Position()


async def restore(store: CheckpointStore, control: StreamPort, nodes: StreamPort) -> Restored:
    """The newest checkpoint's state if it agrees with the streams, an empty one if there is none.

    Raises Unsafe, LogUnavailable, OSError.
    """
    data = await store.load()
    if data is None:
        return Restored(Replica())
    try:
        header, replica = read_checkpoint(data)
    except (ValueError, msgspec.MsgspecError) as error:
        older = await _older(store, str(error))
        if older is None:
            await _check_whole(control, str(error))
            await _check_whole(nodes, str(error))
            return Restored(Replica())
        header, replica = older
    restored = Restored(
        replica,
        Position(header.control_seq, header.control_hash),
        Position(header.nodes_seq, header.nodes_hash),
    )
    await _check(control, restored.control)
    await _check(nodes, restored.nodes)
    return restored


async def _older(store: CheckpointStore, problem: str) -> tuple[Header, Replica] | None:
    """The checkpoint before the newest, which cannot be read; None if it cannot be read either."""
    data = await store.load_older()
    try:
        found = read_checkpoint(data) if data is not None else None
    except (ValueError, msgspec.MsgspecError):
        return None
    if found is not None:
        _log.error("the newest checkpoint cannot be read (%s); the one before it can", problem)
        await store.drop_newest()
    return found


async def _check(port: StreamPort, position: Position) -> None:
    if not position.sequence:
        return
    message = await port.get(position.sequence)
    if message is None:
        state = await port.state()
        raise Unsafe(
            f"stream {port.name} does not hold message {position.sequence}, up to which the checkpoint has folded it"
            f" (it holds {state.first_sequence} to {state.last_sequence}). It was purged, trimmed too far, or"
            " restored from an older backup. Restore the stream that belongs to this data directory."
        )
    if message_hash(message.subject, message.payload) != position.hash:
        raise Unsafe(
            f"stream {port.name} holds another message at {position.sequence} than the one that the checkpoint has"
            " folded. It is another deployment's stream, or a restored one that went on differently. Use the data"
            " directory and the streams that belong together."
        )


async def _check_whole(port: StreamPort, problem: str) -> None:
    """By the number of messages: the fences of a trimmed stream stay, also at its beginning."""
    state = await port.state()
    gone = state.last_sequence - state.messages
    if gone:
        raise Unsafe(
            f"the checkpoint cannot be read ({problem}), and {gone} messages of stream {port.name} have been trimmed:"
            " what they said is known to nobody else. Restore the checkpoint file from a backup."
        )
