"""The streams of the logs: how they must be configured, made when missing, refused when unsafe.

Why these settings (rules L2 and L6, docs/PROTOCOL.md):

- *discard new* and no limit on age, count, or messages per subject: a full log refuses; it never forgets.
- No roll-up and no deletion of single messages: a hole would be noticed only by who reads everything.
  Purging stays allowed, because trimming below a checkpoint is a purge; only the control account may.
- The duplicate window is 10 minutes, and every retry ends well before it: a writer that cannot confirm an
  append for `events.log.group.GIVE_UP_S` ends, and its actor goes on under a new id (L3). A copy that was on its
  way all the time (in the buffers of a server that stood still) may land later still. It changes nothing: it
  carries the number n of the first and is skipped by the folds (L5), or a fence stands before it (L2). Every
  minute of the window costs the server some 200 bytes for each message in it (64 idle nodes: 80 MB in ten).
- Three replicas where there are three servers: an append is acknowledged when two have it on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from events.log.jetstream_api import ApiRefused, JetStreamApi
from events.log.port import LogError
from events.messaging.link import NatsLink
from events.subjects import CONTROL_STREAM, CONTROL_SUBJECTS, NODES_STREAM, NODES_SUBJECTS

DUPLICATE_WINDOW_S = 600

CHANGE_TIMEOUT_S = 10.0
"""Three servers make a stream, or give it a replica more, in well under a second; their disks may be busy."""

_REPLICAS_NOT_SUPPORTED = 10074
"""`replicas > 1 not supported in non-clustered mode`"""


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


def log_streams(control_bytes: int, nodes_bytes: int, replicas: int) -> tuple[StreamSpec, StreamSpec]:
    """Both log streams as a process's settings want them; 0 bytes: the default size."""
    control = control_stream(control_bytes, replicas) if control_bytes else control_stream(replicas=replicas)
    return control, nodes_stream(nodes_bytes, replicas) if nodes_bytes else nodes_stream(replicas=replicas)


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
    """Make the stream if it is missing, widen it if it is less than wanted, refuse it if it is unsafe.

    Never shrinks a stream, and never takes a replica away. Raises StreamUnsafe (also for replicas that a
    stand-alone server cannot have), LogUnavailable (ask again: also while servers of the cluster are missing).
    """
    ask, api = JetStreamApi(link), JetStreamApi(link, timeout_s=CHANGE_TIMEOUT_S)
    wanted = stream_config(spec)
    found = await ask.stream_config(spec.name)
    if found is None:
        # Two control planes may do this at once: the same configuration again is no error.
        await _change(api, f"STREAM.CREATE.{spec.name}", wanted)
        found = await ask.stream_config(spec.name) or {}
    if complaints := unsafe_settings(wanted, found):
        raise StreamUnsafe(f"stream {spec.name} is not fit for a log: {'; '.join(complaints)}")
    change = {**found, **_widened(wanted, found)}
    if change != found:
        await _change(api, f"STREAM.UPDATE.{spec.name}", change)


def _widened(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The settings of which a stream has less than is wanted, as they should be."""
    subjects = found.get("subjects", ())
    change: dict[str, Any] = {}
    if not set(wanted["subjects"]) <= set(subjects):
        change["subjects"] = sorted({*subjects, *wanted["subjects"]})
    if found["max_bytes"] != -1 and found["max_bytes"] < wanted["max_bytes"]:
        change["max_bytes"] = wanted["max_bytes"]
    for key in ("duplicate_window", "num_replicas"):
        if found.get(key, 0) < wanted[key]:
            change[key] = wanted[key]
    return change


async def _change(api: JetStreamApi, operation: str, config: dict[str, Any]) -> None:
    try:
        await api.call(operation, config, dict)
    except ApiRefused as refusal:
        if refusal.err_code == _REPLICAS_NOT_SUPPORTED:
            raise StreamUnsafe(
                f"{config['num_replicas']} replicas of stream {config['name']} are wanted, and this NATS server is in "
                "no cluster. Join it to two others (docs/DEPLOY.md), or set replicas to 1."
            ) from None
        raise
