"""The observer's own books: what both logs say, folded by code that shares nothing with `events.state`.

It reads the raw JSON of each message at the moment when the stream stores it, so it knows the true order over both
streams, which no actor does. An account is `kind:id`, a *spot* is (account, meter, window, start); each account's
windows turn in one zone from the story's beginning to its end.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

METERS = ("usd", "refund", "requests", "tokens")
WINDOWS = ("hour", "day", "month", "total")

Spot = tuple[str, str, str, int]
Vector = tuple[int, int, int, int]


QUARTER_S = 900


def start_of(window: str, at_ns: int, zone: str = "UTC") -> int:
    """Unix seconds at which the window began."""
    return 0 if window == "total" else _start_of(window, at_ns // 1_000_000_000 // QUARTER_S, zone)


@lru_cache(maxsize=10_000)
def _start_of(window: str, quarter: int, zone: str) -> int:
    """By looking: the first of the quarters before this one, without a gap, on which the local clock reads alike."""
    here = _reading(window, quarter, zone)
    while _reading(window, quarter - 1, zone) == here:
        quarter -= 1
    return quarter * QUARTER_S


def _reading(window: str, quarter: int, zone: str) -> tuple[Any, ...]:
    local = datetime.fromtimestamp(quarter * QUARTER_S, UTC).astimezone(ZoneInfo(zone))
    match window:
        case "hour":
            return local.date(), local.hour, local.utcoffset()
        case "day":
            return (local.date(),)
        case _:
            return local.year, local.month


@dataclass(slots=True)
class Request:
    """One admitted request. `ended`: "" while it holds its bound. `told`: an answer to another attempt said what it did."""

    id: str
    actor: str
    key: str
    accounts: tuple[str, ...]
    at_ns: int
    bound: Vector
    stored_ns: int
    lines: tuple[str, ...]
    ended: str = ""
    unknown: bool = False
    idempotency: str = ""
    told: bool = False
    counted: Vector | None = None
    stored_seq: int = 0
    actual: Vector = (0, 0, 0, 0)


@dataclass(slots=True)
class Object:
    """A vendor's object: what is counted, and which requests were charged, oldest first.

    `told_seq`: where the newest answer about it is stored. `final`: it will not change any more.
    """

    counted: int = 0
    told_seq: int = 0
    final: bool = False
    charges: list[tuple[Request, int]] = field(default_factory=list)


class Books:
    """Figures by spot. `changed` names the spots that the last message moved; `zones`: accounts that are not in UTC."""

    def __init__(self) -> None:
        self.zones: dict[str, str] = {}
        self.requests: dict[str, Request] = {}
        self.settled: dict[Spot, int] = defaultdict(int)
        self.held: dict[Spot, int] = defaultdict(int)
        self.overrun: dict[Spot, int] = defaultdict(int)
        self.objects: dict[str, Object] = defaultdict(Object)
        self.changed: set[Spot] = set()

    def occupied(self, spot: Spot) -> int:
        return self.settled[spot] + self.held[spot]

    def spots_of(self, accounts: tuple[str, ...], at_ns: int) -> list[tuple[int, Spot]]:
        """(meter's index, spot) of everything that a request at that time is counted in."""
        spots = []
        for account in accounts:
            zone = self.zones.get(account, "UTC")
            starts = [(window, start_of(window, at_ns, zone)) for window in WINDOWS]
            spots += [
                (index, (account, meter, window, start))
                for index, meter in enumerate(METERS)
                for window, start in starts
            ]
        return spots

    def admit(self, actor: str, raw: dict[str, Any], stored_ns: int, stored_seq: int) -> Request | None:
        """None for a repeat."""
        if raw["request_id"] in self.requests:
            return None
        who = raw["who"]
        accounts = [f"key:{who['key']}", f"agent:{who['agent']}"]
        if who.get("owner"):
            accounts.append(f"team:{who['owner']}")
        accounts.append("org:default")
        bound = _vector(raw["bound"])
        request = Request(
            raw["request_id"],
            actor,
            who["key"],
            tuple(accounts),
            raw["at_ns"],
            bound,
            stored_ns,
            tuple(raw.get("lines", ())),
        )
        request.idempotency = raw.get("idempotency", "")
        request.stored_seq = stored_seq
        self.requests[request.id] = request
        self._move(request, self.held, bound)
        return request

    def fence(self, actor: str) -> None:
        """What a fenced incarnation admitted is of unknown outcome, until another one says better."""
        for request in self.requests.values():
            if request.actor == actor and not request.ended:
                self._lose(request)

    def release(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request is not None and not request.ended:
            self._close(request, "released", (0, 0, 0, 0))

    def settle(self, raw: dict[str, Any], stored_seq: int) -> None:
        if raw.get("resolves"):
            self._resolve(raw)
        request = self.requests.get(raw["request_id"])
        if request is None or request.ended:
            return
        if raw["outcome"] == "unknown":
            self._lose(request)
            return
        actual = list(_vector(raw.get("actual", (0, 0, 0, 0))))
        cost = list(actual)
        thing = raw.get("object")
        if thing is not None:
            meter = METERS.index(thing.get("meter", "usd"))
            exposure = self._exposure(request, thing, stored_seq, replayed=bool(raw.get("resolves")))
            cost[meter] = self._count(request, thing["ref"], meter, exposure)
            actual[meter] = 0  # counted by difference, just now
        request.actual = (cost[0], cost[1], cost[2], cost[3])
        self._overran(request, request.actual)
        self._close(request, "settled", (actual[0], actual[1], actual[2], actual[3]))

    def reconcile(self, raw: dict[str, Any]) -> None:
        """An operator's figure takes the place of the hold, or of the figure before."""
        request = self.requests.get(raw["request_id"])
        if request is None or request.ended:
            return
        figure = _vector(raw["actual"])
        self._overran(request, figure)
        if request.counted is None:
            self._move(request, self.held, _minus((0, 0, 0, 0), request.bound))
        before = request.counted or (0, 0, 0, 0)
        self._move(request, self.settled, _minus(figure, before))
        request.counted = figure

    def _overran(self, request: Request, cost: Vector) -> None:
        """What the vendor took above the bound; an operator's figure says it until the answer does."""
        for index, spot in self.spots_of(request.accounts, request.at_ns):
            known = max(0, request.counted[index] - request.bound[index]) if request.counted is not None else 0
            self.overrun[spot] += max(0, cost[index] - request.bound[index]) - known

    def _exposure(self, request: Request, thing: dict[str, Any], stored_seq: int, *, replayed: bool) -> int:
        """What counts for an object from now on (S2): in doubt which answer is the older, the higher one."""
        known, told, final = self.objects[thing["ref"]], thing["exposure_nanos"], thing.get("final", False)
        certain = known.told_seq <= request.stored_seq and not replayed
        if not certain:
            told = max(told, known.counted) if known.final == final else told if final else known.counted
        known.told_seq = stored_seq
        known.final = known.final or final
        return int(told)

    def _count(self, request: Request, ref: str, meter: int, exposure: int) -> int:
        """Move the books by the difference of an object's exposure; what the request was charged."""
        thing = self.objects[ref]
        difference = exposure - thing.counted
        thing.counted = exposure
        if difference > 0:
            thing.charges.append((request, difference))
            self._add(request, meter, difference)
            return difference
        while difference < 0 and thing.charges:
            charged, amount = thing.charges.pop()
            part = min(amount, -difference)
            difference += part
            self._add(charged, meter, -part)
            if amount > part:
                thing.charges.append((charged, amount - part))
        return 0

    def _lose(self, request: Request) -> None:
        request.unknown = True
        if request.told and not request.ended:
            self._close(request, "resolved", (0, 0, request.bound[2], 0))

    def _resolve(self, raw: dict[str, Any]) -> None:
        """An answer was replayed: all other attempts under the same idempotency key, of the last day, are told."""
        for request in self.requests.values():
            same = request.idempotency == raw["resolves"] and request.id != raw["request_id"]
            if same and not request.ended and raw["at_ns"] - request.at_ns <= 86_400 * 10**9:
                request.told = True
                if request.unknown:
                    self._lose(request)

    def _close(self, request: Request, how: str, cost: Vector) -> None:
        request.ended = how
        if request.counted is None:
            self._move(request, self.held, _minus((0, 0, 0, 0), request.bound))
        self._move(request, self.settled, _minus(cost, request.counted or (0, 0, 0, 0)))

    def _move(self, request: Request, figures: dict[Spot, int], amounts: Vector) -> None:
        for index, spot in self.spots_of(request.accounts, request.at_ns):
            if amounts[index]:
                figures[spot] += amounts[index]
                self.changed.add(spot)

    def _add(self, request: Request, meter: int, amount: int) -> None:
        for index, spot in self.spots_of(request.accounts, request.at_ns):
            if index == meter:
                self.settled[spot] += amount
                self.changed.add(spot)


def read_batch(payload: bytes) -> dict[str, Any]:
    """A log message as it is: `{actor, n, at_ns, events}`."""
    batch: dict[str, Any] = json.loads(payload)
    return batch


def _vector(amounts: Any) -> Vector:
    usd, refund, requests, tokens = (*amounts, 0, 0, 0, 0)[:4]
    return usd, refund, requests, tokens


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]
