"""What a message of a node's log must be before anybody believes it: the door between what nodes write and all folds.

A node's credential lets its holder append any bytes to its slot's logs (events.subjects), and the server cannot look
inside. So what comes from there is checked once, here, by everybody who reads it:

- it says who wrote it, and that is the incarnation whose log it stands in, of the slot whose log it is;
- it holds nothing but what nodes record: no fence, no mark, nothing of the control log;
- its figures are possible: no negative bound or cost, which would give money to everybody, and no time or line that
  no calendar knows, at which arithmetic elsewhere would stop.

A message that fails is not believed in part: its writer has a defect or is not ours (events.state.node_logs).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from events.codec import Batch, CodecError, decode_batch
from events.subjects import NodeSubject
from events.types import (
    Applied,
    Heartbeat,
    LeaseReturned,
    NodeStarted,
    NodeStopped,
    ObjectExposure,
    RequestAdmitted,
    RequestRefused,
    RequestReleased,
    RequestRevalidated,
    RequestSettled,
)
from schemas.accounts import KINDS, LEASED_WINDOWS, METERS, Span, split_line
from schemas.amounts import Amounts
from schemas.ids import slot_of

MOST = 2**63
"""No amount comes near it: nine billion dollars."""

LATEST_NS = 2**62
"""The year 2116, before any calendar or column ends."""

LATEST_S = LATEST_NS // 1_000_000_000

MAX_COUNT = 2**32
"""Of attempts and of tool calls."""

MAX_STATUS = 2**16

_KINDS = tuple(f"{kind}:" for kind in KINDS)


def read_node_batch(owner: NodeSubject, payload: bytes) -> Batch | None:
    """The batch, if it is one that a node of ours could have written to that log; None if not."""
    try:
        batch = decode_batch(payload)
    except CodecError:
        return None
    if batch.actor != owner.incarnation or slot_of(owner.incarnation) != owner.slot:
        return None
    if not (0 < batch.n < LATEST_NS and _is_time(batch.at_ns)):
        return None
    for event in batch.events:
        check = _CHECKS.get(type(event))
        if check is None or not check(event):
            return None
    return batch


@lru_cache(65_536)
def is_line(key: str) -> bool:
    """Whether a text is a line that can be lent. Kept, because every admission names a few."""
    try:
        account, span = split_line(key)
    except ValueError:
        return False
    return account.startswith(_KINDS) and _can_be_lent(span)


@lru_cache(4_096)
def _can_be_lent(span: Span) -> bool:
    return span.meter in METERS and span.window in LEASED_WINDOWS and 0 <= span.start_s < LATEST_S


def _is_time(at_ns: int) -> bool:
    return 0 <= at_ns < LATEST_NS


def _are_amounts(amounts: Amounts) -> bool:
    usd, refund, requests, tokens = amounts.usd, amounts.refund, amounts.requests, amounts.tokens
    return 0 <= usd < MOST and 0 <= refund < MOST and 0 <= requests < MOST and 0 <= tokens < MOST


def _admitted(event: RequestAdmitted) -> bool:
    return (
        _are_amounts(event.bound)
        and _is_time(event.at_ns)
        and 0 < event.attempt < MAX_COUNT
        and "/" not in event.who.key  # parts a key from its agent where the fold writes itself down
        and all(map(is_line, event.lines))
    )


def _settled(event: RequestSettled) -> bool:
    return (
        _are_amounts(event.actual)
        and _is_time(event.at_ns)
        and 0 < event.attempt < MAX_COUNT
        and 0 <= event.status < MAX_STATUS
        and 0 <= event.tool_calls < MAX_COUNT
        and 0 <= event.input_tokens < MOST
        and 0 <= event.output_tokens < MOST
        and 0 <= event.cached_tokens < MOST
        and 0 <= event.latency_us < LATEST_NS
        and 0 <= event.overhead_us < LATEST_NS
        and (event.object is None or _exposed(event.object))
    )


def _exposed(told: ObjectExposure) -> bool:
    return 0 <= told.exposure_nanos < MOST and told.amount_minor >= 0


def _released(event: RequestReleased) -> bool:
    return _is_time(event.at_ns) and 0 < event.attempt < MAX_COUNT


def _refused(event: RequestRefused) -> bool:
    return (
        _are_amounts(event.bound)
        and _is_time(event.first_at_ns)
        and _is_time(event.last_at_ns)
        and 0 < event.count < MOST
        and 0 <= event.status < MAX_STATUS
    )


def _returned(event: LeaseReturned) -> bool:
    return all(0 <= amount < MOST and is_line(line) for line, amount in event.returned.items())


def _fine(_: Any) -> bool:
    return True


_CHECKS: dict[type, Callable[[Any], bool]] = {
    RequestAdmitted: _admitted,
    RequestSettled: _settled,
    RequestReleased: _released,
    RequestRefused: _refused,
    RequestRevalidated: _fine,
    LeaseReturned: _returned,
    Applied: lambda event: 0 <= event.through < LATEST_NS,
    NodeStarted: lambda event: _is_time(event.at_ns),
    NodeStopped: lambda event: _is_time(event.at_ns),
    Heartbeat: _fine,
}
"""Everything that a node records, and what must be true of it."""
