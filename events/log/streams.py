"""The streams of the logs: how they must be configured, made when missing, refused when unsafe.

Why these settings (rules L2 and L6, docs/PROTOCOL.md):

- *discard new* and no limit on age, count, or messages per subject: a full log refuses; it never forgets.
- No roll-up and no deletion of single messages: a hole would be noticed only by who reads everything.
  Purging stays allowed, because trimming below a checkpoint is a purge; only the control account may.
- The duplicate window is 10 minutes. Appends are resent until their fate is known, so no window is long
  enough for *every* resend; nor need it be: what is stored twice carries the same number n and is skipped
  by the folds (L5), and a fenced writer is stopped by its fence. The window spares readers the repeats of
  an outage. Ten minutes outlast a restart of the server and a failover of the control plane; every minute
  costs the server some 200 bytes for each message in it (64 idle nodes: 80 MB in ten minutes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from events.log.jetstream_api import JetStreamApi
from events.log.port import LogError
from events.messaging.link import NatsLink
from events.subjects import CONTROL_STREAM, CONTROL_SUBJECTS, NODES_STREAM, NODES_SUBJECTS

DUPLICATE_WINDOW_S = 600


class StreamUnsafe(LogError):
    """A stream exists and could lose messages. The message says which setting is wrong."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One log stream. `max_bytes` is reserved on the server's disk; `replicas` is 1 or 3."""

    name: str
    subjects: Sequence[str]
    max_bytes: int
    replicas: int = 1


def control_stream(max_bytes: int = 8 << 30, replicas: int = 1) -> StreamSpec:
    """Control events are few: 8 GiB hold some 20 million batches."""
    return StreamSpec(CONTROL_STREAM, CONTROL_SUBJECTS, max_bytes, replicas)


def nodes_stream(max_bytes: int = 32 << 30, replicas: int = 1) -> StreamSpec:
    """Node logs carry every request, about 1 KB each."""
    return StreamSpec(NODES_STREAM, NODES_SUBJECTS, max_bytes, replicas)


def stream_config(spec: StreamSpec) -> dict[str, Any]:
    """Return the configuration that JetStream is asked for."""
    return {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_bytes": spec.max_bytes,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": DUPLICATE_WINDOW_S * 1_000_000_000,
        "num_replicas": spec.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "deny_purge": False,
    }


_VITAL = (
    "storage",
    "retention",
    "discard",
    "max_age",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "allow_rollup_hdrs",
    "deny_delete",
)
_DEFAULTS = {"max_age": 0, "allow_rollup_hdrs": False, "deny_delete": False}
_FORBIDDEN = (
    "sealed",
    "mirror",
    "sources",
    "republish",
    "subject_transform",
    "no_ack",
    "allow_msg_ttl",
    "allow_msg_schedules",
    "allow_msg_counter",
)


def unsafe_settings(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Compare what a log needs with what a stream has; each entry names one setting that could lose messages."""
    complaints = [
        f"{key} is {found.get(key, _DEFAULTS.get(key))!r} and must be {wanted[key]!r}"
        for key in _VITAL
        if found.get(key, _DEFAULTS.get(key)) != wanted[key]
    ]
    complaints += [f"{key} is set and must not be" for key in _FORBIDDEN if found.get(key)]
    # The server leaves out what it does not know; an asynchronous store may lose what it acknowledged.
    if found.get("persist_mode", "default") not in {"default", ""}:
        complaints.append(f"persist_mode is {found['persist_mode']!r} and must be 'default'")
    return complaints


async def ensure_stream(link: NatsLink, spec: StreamSpec) -> None:
    """Make the stream if it is missing, widen it if it is narrower than wanted, refuse it if it is unsafe.

    Never shrinks a stream. Raises StreamUnsafe, LogUnavailable.
    """
    api = JetStreamApi(link, timeout_s=10.0)
    wanted = stream_config(spec)
    found = await api.stream_config(spec.name)
    if found is None:
        # Two control planes may do this at once: the same configuration again is no error.
        await api.call(f"STREAM.CREATE.{spec.name}", wanted, dict)
        found = await api.stream_config(spec.name) or {}
    if complaints := unsafe_settings(wanted, found):
        raise StreamUnsafe(f"stream {spec.name} is not fit for a log: {'; '.join(complaints)}")
    missing = [subject for subject in spec.subjects if subject not in found.get("subjects", ())]
    narrower = found["max_bytes"] != -1 and found["max_bytes"] < spec.max_bytes
    window = found.get("duplicate_window", 0) < wanted["duplicate_window"]
    if missing or narrower or window:
        change = {
            **found,
            "subjects": sorted({*found.get("subjects", ()), *spec.subjects}),
            "max_bytes": max(found["max_bytes"], spec.max_bytes) if narrower else found["max_bytes"],
            "duplicate_window": max(found.get("duplicate_window", 0), wanted["duplicate_window"]),
        }
        await api.call(f"STREAM.UPDATE.{spec.name}", change, dict)
