"""A log's messages as the audit tells them: what a node could not have written is told as just that.

Whoever has a slot's credential can append any bytes to its logs (events.node_batches). They must not stop the audit,
nor stand in it as somebody's request or as a change by an operator. So such a message is one row of the type
`Distrusted`: who wrote it, when, how much, and how it begins. Other messages that cannot be read are a defect of ours.
"""

import hashlib

import msgspec

from events.codec import Batch, decode_batch
from events.log.port import Stored
from events.node_batches import read_node_batch
from events.subjects import parse_node_log

SHOWN_CHARS = 1_000
"""Of a message that is not believed; the log itself has all of it."""


class Distrusted(msgspec.Struct, frozen=True):
    """What stands in a row's `data`. `subject`: the log, which names slot and incarnation."""

    subject: str
    size_bytes: int
    sha256: str
    begins: str


def read_message(message: Stored) -> Batch:
    """The message's events. Raises CodecError for one of the control plane's that cannot be read."""
    owner = parse_node_log(message.subject)
    if owner is None:
        return decode_batch(message.payload)
    batch = read_node_batch(owner, message.payload)
    if batch is not None:
        return batch
    told = Distrusted(
        message.subject,
        len(message.payload),
        hashlib.sha256(message.payload).hexdigest(),
        message.payload[:SHOWN_CHARS].decode("utf-8", "replace"),
    )
    return Batch(owner.incarnation, 0, message.time_ns, (told,))  # type: ignore[arg-type]  # a row is all that it becomes
