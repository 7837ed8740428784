"""Names of streams and subjects, and what they mean. Pure: strings in, strings out.

| subject | written by | stream |
|---|---|---|
| `rf.control.log` | the leading control plane | RF_CONTROL |
| `rf.control.fence` | whoever takes the leadership | RF_CONTROL |
| `rf.node.log.<slot>.<incarnation>` | that incarnation of that node, nobody else | RF_NODES |
| `rf.node.fence.<slot>.<incarnation>` | the control plane | RF_NODES |
| `rf.node.mark` | the leader, to have a point that its fold of the node logs must pass | RF_NODES |
| `rf.rpc.<slot>.<method>` | a node asks the control plane | none |
| `rf.feed` | the control plane tells all nodes | none |
| `rf.push.<slot>` | the control plane tells one node | none |
| `rf.audit.status` | the audit writer tells control planes how far it is | none |
| `rf.control.leader` | a standby asks who leads | none |
| `rf.control.echo.<name>` | a standby asks itself whether it can hear | none |

A fence subject lives in the same stream as the log that it guards, because the server can only compare
an expectation with a subject of the stream that it writes (rule L2, docs/PROTOCOL.md).
"""

import re
from typing import NamedTuple

CONTROL_STREAM = "RF_CONTROL"
NODES_STREAM = "RF_NODES"

CONTROL_LOG = "rf.control.log"
CONTROL_FENCE = "rf.control.fence"
CONTROL_SUBJECTS = (CONTROL_LOG, CONTROL_FENCE)

NODE_LOGS = "rf.node.log.>"
NODE_FENCES = "rf.node.fence.>"
NODE_MARK = "rf.node.mark"
NODES_SUBJECTS = (NODE_LOGS, NODE_FENCES, NODE_MARK)

FEED = "rf.feed"
LEADER = "rf.control.leader"
AUDIT_STATUS = "rf.audit.status"
ALL_PUSHES = "rf.push.*"
ALL_RPCS = "rf.rpc.*.*"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NodeSubject(NamedTuple):
    """Whose log or fence a subject is."""

    slot: str
    incarnation: str


class RpcSubject(NamedTuple):
    """Who asks, and what for."""

    slot: str
    method: str


def check_token(token: str) -> str:
    """Return `token` if it can stand as one word of a subject.

    Raises ValueError otherwise: a dot, a wildcard or a blank would name other actors' subjects.
    """
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(f"not a subject token (letters, digits, '_', '-', at most 64): {token!r}")
    return token


def node_log(slot: str, incarnation: str) -> str:
    return f"rf.node.log.{check_token(slot)}.{check_token(incarnation)}"


def node_fence(slot: str, incarnation: str) -> str:
    return f"rf.node.fence.{check_token(slot)}.{check_token(incarnation)}"


def slot_logs(slot: str) -> str:
    """Filter for the logs of all incarnations of a slot: what its credential may write."""
    return f"rf.node.log.{check_token(slot)}.>"


def rpc(slot: str, method: str) -> str:
    return f"rf.rpc.{check_token(slot)}.{check_token(method)}"


def slot_rpcs(slot: str) -> str:
    """Filter for every method of one slot: what its credential may ask."""
    return f"rf.rpc.{check_token(slot)}.*"


def push(slot: str) -> str:
    return f"rf.push.{check_token(slot)}"


def echo(name: str) -> str:
    return f"rf.control.echo.{check_token(name)}"


def inbox_prefix(slot: str) -> str:
    """Where the answers for a slot arrive; no other slot may listen there."""
    return f"_INBOX_{check_token(slot)}"


def parse_node_log(subject: str) -> NodeSubject | None:
    """Return the owner of a node's log subject; None if the subject is no such thing."""
    return _parse_node(subject, "log")


def parse_node_fence(subject: str) -> NodeSubject | None:
    """Return the incarnation that a fence subject guards; None if the subject is no such thing."""
    return _parse_node(subject, "fence")


def parse_rpc(subject: str) -> RpcSubject | None:
    """Return who asks what; None if the subject is no RPC."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[:2] != ["rf", "rpc"]:
        return None
    return RpcSubject(parts[2], parts[3])


def matches(subject_filter: str, subject: str) -> bool:
    """Tell whether a filter (`*` is one word, `>` at the end is one or more) covers a subject."""
    wanted = subject_filter.split(".")
    words = subject.split(".")
    for index, want in enumerate(wanted):
        if want == ">":
            return len(words) > index
        if index >= len(words) or want not in {"*", words[index]}:
            return False
    return len(words) == len(wanted)


def _parse_node(subject: str, kind: str) -> NodeSubject | None:
    parts = subject.split(".")
    if len(parts) != 5 or parts[:3] != ["rf", "node", kind]:
        return None
    return NodeSubject(parts[3], parts[4])
