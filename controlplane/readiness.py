"""Why a leading control plane is not ready, or should be looked at. Pure, over what the process observes.

A standby's own reasons come from whoever keeps its place; here they are passed on under `not_ready`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controlplane.alerts.signals import AUDIT_RAISE_S, AUDIT_SILENT_S, CLOCK_RAISE_S, STREAM_SILENT_S
from schemas.readiness import Reason, reason


@dataclass(frozen=True, slots=True)
class Standing:
    """What is observed of one control plane now. Times in seconds; None: not known."""

    connected: bool = True
    draining: bool = False
    place: str | None = None
    """Why it cannot do its part, by its own account (not leading and no standby, no appends); None if it can."""
    stalled_s: float = 0.0
    """How long the control log's append in flight has been waiting, if that is too long; else 0."""
    trouble: str = ""
    log_full: bool = False
    streams_silent_s: Mapping[str, float] = field(default_factory=dict)
    clock_offset_s: float | None = None
    checkpoint_failing: bool = False
    audit_silent_s: float | None = None
    audit_lag_s: Mapping[str, float] = field(default_factory=dict)


def reasons_of(standing: Standing) -> list[Reason]:
    """What hinders it first, warnings after."""
    return [*_hindrances(standing), *_warnings(standing)]


def _hindrances(standing: Standing) -> Iterator[Reason]:
    if standing.draining:
        yield reason("draining", "this control plane is shutting down")
    if not standing.connected:
        yield reason("nats_unreachable", "the connection to NATS is lost")
    if standing.stalled_s:
        doubt = f" ({standing.trouble})" if standing.trouble else ""
        yield reason("log_stalled", f"the control log takes no appends since {standing.stalled_s:.1f} s{doubt}")
    elif standing.place is not None and not standing.draining:
        yield reason("not_ready", standing.place)
    for stream, silent_s in standing.streams_silent_s.items():
        if silent_s > STREAM_SILENT_S:
            yield reason("stream_silent", f"{stream} has not answered for {silent_s:.0f} s")


def _warnings(standing: Standing) -> Iterator[Reason]:
    if standing.log_full:
        yield reason("admission_stopped", "the logs are too full, so no node admits a request")
    if standing.clock_offset_s is not None and abs(standing.clock_offset_s) > CLOCK_RAISE_S:
        yield reason("clock_offset", f"this clock and NATS's differ by {abs(standing.clock_offset_s):.0f} s")
    if standing.checkpoint_failing:
        yield reason("checkpoint_failing", "the newest checkpoint could not be written")
    if standing.audit_silent_s is not None and standing.audit_silent_s > AUDIT_SILENT_S:
        yield reason("audit_silent", f"the audit writer was heard {standing.audit_silent_s:.0f} s ago")
    for log, lag_s in standing.audit_lag_s.items():
        if lag_s > AUDIT_RAISE_S:
            yield reason("audit_behind", f"the audit is {lag_s:.0f} s behind in the log {log}")
