"""How much of the disk the logs may take. Pure.

JetStream reserves a stream's `max_bytes` against `max_file_store` and refuses what does not fit, at creation
and again at every start. So the figures are chosen once, kept beside the data, and never made smaller.
"""

from typing import NamedTuple

GIB = 1 << 30
MIB = 1 << 20

CONTROL_WANTED_BYTES = 8 * GIB
NODES_WANTED_BYTES = 32 * GIB
CONTROL_LEAST_BYTES = 64 * MIB
NODES_LEAST_BYTES = 256 * MIB
_OTHER_BYTES = GIB
"""For what is not a log: small streams of other parts, and the store's own files."""


class StreamLimits(NamedTuple):
    """`max_bytes` of the two log streams."""

    control_bytes: int
    nodes_bytes: int

    @property
    def store_bytes(self) -> int:
        """`max_file_store`: both logs and what else there is."""
        return self.control_bytes + self.nodes_bytes + _OTHER_BYTES


def choose_limits(available_bytes: int, kept: StreamLimits | None = None) -> StreamLimits:
    """Divide the disk: at most four fifths of what is available, one fifth of that for the control log.

    A full disk stops the server, a full stream only appends; hence the margin. `kept` is an earlier choice,
    below which neither figure goes.
    """
    usable = available_bytes * 4 // 5
    control = max(CONTROL_LEAST_BYTES, min(CONTROL_WANTED_BYTES, usable // 5))
    nodes = max(NODES_LEAST_BYTES, min(NODES_WANTED_BYTES, usable * 4 // 5))
    if kept is not None:
        control, nodes = max(control, kept.control_bytes), max(nodes, kept.nodes_bytes)
    return StreamLimits(control, nodes)
