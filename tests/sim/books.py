"""The observer's own books: what both logs say, folded by code that shares nothing with `events.state`.

It reads the raw JSON of each message at the moment when the stream stores it, so it knows the true order over both
streams, which no actor does. Windows are UTC. An account is `kind:id`, a *spot* is (account, meter, window, start).
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

METERS = ("usd", "refund", "requests", "tokens")
WINDOWS = ("hour", "day", "month", "total")

Spot = tuple[str, str, str, int]
Vector = tuple[int, int, int, int]


def start_of(window: str, at_ns: int) -> int:
    """Unix seconds at which the window began."""
    at_s = at_ns // 1_000_000_000
    match window:
        case "hour":
            return at_s // 3600 * 3600
        case "day":
            return at_s // 86400 * 86400
        case "month":
            then = time.gmtime(at_s)
            return (at_s // 86400 - (then.tm_mday - 1)) * 86400
        case _:
            return 0


def spots_of(accounts: tuple[str, ...], at_ns: int) -> list[tuple[int, Spot]]:
    """(meter's index, spot) of everything that a request at that time is counted in."""
    starts = [(window, start_of(window, at_ns)) for window in WINDOWS]
    return [
        (index, (account, meter, window, start))
        for account in accounts
        for index, meter in enumerate(METERS)
        for window, start in starts
    ]


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
    actual: Vector = (0, 0, 0, 0)


@dataclass(slots=True)
class Object:
    """A vendor's object: what is counted, and which requests were charged, oldest first.

    `disordered`: an answer came into the log although its call had gone out before an answer that is counted already,
    through another node. Which of the two is the newer nobody can tell, and the later one in the log counts.
    """

    counted: int = 0
    counted_ns: int = -1
    disordered: bool = False
    charges: list[tuple[Request, int]] = field(default_factory=list)


class Books:
    """Figures by spot. `changed` names the spots that the last message moved."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.settled: dict[Spot, int] = defaultdict(int)
        self.held: dict[Spot, int] = defaultdict(int)
        self.overrun: dict[Spot, int] = defaultdict(int)
        self.objects: dict[str, Object] = defaultdict(Object)
        self.changed: set[Spot] = set()

    def occupied(self, spot: Spot) -> int:
        return self.settled[spot] + self.held[spot]

    def admit(self, actor: str, raw: dict[str, Any], stored_ns: int) -> Request | None:
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

    def settle(self, raw: dict[str, Any], stored_ns: int) -> None:
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
            known = self.objects[thing["ref"]]
            known.disordered = known.disordered or request.stored_ns < known.counted_ns
            known.counted_ns = stored_ns
            cost[meter] = self._count(request, thing["ref"], meter, thing["exposure_nanos"])
            actual[meter] = 0  # counted by difference, just now
        for index, spot in spots_of(request.accounts, request.at_ns):
            over = cost[index] - request.bound[index]
            if over > 0:
                self.overrun[spot] += over
        request.actual = (cost[0], cost[1], cost[2], cost[3])
        self._close(request, "settled", (actual[0], actual[1], actual[2], actual[3]))

    def reconcile(self, raw: dict[str, Any]) -> None:
        """An operator's figure takes the place of the hold, or of the figure before."""
        request = self.requests.get(raw["request_id"])
        if request is None or request.ended:
            return
        figure = _vector(raw["actual"])
        if request.counted is None:
            self._move(request, self.held, _minus((0, 0, 0, 0), request.bound))
        before = request.counted or (0, 0, 0, 0)
        self._move(request, self.settled, _minus(figure, before))
        request.counted = figure

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
        for index, spot in spots_of(request.accounts, request.at_ns):
            if amounts[index]:
                figures[spot] += amounts[index]
                self.changed.add(spot)

    def _add(self, request: Request, meter: int, amount: int) -> None:
        for index, spot in spots_of(request.accounts, request.at_ns):
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
