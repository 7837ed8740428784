"""Requests between their intent and their end.

| state | meaning | a fence, or a change that forbids it | ends by |
|---|---|---|---|
| waiting | the intent is on its way to the log | released, at once | `release` |
| admitted | the intent is acknowledged, nothing is sent | released, at once | `release` |
| sent | bytes may have left | cut if it is a stream, else it ends normally | `settle` |
| ended | settled or released | - | - |

A request in `waiting` or `admitted` that must not go out carries the reason in `refusal`; so does a sent one whose
stream was cut. It ends once, whoever is first.
"""

import asyncio
from collections.abc import Callable, Iterator
from enum import IntEnum

from dataplane.core.access import Caller
from dataplane.core.ratelimit import Take, Taken
from dataplane.core.wanted import Wanted
from dataplane.leases import LeaseDesk
from events.log.group import Appended
from events.log.writer import SoleWriterLog
from events.types import NodeEvent
from schemas.refusals import Refusal

__all__ = ["Admission", "InFlight", "Incarnation", "State", "Wanted"]


class State(IntEnum):
    WAITING = 0
    ADMITTED = 1
    SENT = 2
    ENDED = 3


class Incarnation:
    """One incarnation of this node: its log, its leases, and whether it is over."""

    __slots__ = ("applied", "desk", "id", "joined_seq", "log", "over")

    def __init__(self, name: str, log: SoleWriterLog[NodeEvent], desk: LeaseDesk, joined_seq: int) -> None:
        self.id = name
        self.log = log
        self.desk = desk
        self.joined_seq = joined_seq
        self.applied = 0
        self.over = False


class Admission:
    """One admitted request. `mark`: when it reserved, by its desk's count.

    `since_ns`: when its intent was queued, `sent_ns`: when the write to the vendor was allowed (elapsed).
    `on_cut` is called once if it was sent and must stop; whoever relays it sets it.
    """

    __slots__ = (
        "appended",
        "at_ns",
        "caller",
        "incarnation",
        "intent",
        "mark",
        "needs",
        "on_cut",
        "refusal",
        "request_id",
        "sent_ns",
        "since_ns",
        "state",
        "taken",
        "takes",
        "wanted",
    )

    def __init__(
        self,
        request_id: str,
        wanted: Wanted,
        caller: Caller,
        incarnation: Incarnation,
        needs: dict[str, int],
        takes: list[Take],
        taken: list[Taken],
    ) -> None:
        self.request_id = request_id
        self.wanted = wanted
        self.caller = caller
        self.incarnation = incarnation
        self.needs = needs
        self.takes = takes
        self.taken = taken
        self.at_ns = 0
        self.mark = 0
        self.since_ns = 0
        self.sent_ns = 0
        self.state = State.WAITING
        self.refusal: Refusal | None = None
        self.intent: asyncio.Future[Appended] | None = None
        self.appended: Appended | None = None
        self.on_cut: Callable[[Refusal], None] | None = None

    @property
    def unsent(self) -> bool:
        return self.state < State.SENT


class InFlight:
    """All requests that have not ended, by id."""

    def __init__(self) -> None:
        self._admissions: dict[str, Admission] = {}

    def __len__(self) -> int:
        return len(self._admissions)

    def __iter__(self) -> Iterator[Admission]:
        """Over a copy: what is found may end meanwhile."""
        return iter(tuple(self._admissions.values()))

    def add(self, admission: Admission) -> None:
        self._admissions[admission.request_id] = admission

    def remove(self, admission: Admission) -> None:
        self._admissions.pop(admission.request_id, None)
