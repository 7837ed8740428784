"""Bytes of a log message: one batch of events as JSON, readable with any NATS tool.

A batch is `{"v": 1, "actor", "n", "at_ns", "events": [...]}`: the actor (an incarnation or a control plane's
epoch name), its counter n from 1 without gaps (rule L5), the actor's wall clock for readers (never for safety).
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from events.types import Event
from events.upcast import UPCASTERS

BATCH_VERSION = 1


class Batch(msgspec.Struct, frozen=True, gc=False):
    actor: str
    n: int
    at_ns: int
    events: tuple[Event, ...]
    v: int = BATCH_VERSION


class CodecError(ValueError):
    """The bytes are no batch of this or an older version. A fold stops here rather than skip spending."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Batch)


def encode_batch(actor: str, n: int, at_ns: int, events: Sequence[Event]) -> bytes:
    return _encoder.encode(Batch(actor, n, at_ns, tuple(events)))


def decode_batch(payload: bytes) -> Batch:
    """Decode a batch of any version ever written. Raises CodecError."""
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        return _decode_old(payload, error)


def _decode_old(payload: bytes, first_error: Exception) -> Batch:
    """The slow way: raise old events to today's shape, then convert strictly."""
    try:
        raw = msgspec.json.decode(payload)
        if not isinstance(raw, dict) or raw.get("v") != BATCH_VERSION or not isinstance(raw.get("events"), list):
            raise CodecError("not a batch of this version")
        raw["events"] = [upcast(event, UPCASTERS) for event in raw["events"]]
        return msgspec.convert(raw, Batch)
    except msgspec.DecodeError:
        raise CodecError(f"undecodable batch: {first_error}") from None


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


def upcast(event: Any, upcasters: dict[str, Upcaster]) -> Any:
    """Apply upcasters until the event's tag has none. Each raises the tag, so this ends."""
    while isinstance(event, dict) and (step := upcasters.get(event.get("t", ""))) is not None:
        event = step(event)
    return event
