"""Events as rows of `ringfence.events`: pure, so that the same span of a log always gives the same rows.

A block is thousands of events of few kinds, so its rows are made by column: all events of a kind at once, each field of
theirs as one list. Rows of a kind stand together; the table sorts them by (log, seq, idx).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import msgspec

from controlplane.audit.columns import Columns, Rows, usd
from controlplane.audit.memory import Memory, attempt_name
from controlplane.audit.messages import Distrusted
from controlplane.audit.told import Told
from events.codec import Batch
from events.log.port import Stored
from events.types import (
    SYSTEM,
    AlertCleared,
    AlertRaised,
    BudgetSet,
    By,
    Event,
    Fenced,
    FenceOpened,
    Heartbeat,
    KeyIssued,
    LogMarked,
    Marked,
    NodeFenced,
    NodeJoined,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestRefused,
    RequestReleased,
    RequestSettled,
)
from schemas.policy import Who

SIGNS_OF_LIFE = frozenset({Heartbeat, Marked, LogMarked})
"""Ten a second from each idle node, and they say nothing that a compliance officer asks."""

_WITH_DIGEST = frozenset(kind for kind in get_args(Event) if "token_sha256" in kind.__struct_fields__)

_encoder = msgspec.json.Encoder()


class _Kind:
    """Events of one kind, and what belongs to each."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.counted: list[tuple[int, int, ObjectExposure | None]] = []
        """Of settlements: controlplane.audit.memory.Memory.count."""
        self.idx: list[int] = []
        self.heads: list[tuple[int, str, int, int, int]] = []
        """Of their messages: sequence, actor, number, when the batch was made, when it was stored."""


def add_rows(rows: Rows, told: Told, log: str, messages: Iterable[tuple[Stored, Batch]], memory: Memory) -> None:
    """Add the rows of these messages of a log, with their batches. `memory` is what is known before, and is left
    updated.
    """
    kinds: dict[type, _Kind] = {}
    for message, batch in messages:
        seq = message.sequence
        head = (seq, batch.actor, batch.n, batch.at_ns, message.time_ns)
        for idx, event in enumerate(batch.events):
            kind: type = type(event)
            if kind in SIGNS_OF_LIFE or (kind is RequestRefused and memory.is_repeat(event)):  # type: ignore[arg-type]
                continue
            like = kinds.get(kind)
            if like is None:
                like = kinds[kind] = _Kind()
            like.events.append(event)
            like.heads.append(head)
            like.idx.append(idx)
            _tell(told, seq, event, like, memory)
    for kind, like in kinds.items():
        _put(rows, log, kind, like)


def _tell(told: Told, seq: int, event: Any, like: _Kind, memory: Memory) -> None:
    """What depends on the order of events."""
    if isinstance(event, RequestAdmitted):
        memory.since.setdefault(attempt_name(event.request_id, event.attempt), seq)
        told.steps.append((event.request_id, seq, event.attempt == 1, False))
    elif isinstance(event, RequestSettled):
        like.counted.append(memory.count(seq, event))
        told.steps.append((event.request_id, seq, False, event.outcome == "settled"))
        if event.resolves:
            told.resolved.append(event.resolves)
    elif isinstance(event, RequestReleased):
        told.steps.append((event.request_id, seq, False, True))
    elif isinstance(event, RequestRefused):
        told.steps.append((event.request_id, seq, True, True))
    elif isinstance(event, RequestReconciled):
        told.steps.append((event.request_id, seq, False, False))
        told.reconciled = True
    elif isinstance(event, Fenced):
        told.fenced.append(event.actor)


def _put(rows: Rows, log: str, kind: type, like: _Kind) -> None:
    count = len(like.events)
    columns: Columns = dict(zip(("seq", "actor", "n", "at", "stored_at"), zip(*like.heads, strict=True), strict=True))
    columns |= {"log": [log] * count, "idx": like.idx, "type": [kind.__name__] * count}
    columns["data"] = list(_as_json(kind, like.events))
    filler = _FILLERS.get(kind)
    if filler is not None:
        columns |= filler(like)
    if isinstance(getattr(like.events[0], "by", None), By):
        columns = {"subject": [_subject(event) for event in like.events]} | columns | _operator(like)
    rows.put(count, columns)


def _admitted(like: _Kind) -> Columns:
    events: list[RequestAdmitted] = like.events
    return _who([event.who for event in events]) | {
        "at": [event.at_ns for event in events],
        "request_id": [event.request_id for event in events],
        "client": [event.client for event in events],
        "upstream": [event.upstream for event in events],
        "operation": [event.operation for event in events],
        "method": [event.method for event in events],
        "path": [event.path for event in events],
        "model": [event.model for event in events],
        "bound_usd": usd(event.bound.usd for event in events),
        "idempotency": [event.idempotency for event in events],
    }


def _refused(like: _Kind) -> Columns:
    events: list[RequestRefused] = like.events
    return _who([event.who for event in events]) | {
        "at": [event.first_at_ns for event in events],
        "request_id": [event.request_id for event in events],
        "client": [event.client for event in events],
        "upstream": [event.upstream for event in events],
        "method": [event.method for event in events],
        "path": [event.path for event in events],
        "model": [event.model for event in events],
        "status": [event.status for event in events],
        "refusal": [event.code for event in events],
        "message": [event.message for event in events],
        "line": [event.line for event in events],
        "count": [event.count for event in events],
        "outcome": ["refused"] * len(events),
        "bound_usd": usd(event.bound.usd for event in events),
    }


def _settled(like: _Kind) -> Columns:
    events: list[RequestSettled] = like.events
    objects = [told for _, _, told in like.counted]
    columns: Columns = {
        "at": [event.at_ns for event in events],
        "request_id": [event.request_id for event in events],
        "model": [event.model for event in events],
        "status": [event.status for event in events],
        "outcome": [event.outcome for event in events],
        "message": [event.error for event in events],
        "input_tokens": [event.input_tokens for event in events],
        "output_tokens": [event.output_tokens for event in events],
        "cached_tokens": [event.cached_tokens for event in events],
        "tool_calls": [event.tool_calls for event in events],
        "latency_us": [event.latency_us for event in events],
        "overhead_us": [event.overhead_us for event in events],
        "resolves": [event.resolves for event in events],
        "actual_usd": usd(spent for spent, _, _ in like.counted),
        "refund_usd": usd(refunded for _, refunded, _ in like.counted),
    }
    if any(objects):
        columns |= {
            "object": [told.ref if told else "" for told in objects],
            "exposure_usd": usd(told.exposure_nanos if told else 0 for told in objects),
            "meter": [told.meter if told else "" for told in objects],
        }
    return columns


def _released(like: _Kind) -> Columns:
    events: list[RequestReleased] = like.events
    return {
        "at": [event.at_ns or head[3] for event, head in zip(events, like.heads, strict=True)],
        "request_id": [event.request_id for event in events],
        "reason": [event.reason for event in events],
        "outcome": ["released"] * len(events),
    }


def _reconciled(like: _Kind) -> Columns:
    events: list[RequestReconciled] = like.events
    return {
        "request_id": [event.request_id for event in events],
        "actual_usd": usd(event.actual.usd for event in events),
        "refund_usd": usd(event.actual.refund for event in events),
        "subject": [f"request:{event.request_id}" for event in events],
    }


def _fence(like: _Kind) -> Columns:
    events: list[Fenced | FenceOpened] = like.events
    return {"subject": [event.actor for event in events], "reason": [getattr(event, "reason", "") for event in events]}


def _alert(like: _Kind) -> Columns:
    events: list[AlertRaised | AlertCleared] = like.events
    messages = [event.message for event in events]
    return {
        "at": [event.at_ns for event in events],
        "subject": [f"alert:{event.kind}:{event.subject}" for event in events],
        "operator_name": [SYSTEM.name] * len(events),
        "message": messages,
        "reason": messages,
    }


def _distrusted(like: _Kind) -> Columns:
    events: list[Distrusted] = like.events
    return {"subject": [event.subject for event in events], "reason": ["no node writes this"] * len(events)}


def _node(like: _Kind) -> Columns:
    events: list[NodeJoined | NodeFenced] = like.events
    reasons = [getattr(event, "reason", "") for event in events]
    return {"subject": [event.incarnation for event in events], "reason": reasons}


def _who(everybody: list[Who]) -> Columns:
    return {
        "key": [who.key for who in everybody],
        "label": [who.label for who in everybody],
        "agent": [who.agent for who in everybody],
        "owner": [who.owner for who in everybody],
        "purpose": [who.purpose for who in everybody],
        "cost_center": [who.cost_center for who in everybody],
        "run": [who.run for who in everybody],
        "user": [who.user for who in everybody],
        "feature": [who.feature for who in everybody],
    }


def _operator(like: _Kind) -> Columns:
    everybody: list[By] = [event.by for event in like.events]
    return {
        "operator": [by.operator for by in everybody],
        "operator_name": [by.name for by in everybody],
        "address": [by.address for by in everybody],
        "reason": [by.reason for by in everybody],
    }


_FILLERS: dict[type, Callable[[_Kind], Columns]] = {
    RequestAdmitted: _admitted,
    RequestRefused: _refused,
    RequestSettled: _settled,
    RequestReleased: _released,
    RequestReconciled: _reconciled,
    AlertRaised: _alert,
    AlertCleared: _alert,
    Fenced: _fence,
    FenceOpened: _fence,
    NodeJoined: _node,
    NodeFenced: _node,
    Distrusted: _distrusted,
}
"""What events of a kind have to say beside where they stand."""


def _subject(event: Any) -> str:
    """What a control event changed: `key:vk_...`, `agent:billing-bot`, `budget:team:finance`, `operator:op_...`."""
    name = type(event).__name__
    if isinstance(event, BudgetSet):
        return f"budget:{event.account.kind}:{event.account.id}"
    if name.startswith("Agent"):
        return f"agent:{event.name}"
    if isinstance(event, KeyIssued) or name.startswith("Key"):
        return f"key:{event.id}"
    return f"operator:{event.id}" if name.startswith("Operator") else name


def _as_json(kind: type, events: Iterable[Any]) -> Iterator[bytes]:
    """The events as JSON. Digests of tokens are of no use to a reader, and best kept where they are needed."""
    if kind not in _WITH_DIGEST:
        return map(_encoder.encode, events)
    return (_encoder.encode(_without_digest(event)) for event in events)


def _without_digest(event: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    fields.pop("token_sha256", None)
    return fields
