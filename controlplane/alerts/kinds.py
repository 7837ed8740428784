"""Every kind of alert in one table: how bad it is, when it is raised and cleared, and what to do about it."""

from typing import Literal, NamedTuple

Severity = Literal["warning", "critical"]


class AlertKind(NamedTuple):
    """`subject`: what one alert is about. `when`: thresholds, raised and cleared, in words."""

    severity: Severity
    subject: str
    when: str
    remedy: str


ALERTS: dict[str, AlertKind] = {
    "overrun": AlertKind(
        "critical",
        "the gateway",
        "a request has cost more than the bound that was computed for it",
        "Look at the requests with overrun_usd above 0; the price list or the vendor's terms have changed.",
    ),
    "unknown_outcomes": AlertKind(
        "warning",
        "the gateway",
        "10 requests or more are held at their bound because nobody knows what they did; cleared at 5",
        "List them (outcome=unknown), look them up at the vendor, and reconcile them.",
    ),
    "node_fenced": AlertKind(
        "warning",
        "a node's slot",
        "a node was ended because it was silent or did not apply a change",
        "Look at that node's log and its way to NATS. It joins again by itself if it lives.",
    ),
    "log_nearly_full": AlertKind(
        "warning",
        "a stream",
        "the stream is 80% full; cleared below 75%",
        "See that the audit writes and checkpoints succeed (both let old messages go), or widen the stream.",
    ),
    "log_full": AlertKind(
        "critical",
        "the logs",
        "nothing is admitted any more: a stream is above 90%; cleared below 85%",
        "Widen the stream, or repair what keeps it from being trimmed (audit, checkpoints).",
    ),
    "log_silent": AlertKind(
        "critical",
        "a stream",
        "the stream has not answered for 5 s (no leader, no quorum, no server)",
        "Look at the nats-servers: a stream with three replicas needs two of them.",
    ),
    "audit_behind": AlertKind(
        "warning",
        "a log",
        "the audit's oldest unwritten event is older than 60 s; cleared below 10 s",
        "Look at the audit process and at ClickHouse. Nothing is lost: the log keeps what is not written.",
    ),
    "audit_silent": AlertKind(
        "warning",
        "the audit",
        "the audit writer has not been heard for 15 s",
        "Start the audit process, or look why it cannot reach NATS.",
    ),
    "feed_lost": AlertKind(
        "warning",
        "the feed",
        "a message of the policy feed could not leave",
        "Look at NATS and the network. Nodes notice the gap and ask; barriers wait for them.",
    ),
    "barrier_slow": AlertKind(
        "warning",
        "the barrier",
        "a tightening change is not confirmed by all nodes after 3 s",
        "Look for a stalled stream: a silent node alone is fenced within a second.",
    ),
    "checkpoint_failing": AlertKind(
        "warning",
        "the control plane",
        "a checkpoint could not be written; cleared when one is",
        "Make room in the data directory, or repair its rights. The logs cannot be trimmed meanwhile.",
    ),
    "clock_offset": AlertKind(
        "warning",
        "the control plane",
        "its wall clock differs from NATS's by more than 10 s; cleared below 5 s",
        "Set both clocks (NTP). Windows and expiries follow the control plane's clock; safety does not.",
    ),
    "cap_nearing": AlertKind(
        "warning",
        "an account's cap",
        "80% of the cap is settled or held; cleared below 75%, or when its window turns",
        "Raise the cap, or see what spends.",
    ),
    "cap_reached": AlertKind(
        "warning",
        "an account's cap",
        "a request did not fit, or all of it is settled or held; cleared below 95%, or when its window turns",
        "Raise the cap, or see what spends.",
    ),
    "authentication_failures": AlertKind(
        "warning",
        "a client's address",
        "more than 20 failed operator logins within a minute",
        "Find out who holds a wrong or old operator token there; behind a proxy the address is the proxy's.",
    ),
}

CAPS = frozenset({"cap_nearing", "cap_reached"})
"""Kinds whose subjects are caps, `<kind of account>:<id>:<meter>:<window>`."""

CALM_S = 60.0
"""An alert is cleared once its cause has been gone for so long: what flaps is one alert."""
