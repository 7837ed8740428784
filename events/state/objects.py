"""Vendors' objects with a life of their own, and what is counted for each (rule S2, docs/PROTOCOL.md).

A payment intent is authorised, captured, cancelled by different requests, maybe through different nodes. Each
answer tells the object's whole *exposure*: all that it has moved or may still move. The books move by the
difference to what was counted, so a capture never counts twice. A positive difference is charged to the
request that caused it; a negative one goes back to where it was charged, newest first.

Which of two answers is the newer
    The node log does not say in which order the vendor gave them: two calls may overlap, and the earlier one's answer
    may be recorded last. All that is certain: a call whose intent was recorded after an answer had been recorded went
    out after that answer was given (docs/adr/0011-answers-that-overlap.md). `exposure_after` is the rule.

Objects that no answer has mentioned for KEPT_NS are forgotten, by the time in the node log itself (the fold of
one log must not depend on how far another has come). A vendor's object is final long before; should an older
one move after all, it counts as new, which errs on the safe side.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from events.types import ObjectExposure
from schemas.accounts import METERS

KEPT_NS = 70 * 86_400 * 1_000_000_000
"""Stripe holds an authorisation for at most 31 days, and a refund follows a charge by weeks at most."""

MAX_CHARGES = 64
"""Of one object. Vendors allow about ten increments; what is pushed out is no longer given back by a cancel."""


class Charge(msgspec.Struct, array_like=True, gc=False):
    """A part of the counted exposure, and where it was charged: accounts, and the time that names the window."""

    key: str
    agent: str
    owner: str
    at_ns: int
    amount: int


class TrackedObject(msgspec.Struct, array_like=True):
    """What the ledger knows of one object. `counted` is the sum of its charges; `key` created it.

    `told_seq`: where in the node log its newest answer was recorded. `final`: the vendor will not change it any more.
    """

    meter: int
    counted: int
    amount_minor: int
    currency: str
    key: str
    touched_ns: int
    charges: list[Charge]
    told_seq: int = 0
    final: bool = False


class Credit(NamedTuple):
    """Move the settled figure of these accounts, at this time's windows, by `amount` of `meter`."""

    key: str
    agent: str
    owner: str
    at_ns: int
    meter: int
    amount: int


def is_newest(told_seq: int, since_seq: int) -> bool:
    """Whether an answer is certainly newer than what was recorded at `told_seq`.

    `since_seq`: where the intent of the answered call is recorded; 0 if the answer shows the object as it was at some
    earlier time. In one message ends come before intents, so equal is newer.
    """
    return since_seq >= told_seq and since_seq > 0


def exposure_after(counted: int, final: bool, told: ObjectExposure, newest: bool) -> int:  # noqa: FBT001 - facts, not switches
    """What is counted for an object after one more answer about it (rule S2). `counted`, `final`: what was known.

    An answer that is certainly the newest counts as it is. One that may be the older counts only if it is the higher:
    money that is counted too low is spent twice, what is counted too high comes back with the next answer. If one of
    the two is final it is the newer, whichever it is.
    """
    if newest or (told.final and not final):
        return told.exposure_nanos
    if final and not told.final:
        return counted
    return max(counted, told.exposure_nanos)


class Objects:
    """All objects, the least recently touched first."""

    def __init__(self) -> None:
        self._known: dict[str, TrackedObject] = {}
        self._newest_ns = 0

    def get(self, ref: str) -> TrackedObject | None:
        return self._known.get(ref)

    def count(
        self, exposure: ObjectExposure, payer: Charge, touched_ns: int, since_seq: int, told_seq: int
    ) -> list[Credit]:
        """Count an answer about an object. `payer` is the settling request (its amount is not read).

        `since_seq`: as in `is_newest`; `told_seq`: where the answer is recorded. Returns what is to be moved: at
        most one charge, or some credits; nothing if what is counted stays the same.
        """
        meter = METERS.index(exposure.meter)
        tracked = self._known.pop(exposure.ref, None)
        if tracked is None:
            tracked = TrackedObject(meter, 0, 0, "", payer.key, 0, [])
        self._known[exposure.ref] = tracked  # popped and put back: now the most recently touched
        tracked.touched_ns = max(tracked.touched_ns, touched_ns)
        newest = is_newest(tracked.told_seq, since_seq)
        if exposure.currency:
            # Bounds of later calls follow from the amount, so in doubt it is the higher one as well.
            least = 0 if newest or exposure.currency != tracked.currency else tracked.amount_minor
            tracked.amount_minor, tracked.currency = max(least, exposure.amount_minor), exposure.currency
        counted = exposure_after(tracked.counted, tracked.final, exposure, newest)
        difference = counted - tracked.counted
        tracked.counted = counted
        tracked.told_seq = told_seq
        tracked.final = tracked.final or exposure.final
        self._forget_old(touched_ns)
        if difference > 0:
            return [_charge(tracked, payer, difference)]
        return _give_back(tracked, -difference)

    def rows(self) -> Iterator[tuple[str, TrackedObject]]:
        """In order of touch, which belongs to the state (it decides what is forgotten first)."""
        yield from self._known.items()

    def load(self, rows: list[tuple[str, Any]], newest_ns: int) -> None:
        """Take what `rows` of equal objects gave."""
        self._known = {ref: msgspec.convert(tracked, TrackedObject) for ref, tracked in rows}
        self._newest_ns = newest_ns

    @property
    def newest_ns(self) -> int:
        """The newest time that an answer about an object came with."""
        return self._newest_ns

    def _forget_old(self, now_ns: int) -> None:
        self._newest_ns = max(self._newest_ns, now_ns)
        while self._known:
            ref = next(iter(self._known))
            if self._known[ref].touched_ns >= self._newest_ns - KEPT_NS:
                return
            del self._known[ref]


def _charge(tracked: TrackedObject, payer: Charge, amount: int) -> Credit:
    last = tracked.charges[-1] if tracked.charges else None
    if last is not None and _place(last) == _place(payer):
        last.amount += amount
    else:
        tracked.charges.append(Charge(payer.key, payer.agent, payer.owner, payer.at_ns, amount))
        del tracked.charges[:-MAX_CHARGES]
    return Credit(payer.key, payer.agent, payer.owner, payer.at_ns, tracked.meter, amount)


def _give_back(tracked: TrackedObject, amount: int) -> list[Credit]:
    credits_: list[Credit] = []
    while amount > 0 and tracked.charges:
        charge = tracked.charges[-1]
        part = min(amount, charge.amount)
        charge.amount -= part
        amount -= part
        if not charge.amount:
            tracked.charges.pop()
        credits_.append(Credit(charge.key, charge.agent, charge.owner, charge.at_ns, tracked.meter, -part))
    return credits_


def _place(charge: Charge) -> tuple[str, str, str, int]:
    return charge.key, charge.agent, charge.owner, charge.at_ns
