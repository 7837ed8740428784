"""From what is observed, and the folds, to signals. Pure; thresholds are in words in `controlplane.alerts.kinds`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controlplane.alerts.judge import Signal
from events.state.nodes import Node
from events.state.replica import Replica
from schemas.money import format_usd

UNKNOWN_RAISE, UNKNOWN_CLEAR = 10, 5
LOG_RAISE, LOG_CLEAR = 0.8, 0.75
STREAM_SILENT_S = 5.0
AUDIT_RAISE_S, AUDIT_CLEAR_S = 60.0, 10.0
AUDIT_SILENT_S = 15.0
BARRIER_RAISE_S = 3.0
CLOCK_RAISE_S, CLOCK_CLEAR_S = 10.0, 5.0

EXPECTED_FENCES = frozenset({"stopped", "replaced"})
"""Ends of incarnations that drained or started anew; any other one should be looked at."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the folds do not tell. Times in seconds; None: not known."""

    log_shares: Mapping[str, float] = field(default_factory=dict)
    log_full: bool = False
    streams_silent_s: Mapping[str, float] = field(default_factory=dict)
    audit_lag_s: Mapping[str, float] = field(default_factory=dict)
    audit_silent_s: float | None = None
    feed_lost: int = 0
    """Since the last look."""
    barrier_age_s: float = 0.0
    """Of the oldest change that is not confirmed."""
    checkpoint_failing: bool = False
    clock_offset_s: float | None = None
    failed_logins: Mapping[str, int] = field(default_factory=dict)
    """Of addresses above their allowance."""


def signals_of(replica: Replica, seen: Observed) -> Iterator[Signal]:
    """All but the caps', which `controlplane.alerts.caps` finds."""
    yield from _ledger(replica)
    yield from _nodes(replica.state.nodes)
    yield from _logs(seen)
    yield from _audit(seen)
    yield _over("feed_lost", "", seen.feed_lost > 0, f"{seen.feed_lost} messages of the feed could not leave")
    age_s = seen.barrier_age_s
    yield _over("barrier_slow", "", age_s > BARRIER_RAISE_S, f"a change waits for nodes since {age_s:.1f} s")
    text = "checkpoints cannot be written" if seen.checkpoint_failing else "checkpoints are written"
    yield _over("checkpoint_failing", "", seen.checkpoint_failing, text)
    if seen.clock_offset_s is not None:
        offset_s = abs(seen.clock_offset_s)
        text = f"the clocks of control plane and NATS differ by {offset_s:.1f} s"
        yield Signal("clock_offset", "", between(offset_s, CLOCK_RAISE_S, CLOCK_CLEAR_S), text)
    for address, failed in seen.failed_logins.items():
        yield Signal("authentication_failures", address, True, f"{failed} failed operator logins within a minute")


def between(value: float, raises: float, clears: float) -> bool | None:
    """True from `raises` on, False below `clears`, None in between."""
    if value >= raises:
        return True
    return False if value < clears else None


def _over(kind: str, subject: str, on: bool, message: str) -> Signal:  # noqa: FBT001 - the fact is the argument
    return Signal(kind, subject, on, message)


def _ledger(replica: Replica) -> Iterator[Signal]:
    overruns = replica.budget.overruns
    if overruns.requests:
        above = format_usd(overruns.amounts[0])
        text = f"requests that cost more than their bound, so far: {overruns.requests}, by {above} dollars in all"
        yield Signal("overrun", "", None, text, seen=overruns.requests)
    unknown = replica.budget.unknown_outcomes()
    text = f"{unknown} requests are of unknown outcome"
    yield Signal("unknown_outcomes", "", between(unknown, UNKNOWN_RAISE, UNKNOWN_CLEAR), text)


def _nodes(nodes: Mapping[str, Node]) -> Iterator[Signal]:
    """The newest unexpected fence of each slot."""
    newest: dict[str, Node] = {}
    for node in nodes.values():
        if node.fenced_seq and node.fence_reason not in EXPECTED_FENCES:
            known = newest.get(node.slot)
            if known is None or node.fenced_seq > known.fenced_seq:
                newest[node.slot] = node
    for slot, node in newest.items():
        text = f"{node.incarnation} was fenced: {node.fence_reason or 'no reason given'}"
        details = {"incarnation": node.incarnation, "reason": node.fence_reason}
        yield Signal("node_fenced", slot, None, text, details, seen=node.fenced_seq)


def _logs(seen: Observed) -> Iterator[Signal]:
    for stream, share in seen.log_shares.items():
        text = f"{stream} is {share:.0%} full"
        yield Signal("log_nearly_full", stream, between(share, LOG_RAISE, LOG_CLEAR), text)
    text = "nothing is admitted until the logs have room" if seen.log_full else "the logs have room"
    yield _over("log_full", "", seen.log_full, text)
    for stream, silent_s in seen.streams_silent_s.items():
        yield _over("log_silent", stream, silent_s > STREAM_SILENT_S, f"{stream} has not answered for {silent_s:.0f} s")


def _audit(seen: Observed) -> Iterator[Signal]:
    for log, lag_s in seen.audit_lag_s.items():
        text = f"the audit is {lag_s:.0f} s behind in the log {log}"
        yield Signal("audit_behind", log, between(lag_s, AUDIT_RAISE_S, AUDIT_CLEAR_S), text)
    if seen.audit_silent_s is not None:
        text = f"the audit writer was heard {seen.audit_silent_s:.0f} s ago"
        yield _over("audit_silent", "", seen.audit_silent_s > AUDIT_SILENT_S, text)
