"""Calls as an adapter gets them, answers as a vendor gives them, and a little ledger for both."""

import json
from functools import cache
from typing import Any
from urllib.parse import urlencode

from dataplane.adapters.port import Adapter, Call, Outcome, Reading
from dataplane.adapters.registry import build_adapter
from dataplane.adapters.scan import scan
from events.types import ObjectExposure
from schemas.amounts import Amounts
from schemas.fx import Fx, build_fx
from schemas.price_file import packaged_text, parse_prices
from schemas.prices import PriceList
from schemas.refusals import Refusal
from schemas.rpc import ObjectAnswer
from schemas.settings import FxRates, Upstream

TOKEN = "rfk_" + "a" * 43
KEY_ID = "vk_0123456789abcdefghijkl"
FORM = b"application/x-www-form-urlencoded"
JSON_TYPE = (b"Content-Type", b"application/json")
SSE_TYPE = (b"Content-Type", b"text/event-stream; charset=utf-8")


@cache
def packaged_prices() -> PriceList:
    """Immutable, so that one is enough for all tests."""
    return parse_prices(packaged_text())


def rates(**settings: Any) -> Fx:
    return build_fx(FxRates(rates={"eur": "1.10", "jpy": "0.007", "kwd": "3.25", "ugx": "0.0003"}, **settings))


def stripe_adapter(**settings: Any) -> Adapter:
    return build_adapter("stripe", "stripe", Upstream(adapter="stripe", **settings), packaged_prices(), rates())


def openai_adapter(**settings: Any) -> Adapter:
    return build_adapter("openai", "openai", Upstream(adapter="openai", **settings), packaged_prices(), rates())


def call(
    method: str, path: str, body: bytes = b"", *, query: bytes = b"", upstream: str = "u", **headers: str | None
) -> Call:
    """`headers` by names with '_' for '-'; None leaves a default one out."""
    sent: dict[str, str | None] = {
        "Authorization": f"Bearer {TOKEN}",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    pairs = [(name.encode(), value.encode()) for name, value in sent.items() if value is not None]
    return Call(upstream, method, path, tuple(path[1:].split("/")), query, scan(pairs), body)


def post_form(path: str, fields: dict[str, Any] | bytes, **headers: str | None) -> Call:
    body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    sent: dict[str, Any] = {"Content_Type": FORM.decode(), **headers}
    return call("POST", path, body, **sent)


def post_json(path: str, value: Any, **headers: str | None) -> Call:
    body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    sent: dict[str, Any] = {"Content_Type": "application/json", **headers}
    return call("POST", path, body, **sent)


def read(adapter: Adapter, made: Call) -> Reading:
    reading = adapter.read(made)
    assert isinstance(reading, Reading), reading
    return reading


def refused(value: object) -> str:
    assert isinstance(value, Refusal), value
    return value.code


def bound(adapter: Adapter, made: Call, known: ObjectAnswer | None = None) -> Amounts:
    most = adapter.bound(made, read(adapter, made), known)
    assert isinstance(most, Amounts), most
    return most


def answer(
    adapter: Adapter,
    made: Call,
    body: bytes | dict[str, Any],
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    complete: bool = True,
    step: int = 0,
) -> Outcome:
    """The outcome of one answer, fed whole or in steps of so many bytes; what it relays must be the body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    meter = adapter.meter(made, read(adapter, made), status, [JSON_TYPE] if headers is None else headers)
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)] if step else [raw]
    relayed = b"".join(meter.feed(piece) for piece in pieces) + meter.flush()
    assert relayed == raw
    return meter.finish(complete=complete)


class ObjectBook:
    """Objects as the ledger folds them: exposure by reference, and the difference that each outcome makes."""

    def __init__(self) -> None:
        self.objects: dict[str, ObjectExposure] = {}

    def known(self, ref: str) -> ObjectAnswer | None:
        if not ref:
            return None
        seen = self.objects.get(ref)
        if seen is None:
            return ObjectAnswer(ref)
        return ObjectAnswer(ref, seen.exposure_nanos, seen.amount_minor, seen.currency)

    def count(self, outcome: Outcome, *, resolves: bool = False) -> int:
        """Fold an outcome; what it adds to the settled figures of its object's meter (negative: gives back).

        A replay shows an object as it was: it counts only for an object never seen, or where it resolves an
        attempt of unknown outcome and raises what is counted (dataplane.adapters.port.Outcome).
        """
        found = outcome.object
        if found is None:
            return 0
        before = self.objects.get(found.ref)
        counted = 0 if before is None else before.exposure_nanos
        if outcome.replayed and before is not None and not (resolves and found.exposure_nanos > counted):
            return 0
        self.objects[found.ref] = found
        return found.exposure_nanos - counted
