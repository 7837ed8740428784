"""Events as rows of the audit, one by one as a reader would: what controlplane.audit.rows, which goes by columns, must give.

A row has the columns of which its event has something to say. Times are nanoseconds, amounts nano-dollars.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, get_args

import msgspec

from controlplane.audit.columns import COLUMNS
from controlplane.audit.messages import Distrusted
from events.codec import Batch
from events.log.port import Stored
from events.state.objects import exposure_after, is_newest
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
from schemas.money import NANOS_PER_USD
from schemas.policy import Who

SIGNS_OF_LIFE = (Heartbeat, Marked, LogMarked)
"""Ten a second from each idle node, and they say nothing that a compliance officer asks."""

_WITH_DIGEST = frozenset(kind for kind in get_args(Event) if "token_sha256" in kind.__struct_fields__)

_encoder = msgspec.json.Encoder()

Row = dict[str, Any]


class Known(NamedTuple):
    """What is counted for an object so far; `told_seq`, `final` as in events.state.objects.TrackedObject."""

    counted: int = 0
    told_seq: int = 0
    final: bool = False


class Memory:
    """What rows need of the events before: objects, where intents are, and which requests have ended."""

    def __init__(self) -> None:
        self.objects: dict[str, Known] = {}
        """By `<meter> <object reference>`."""
        self.since: dict[str, int] = {}
        """Sequence of the intent, by `attempt_name`."""
        self._told: set[str] = set()

    def tell(self, name: str) -> bool:
        """Whether this is the first time that it is told; the ledger ignores all others."""
        if name in self._told:
            return False
        self._told.add(name)
        return True


def usd(nanos: int) -> int:
    """What no column of Decimal(18, 9) holds as the most that it does."""
    return max(1 - 10**18, min(nanos, 10**18 - 1))


def place_of(settled: ObjectExposure) -> str:
    """A key of `Memory.objects`."""
    return f"{settled.meter} {settled.ref}"


def attempt_name(request_id: str, attempt: int) -> str:
    """One attempt of a request: each is counted by itself (rule S1). Without a number it is the first."""
    return request_id if attempt <= 1 else f"{request_id}#{attempt}"


def refusal_name(request_id: str, code: str, first_at_ns: int) -> str:
    """One recorded refusal."""
    return f"refused {request_id} {code} {first_at_ns}"


def rows_of(log: str, message: Stored, batch: Batch, memory: Memory) -> list[Row]:
    """The rows of one log message, whose payload is `batch`."""
    rows = []
    for idx, event in enumerate(batch.events):
        if isinstance(event, SIGNS_OF_LIFE) or (isinstance(event, RequestRefused) and _is_repeat(event, memory)):
            continue
        if isinstance(event, RequestAdmitted):
            memory.since.setdefault(attempt_name(event.request_id, event.attempt), message.sequence)
        row: Row = {
            "log": log,
            "seq": message.sequence,
            "idx": idx,
            "actor": batch.actor,
            "n": batch.n,
            "at": batch.at_ns,
            "stored_at": message.time_ns,
            "type": type(event).__name__,
            "data": _json(event),
        }
        _fill(row, event, memory)
        rows.append(row)
    return rows


def _fill(row: Row, event: Any, memory: Memory) -> None:
    filler = _FILLERS.get(type(event))
    if filler is not None:
        filler(row, event)
    if isinstance(event, RequestSettled):
        _count(row, event, memory)
    by = getattr(event, "by", None)
    if isinstance(by, By):
        row.update(operator=by.operator, operator_name=by.name, address=by.address, reason=by.reason)
        row.setdefault("subject", _subject(event))


def _admitted(row: Row, event: RequestAdmitted) -> None:
    _who(row, event.who)
    row.update(
        at=event.at_ns, request_id=event.request_id, client=event.client, upstream=event.upstream,
        operation=event.operation, method=event.method, path=event.path, model=event.model,
        bound_usd=usd(event.bound.usd), idempotency=event.idempotency,
    )  # fmt: skip


def _refused(row: Row, event: RequestRefused) -> None:
    _who(row, event.who)
    row.update(
        at=event.first_at_ns, request_id=event.request_id, client=event.client, upstream=event.upstream,
        method=event.method, path=event.path, model=event.model, status=event.status, refusal=event.code,
        message=event.message, line=event.line, count=event.count, outcome="refused", bound_usd=usd(event.bound.usd),
    )  # fmt: skip


def _settled(row: Row, event: RequestSettled) -> None:
    row.update(
        at=event.at_ns, request_id=event.request_id, model=event.model, status=event.status, outcome=event.outcome,
        message=event.error, input_tokens=event.input_tokens, output_tokens=event.output_tokens,
        cached_tokens=event.cached_tokens, tool_calls=event.tool_calls, latency_us=event.latency_us,
        overhead_us=event.overhead_us, resolves=event.resolves,
    )  # fmt: skip


def _is_repeat(event: RequestRefused, memory: Memory) -> bool:
    """Of a refusal whose recording was in doubt when its node was fenced: the next log may hold it again."""
    return not memory.tell(refusal_name(event.request_id, event.code, event.first_at_ns))


def _count(row: Row, event: RequestSettled, memory: Memory) -> None:
    """What the settlement counts: its actual figures, and for an object the difference (rule S2)."""
    if event.outcome != "settled" or not memory.tell(attempt_name(event.request_id, event.attempt)):
        return
    spent, refunded = event.actual.usd, event.actual.refund
    if event.object is not None:
        difference = _difference(row["seq"], event, event.object, memory)
        row.update(object=event.object.ref, exposure_usd=usd(event.object.exposure_nanos), meter=event.object.meter)
        if event.object.meter == "usd":
            spent = difference
        else:
            refunded = difference
    row.update(actual_usd=usd(spent), refund_usd=usd(refunded))


def _difference(seq: int, event: RequestSettled, told: ObjectExposure, memory: Memory) -> int:
    place = place_of(told)
    known = memory.objects.get(place, Known())
    since_seq = 0 if event.resolves else memory.since.get(attempt_name(event.request_id, event.attempt), 0)
    counted = exposure_after(known.counted, known.final, told, is_newest(known.told_seq, since_seq))
    memory.objects[place] = Known(counted, seq, known.final or told.final)
    return counted - known.counted


def _released(row: Row, event: RequestReleased) -> None:
    row.update(request_id=event.request_id, reason=event.reason, outcome="released")
    if event.at_ns:
        row["at"] = event.at_ns


def _reconciled(row: Row, event: RequestReconciled) -> None:
    row.update(
        request_id=event.request_id, actual_usd=usd(event.actual.usd), refund_usd=usd(event.actual.refund),
        subject=f"request:{event.request_id}",
    )  # fmt: skip


def _fence(row: Row, event: Fenced | FenceOpened) -> None:
    row.update(subject=event.actor, reason=getattr(event, "reason", ""))


def _alert(row: Row, event: AlertRaised | AlertCleared) -> None:
    row.update(at=event.at_ns, subject=f"alert:{event.kind}:{event.subject}", operator_name=SYSTEM.name)
    row.update(message=event.message, reason=event.message)


def _distrusted(row: Row, event: Distrusted) -> None:
    row.update(subject=event.subject, reason="no node writes this")


def _node(row: Row, event: NodeJoined | NodeFenced) -> None:
    row.update(subject=event.incarnation, reason=getattr(event, "reason", ""))


def _who(row: Row, who: Who) -> None:
    for field in Who.__struct_fields__:
        row[field] = getattr(who, field)


_FILLERS: dict[type, Callable[[Row, Any], None]] = {
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


def _json(event: Any) -> str:
    """The event as JSON. Digests of tokens are of no use to a reader, and best kept where they are needed."""
    if type(event) not in _WITH_DIGEST:
        return _encoder.encode(event).decode()
    fields = msgspec.to_builtins(event)
    fields.pop("token_sha256", None)
    return _encoder.encode(fields).decode()


def as_values(row: Row) -> list[Any]:
    """The row's values in the table's order, as the table has them."""
    return [_as_value(row.get(name), kind) for name, kind in COLUMNS.items()]


def _as_value(value: Any, kind: str) -> Any:
    if kind.startswith("Decimal"):
        return Decimal(value or 0) / NANOS_PER_USD
    return value or ("" if "String" in kind else 0)
