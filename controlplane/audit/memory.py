"""What the audit's rows need of the events before them: which requests have ended, and what is counted for objects.

The one figure that an event does not hold by itself is what an object's new exposure counts for: the difference
to what was counted before, by the ledger's own rule (events.state.objects).
"""

from itertools import islice
from typing import NamedTuple, TypeVar

from events.codec import Batch
from events.state.objects import exposure_after, is_newest
from events.types import ObjectExposure, RequestRefused, RequestSettled

T = TypeVar("T")

REMEMBERED = 200_000
"""Requests of each kind. An end is told twice only by a node that was fenced meanwhile, so within seconds of the first;
intents are looked up again if they are older."""


class Known(NamedTuple):
    """What is counted for an object so far; `told_seq`, `final` as in events.state.objects.TrackedObject."""

    counted: int = 0
    told_seq: int = 0
    final: bool = False


class Wants(NamedTuple):
    """What rows will look up in the memory: objects (`place_of`) and intents (`attempt_name`)."""

    places: set[str]
    names: set[str]

    def add(self, batch: Batch) -> None:
        for event in batch.events:
            if isinstance(event, RequestSettled) and event.object is not None:
                self.places.add(place_of(event.object))
                self.names.add(attempt_name(event.request_id, event.attempt))


class Memory:
    """Objects, where intents are, and which requests have ended."""

    def __init__(self) -> None:
        self.objects: dict[str, Known] = {}
        """By `<meter> <object reference>`."""
        self.since: dict[str, int] = {}
        """Sequence of the intent, by `attempt_name`."""
        self._told: dict[str, None] = {}

    def forget(self, keep_objects: int) -> None:
        """Drop what was seen first until little enough is left; it can be looked up again, or is told no more."""
        drop_oldest(self.objects, keep_objects)
        drop_oldest(self.since, REMEMBERED)
        drop_oldest(self._told, REMEMBERED)

    def tell(self, name: str) -> bool:
        """Whether this is the first time that it is told; the ledger ignores all others."""
        if name in self._told:
            return False
        self._told[name] = None
        return True

    def is_repeat(self, event: RequestRefused) -> bool:
        """Of a refusal whose recording was in doubt when its node was fenced: the next log may hold it again."""
        return not self.tell(refusal_name(event.request_id, event.code, event.first_at_ns))

    def count(self, seq: int, event: RequestSettled) -> tuple[int, int, ObjectExposure | None]:
        """What the settlement counts, spent and refunded, in nano-dollars: its actual figures, and for the object that
        it returns the difference (rule S2).
        """
        name = attempt_name(event.request_id, event.attempt)
        if event.outcome != "settled" or not self.tell(name):
            return 0, 0, None
        spent, refunded, told = event.actual.usd, event.actual.refund, event.object
        if told is None:
            return spent, refunded, None
        difference = self._difference(seq, name, event, told)
        return (difference, refunded, told) if told.meter == "usd" else (spent, difference, told)

    def _difference(self, seq: int, name: str, event: RequestSettled, told: ObjectExposure) -> int:
        place = place_of(told)
        known = self.objects.get(place, Known())
        since_seq = 0 if event.resolves else self.since.get(name, 0)
        counted = exposure_after(known.counted, known.final, told, is_newest(known.told_seq, since_seq))
        self.objects[place] = Known(counted, seq, known.final or told.final)
        return counted - known.counted


def drop_oldest(entries: dict[str, T], keep: int) -> dict[str, T]:
    """Drop what was put in first until at most `keep` are left; returns what was dropped. In one pass: whoever looks
    for the first entry of a dictionary looks through all that was deleted before it.
    """
    names = list(islice(entries, max(0, len(entries) - max(0, keep))))
    return {name: entries.pop(name) for name in names}


def place_of(settled: ObjectExposure) -> str:
    """A key of `Memory.objects`."""
    return f"{settled.meter} {settled.ref}"


def attempt_name(request_id: str, attempt: int) -> str:
    """One attempt of a request: each is counted by itself (rule S1). Without a number it is the first."""
    return request_id if attempt <= 1 else f"{request_id}#{attempt}"


def refusal_name(request_id: str, code: str, first_at_ns: int) -> str:
    """One recorded refusal."""
    return f"refused {request_id} {code} {first_at_ns}"
