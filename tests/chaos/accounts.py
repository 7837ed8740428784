"""What the node log says of dollars, folded by code that shares nothing with `events.state`.

Only what a storm's load can do: charges that are confirmed at once, calls repeated under their idempotency key,
chats. A *spot* is (account, window, its start in Unix seconds). Amounts are nano-dollars.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

Spot = tuple[str, str, int]

DAY_S = 86_400
WINDOWS = ("total", "day")
"""The windows in which the load has caps."""


@dataclass(slots=True)
class Request:
    """One admitted request. `ended`: "" while it holds its bound. `told`: an answer to another try said what it did.
    `stored_ns`: when its intent was stored, by the server's clock.
    """

    id: str
    actor: str
    key: str
    accounts: tuple[str, ...]
    at_ns: int
    bound: int
    ended: str = ""
    unknown: bool = False
    idempotency: str = ""
    told: bool = False
    actual: int = 0
    stored_ns: int = 0

    @property
    def state(self) -> str:
        return self.ended or ("unknown" if self.unknown else "open")

    def spots(self) -> list[Spot]:
        day = self.at_ns // (DAY_S * 10**9) * DAY_S
        return [(account, window, day if window == "day" else 0) for account in self.accounts for window in WINDOWS]


@dataclass
class Accounts:
    """Figures by spot. `changed` names the spots that were moved since somebody last looked."""

    requests: dict[str, Request] = field(default_factory=dict)
    settled: dict[Spot, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[Spot, int] = field(default_factory=lambda: defaultdict(int))
    overrun: dict[Spot, int] = field(default_factory=lambda: defaultdict(int))
    changed: set[Spot] = field(default_factory=set)
    _objects: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _alike: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))

    def occupied(self, spot: Spot) -> int:
        return self.settled[spot] + self.held[spot]

    def admit(self, actor: str, event: dict[str, Any]) -> Request | None:
        """None for a repeat."""
        name, who = event["request_id"], event["who"]
        if name in self.requests:
            return None
        accounts = (f"key:{who['key']}", f"agent:{who['agent']}")
        bound = (*event.get("bound", ()), 0)[0]
        request = Request(name, actor, who["key"], accounts, event["at_ns"], bound)
        request.idempotency = event.get("idempotency", "")
        if request.idempotency:
            self._alike[request.idempotency].append(request)
        self.requests[name] = request
        self._move(request, self.held, bound)
        return request

    def settle(self, event: dict[str, Any]) -> None:
        if event.get("resolves"):
            self._resolve(event)
        request = self.requests.get(event["request_id"])
        if request is None or request.ended:
            return
        if event["outcome"] == "unknown":
            self._lose(request)
            return
        cost = (*event.get("actual", ()), 0)[0]
        thing = event.get("object")
        if thing is not None:
            cost = thing["exposure_nanos"] - self._objects[thing["ref"]]
            self._objects[thing["ref"]] = thing["exposure_nanos"]
        for spot in request.spots():
            self.overrun[spot] += max(0, cost - request.bound)
        request.actual = cost
        self._close(request, "settled", cost)

    def release(self, name: str) -> None:
        request = self.requests.get(name)
        if request is not None and not request.ended:
            self._close(request, "released", 0)

    def fence(self, actor: str) -> None:
        """What a fenced incarnation admitted is of unknown outcome, until another one says better."""
        for request in self.requests.values():
            if request.actor == actor and not request.ended:
                self._lose(request)

    def _resolve(self, event: dict[str, Any]) -> None:
        """A replayed answer tells what all other tries under its idempotency key did (rule S1)."""
        for request in self._alike[event["resolves"]]:
            if request.id != event["request_id"] and not request.ended:
                request.told = True
                if request.unknown:
                    self._lose(request)

    def _lose(self, request: Request) -> None:
        request.unknown = True
        if request.told and not request.ended:
            self._close(request, "resolved", 0)

    def _close(self, request: Request, how: str, cost: int) -> None:
        request.ended = how
        self._move(request, self.held, -request.bound)
        self._move(request, self.settled, cost)

    def _move(self, request: Request, figures: dict[Spot, int], amount: int) -> None:
        for spot in request.spots():
            figures[spot] += amount
            self.changed.add(spot)
