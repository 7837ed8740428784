"""Checkpoints: the state at a pair of sequences, so that a start need not fold everything (rule L7).

A checkpoint names both logs' sequences and the hashes of the messages there. A start compares them with the streams:
a stream that begins above the sequence, or holds another message there, was restored, purged or is another one's, and
the control plane refuses to start rather than forget spending or revocations. So it does for a damaged file, unless
the streams still hold everything; then it folds from their beginning.

The file: one line of JSON (`Header`), and the state's bytes behind it.
"""

import hashlib
from typing import Protocol

import msgspec

from events.log.port import Stored, StreamPort
from events.state.replica import Replica

FORMAT = 1


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
    """Keeps the newest checkpoint."""

    async def load(self) -> bytes | None:
        """None if there is none. Raises OSError."""

    async def save(self, data: bytes) -> None:
        """Replace it, all or nothing; on return it survives a power failure. Raises OSError."""


class MemoryCheckpoints:
    """For tests and simulations: survives the process, not the test."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    async def load(self) -> bytes | None:
        return self.data

    async def save(self, data: bytes) -> None:
        self.data = data


def message_hash(subject: str, payload: bytes) -> str:
    return hashlib.sha256(subject.encode() + b"\n" + payload).hexdigest()


def write_checkpoint(replica: Replica, control: Position, nodes: Position) -> bytes:
    body = replica.dump()
    digest = hashlib.sha256(body).hexdigest()
    header = Header(FORMAT, control.sequence, control.hash, nodes.sequence, nodes.hash, digest)
    return msgspec.json.encode(header) + b"\n" + body


def read_checkpoint(data: bytes) -> tuple[Header, Replica]:
    """Raises ValueError for bytes that are no sound checkpoint of this format."""
    head, _, body = data.partition(b"\n")
    header = msgspec.json.decode(head, type=Header)
    if header.format != FORMAT:
        raise ValueError(f"format {header.format}, this version reads {FORMAT}")
    if hashlib.sha256(body).hexdigest() != header.body_sha256:
        raise ValueError("the state does not match its hash")
    return header, Replica.load(body)


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
        await _check_whole(control, str(error))
        await _check_whole(nodes, str(error))
        return Restored(Replica())
    restored = Restored(
        replica,
        Position(header.control_seq, header.control_hash),
        Position(header.nodes_seq, header.nodes_hash),
    )
    await _check(control, restored.control)
    await _check(nodes, restored.nodes)
    return restored


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
    state = await port.state()
    if state.first_sequence > 1:
        raise Unsafe(
            f"the checkpoint cannot be read ({problem}), and stream {port.name} begins at {state.first_sequence}:"
            " what came before is known to nobody else. Restore the checkpoint file from a backup."
        )
