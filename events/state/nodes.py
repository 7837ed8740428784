"""Nodes: which incarnations joined, and which the control log says are fenced.

The fence that truly ends an incarnation is the `Fenced` message beside its own log (rule F1); `NodeFenced` only
repeats it here, so a barrier counts on the fold of the node logs and uses this one for who joined when.
"""

import msgspec
from msgspec.structs import replace

from events.types import NodeFenced, NodeJoined

ENDED_KEPT = 64
"""Fenced incarnations kept per slot: a slot that crashes at every start must not grow the table without end,
and no slot re-joins that often within the time that a barrier still asks about a fenced one."""


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """One incarnation. `fence_seq`: where its fence subject was opened. `fenced_seq` = 0: not fenced."""

    slot: str
    incarnation: str
    fence_seq: int
    joined_seq: int
    joined_at_ns: int
    pid: int = 0
    version: str = ""
    fenced_seq: int = 0
    fence_reason: str = ""


def fold_node(nodes: dict[str, Node], seq: int, event: NodeJoined | NodeFenced) -> None:
    """Fold one event into `nodes` (by incarnation, in order of joining). Incarnation ids are never used again."""
    node = nodes.get(event.incarnation)
    match event:
        case NodeJoined() if node is None:
            nodes[event.incarnation] = Node(
                slot=event.slot,
                incarnation=event.incarnation,
                fence_seq=event.fence_seq,
                joined_seq=seq,
                joined_at_ns=event.at_ns,
                pid=event.pid,
                version=event.version,
            )
            _drop_ended(nodes, event.slot)
        case NodeFenced() if node is not None and not node.fenced_seq:
            nodes[event.incarnation] = replace(node, fenced_seq=seq, fence_reason=event.reason)
        case _:
            pass  # repeated: nothing changes


def live_nodes(nodes: dict[str, Node]) -> tuple[Node, ...]:
    """Incarnations that joined and that the control log has not recorded as fenced."""
    return tuple(node for node in nodes.values() if not node.fenced_seq)


def _drop_ended(nodes: dict[str, Node], slot: str) -> None:
    ended = [node.incarnation for node in nodes.values() if node.slot == slot and node.fenced_seq]
    for incarnation in ended[: max(0, len(ended) - ENDED_KEPT)]:
        del nodes[incarnation]
