"""The simulated vendor, with books of its own: it moves money, and knows nothing of caps.

A call says in advance what will happen to it (the seed decides): whether it arrives, what it moves, when, and whether
its answer comes back. The vendor is outside of every process: a call that has left goes on when its sender dies.
"""

import asyncio
import contextvars
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from sim.books import METERS, Request
from sim.observer import Observer


@dataclass(frozen=True, slots=True)
class Plan:
    """A call's fate. `moves`: of the meter, at `acts_s` after the send; for an object its whole exposure from then on.

    `arrives_s` infinite: the call is lost on its way. `answers_s` infinite: the answer is. `chunks`: a stream's,
    one every `chunk_s` after the answer began; it moves its money by then. `last`: a capture or a cancel, after which
    the object changes no more; `reads`: it only asks how the object is.
    """

    moves: int
    meter: str = "usd"
    acts_s: float = 0.01
    answers_s: float = 0.02
    ref: str = ""
    chunks: int = 0
    chunk_s: float = 0.05
    declined: bool = False
    last: bool = False
    reads: bool = False


class Answer(NamedTuple):
    """What the vendor says: what it moved, or the object's exposure now."""

    moved: int
    exposure: int | None = None
    replayed: bool = False
    final: bool = False


@dataclass(slots=True)
class _Thing:
    exposure: int = 0
    final: bool = False
    charges: list[tuple[Request, int]] = field(default_factory=list)


class Vendor:
    """`moved` by request id: what its call moved in the vendor's own books."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.moved: dict[str, int] = {}
        self.things: dict[str, _Thing] = {}
        self._answered: dict[str, Answer] = {}
        self.under_way: set[str] = set()
        """Requests of which a call has not been carried out yet, and will be."""

    def call(self, request_id: str, key: str, plan: Plan, idempotency: str = "") -> "asyncio.Future[Answer]":
        """A request leaves for the vendor in this very step. Under one idempotency key it is carried out once."""
        self._observer.dispatched(request_id, key, plan.ref)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if plan.acts_s < math.inf:
            self.under_way.add(request_id)
        self._later(plan.acts_s, partial(self._act, request_id, plan, idempotency, answer))
        return answer

    def exposures(self) -> dict[str, int]:
        """What each object has moved or may still move."""
        return {ref: thing.exposure for ref, thing in self.things.items()}

    def _act(self, request_id: str, plan: Plan, idempotency: str, answer: "asyncio.Future[Answer]") -> None:
        self.under_way.discard(request_id)
        request = self._observer.books.requests.get(request_id)
        if request is None:
            return  # the observer has blamed it already
        meter = METERS.index(plan.meter)
        if idempotency in self._answered:
            said = self._answered[idempotency]._replace(replayed=True)
        elif plan.declined:
            thing = self.things.get(plan.ref, _Thing())
            said = Answer(0, thing.exposure if plan.ref in self.things else None, final=thing.final)
        elif plan.ref:
            said = self._move_thing(request, meter, plan)
        else:
            self.moved[request_id] = self.moved.get(request_id, 0) + plan.moves
            self._observer.moved(request, meter, plan.moves, max(0, plan.moves - request.bound[meter]))
            said = Answer(plan.moves)
        if idempotency:
            self._answered.setdefault(idempotency, said)
        self._later(plan.answers_s, partial(_answer, answer, said))

    def _move_thing(self, request: Request, meter: int, plan: Plan) -> Answer:
        thing = self.things.setdefault(plan.ref, _Thing())
        if thing.final or plan.reads:
            return Answer(0, thing.exposure, final=thing.final)
        thing.final = plan.last
        difference = plan.moves - thing.exposure
        thing.exposure = plan.moves
        self._observer.things[plan.ref] = plan.moves
        if difference > 0:
            thing.charges.append((request, difference))
            self.moved[request.id] = self.moved.get(request.id, 0) + difference
            self._observer.moved(request, meter, difference, max(0, difference - request.bound[meter]))
        while difference < 0 and thing.charges:
            charged, amount = thing.charges.pop()
            part = min(amount, -difference)
            difference += part
            self._observer.moved(charged, meter, -part, 0)
            if amount > part:
                thing.charges.append((charged, amount - part))
        return Answer(0, thing.exposure, final=thing.final)

    @staticmethod
    def _later(delay_s: float, act: Callable[[], None]) -> None:
        if delay_s < math.inf:
            asyncio.get_running_loop().call_later(delay_s, act, context=contextvars.Context())


def _answer(answer: "asyncio.Future[Answer]", said: Answer) -> None:
    if not answer.done():
        answer.set_result(said)
