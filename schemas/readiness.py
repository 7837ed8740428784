"""Every reason that `/readyz` gives, of control plane, nodes and audit, in one table: what it means and what to do.

`GET /readyz` answers 200 while nothing but warnings stands in the list, else 503. A warning is true and wants a look,
but a load balancer that took this process out for it would make things worse: an audit that is behind stops neither
requests nor commands, and a full log is no reason to keep a revocation away from the control plane.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from schemas.answers import ReadyAnswer, ReasonView

Process = Literal["control", "node", "audit"]


class ReasonKind(NamedTuple):
    """`of`: the processes that give it."""

    of: tuple[Process, ...]
    warning: bool
    remedy: str


REASONS: dict[str, ReasonKind] = {
    "draining": ReasonKind(("control", "node"), False, "It was told to stop; another process goes on."),
    "nats_unreachable": ReasonKind(
        ("control", "node", "audit"), False, "Look at nats-server and the network; the connection repairs itself."
    ),
    "log_stalled": ReasonKind(
        ("control", "node"), False, "Look at the stream's servers: two of three must be up, and their disks writable."
    ),
    "stream_silent": ReasonKind(
        ("control",), False, "Look at the stream's servers: two of three must be up, and their disks writable."
    ),
    "log_full": ReasonKind(
        ("node",), False, "Widen the stream, or repair what keeps it from being trimmed (audit, checkpoints)."
    ),
    "admission_stopped": ReasonKind(
        ("control",),
        True,
        "The logs are too full to admit requests; commands work. Widen the stream, or let it be trimmed.",
    ),
    "not_ready": ReasonKind(
        ("control",),
        False,
        "The message says what is missing. A start takes seconds, with a long log a minute; then look at the logs.",
    ),
    "not_joined": ReasonKind(
        ("node",), False, "It asks the control plane for a new incarnation; see that one leads, and the slot is known."
    ),
    "no_policy": ReasonKind(("node",), False, "It loads the policy; see that a control plane leads."),
    "feed_stale": ReasonKind(("node",), False, "The control plane is silent; see that one leads, and NATS is up."),
    "feed_silent": ReasonKind(
        ("node",),
        True,
        "See that a control plane leads. Requests go on with the budget that this node holds, until the feed is stale.",
    ),
    "feed_deaf": ReasonKind(
        ("node",),
        True,
        "Look at this node's connection to NATS. It asks for what it misses; revocations wait for it, or fence it.",
    ),
    "asks_unanswered": ReasonKind(
        ("node",),
        True,
        "See that a control plane leads and answers this node; what needs more budget gets 503 budget_unavailable.",
    ),
    "log_backlog": ReasonKind(
        ("node",), False, "Ends of requests wait for the log; they are kept until it takes them."
    ),
    "clock_offset": ReasonKind(
        ("control", "node"),
        True,
        "Set the clock (NTP). Windows and expiries follow the control plane's; safety does not.",
    ),
    "checkpoint_failing": ReasonKind(
        ("control",),
        True,
        "Make room in the data directory, or repair its rights; the next start folds more meanwhile.",
    ),
    "audit_behind": ReasonKind(("control",), True, "Look at the audit process and ClickHouse. Nothing is lost."),
    "audit_silent": ReasonKind(("control",), True, "Start the audit process, or look why it cannot reach NATS."),
    "audit_blocked": ReasonKind(("audit",), False, "Look at ClickHouse and NATS; the writer goes on by itself."),
}


class Reason(NamedTuple):
    """One of the table, with what is the case now."""

    code: str
    message: str


def reason(code: str, message: str) -> Reason:
    """Raises KeyError for a code that is not in the table (a defect)."""
    REASONS[code]
    return Reason(code, message)


def render_reasons(found: Sequence[Reason], role: str | None = None) -> ReadyAnswer:
    """What `/readyz` says: ready if all of it are warnings. `role`: of one of several control planes."""
    views = [ReasonView(code, message, REASONS[code].remedy, REASONS[code].warning) for code, message in found]
    return ReadyAnswer(all(view.warning for view in views), views, role)


def as_text(answer: ReadyAnswer) -> bytes:
    """For people: `ready`, or `not ready`, and a line for each reason."""
    role = f" ({answer.role})" if answer.role else ""
    lines = [f"ready{role}" if answer.ready else f"not ready{role}"]
    for view in answer.reasons:
        mark = "warning: " if view.warning else ""
        lines.append(f"{mark}{view.code}: {view.message}. {view.remedy}")
    return ("\n".join(lines) + "\n").encode()
