"""When alerts are raised and cleared: from signals and what is open to decisions. Pure.

| | signal on | between its two thresholds | off, or no signal |
|---|---|---|---|
| not open | raised | - | - |
| open | stays | stays | cleared after a calm time |

Signals that count cases (`seen`) are on when there are more than at the last look; the events carry the figure, so the
next leader goes on where this one was. Bounds: open alerts per kind, and events per minute, so that whatever goes wrong
cannot fill the log with alerts about it; what did not fit is raised later if it is still so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from controlplane.alerts.kinds import ALERTS, CALM_S, CAPS
from events.state.alerts import Alert, AlertFold
from events.types import AlertCleared, AlertRaised

MAX_OPEN_OF_KIND = 100
"""More are not read one by one; the metrics count what is left out. Of caps: so many for each kind of account."""

ACCOUNTS = ("org", "team", "agent", "key")
"""The order in which alerts about caps are raised when not all of them can be."""

EVENTS_A_MINUTE = 60

NANOS_PER_S = 1_000_000_000

Place = tuple[str, str]
"""(kind, subject)."""


class Signal(NamedTuple):
    """One cause at one moment. `on` None: between raising and clearing. `seen` above 0: a count of cases."""

    kind: str
    subject: str
    on: bool | None
    message: str
    details: Mapping[str, str] = {}
    seen: int = 0

    @property
    def place(self) -> Place:
        return self.kind, self.subject


class Verdict(NamedTuple):
    """What should happen: signals to raise, and alerts to clear with the words to say."""

    raises: list[Signal]
    clears: list[tuple[Alert, str, int]]

    def __bool__(self) -> bool:
        return bool(self.raises or self.clears)


class Judge:
    """Remembers since when causes are gone, on the elapsed clock, and how many events there were lately."""

    def __init__(self, calm_s: float = CALM_S) -> None:
        self._calm_ns = int(calm_s * NANOS_PER_S)
        self._calm_since_ns: dict[Place, int] = {}
        self._seen: dict[Place, int] = {}
        self._allowance = float(EVENTS_A_MINUTE)
        self._allowance_ns: int | None = None
        self.held_back = 0
        """Alerts not raised for now because of the bounds."""

    def judge(self, signals: Iterable[Signal], fold: AlertFold, now_ns: int) -> Verdict:
        """Called about once a second with everything that is observed."""
        self._refill(now_ns)
        lit = {signal.place: (signal, self._is_on(signal, fold)) for signal in signals}
        clears = self._clears(lit, fold, now_ns)
        self._allowance -= len(clears)
        wanted = [signal for place, (signal, on) in lit.items() if on and place not in fold.open]
        raises = self._raises(sorted(wanted, key=_urgency), fold)
        for place, (signal, _) in lit.items():
            if signal.seen and (place in fold.open or signal in raises):
                self._seen[place] = signal.seen
        return Verdict(raises, clears)

    def _is_on(self, signal: Signal, fold: AlertFold) -> bool | None:
        if not signal.seen:
            return signal.on
        return signal.seen > self._seen.get(signal.place, fold.seen.get(f"{signal.kind} {signal.subject}", 0))

    def _clears(
        self, lit: Mapping[Place, tuple[Signal, bool | None]], fold: AlertFold, now_ns: int
    ) -> list[tuple[Alert, str, int]]:
        clears: list[tuple[Alert, str, int]] = []
        for place, alert_id in fold.open.items():
            signal, on = lit.get(place, (None, False))
            if on is not False:
                self._calm_since_ns.pop(place, None)
                continue
            calm_ns = now_ns - self._calm_since_ns.setdefault(place, now_ns)
            if calm_ns >= self._calm_ns and len(clears) + 1 <= self._allowance:
                del self._calm_since_ns[place]
                clears.append(
                    (fold.records[alert_id], *((signal.message, signal.seen) if signal else ("it is over", 0)))
                )
        return clears

    def _raises(self, wanted: list[Signal], fold: AlertFold) -> list[Signal]:
        """In their order, as far as the bounds allow."""
        shelves = Counter(map(_shelf, fold.open))
        raises = []
        for signal in wanted:
            if shelves[_shelf(signal.place)] < MAX_OPEN_OF_KIND and self._allowance >= 1:
                shelves[_shelf(signal.place)] += 1
                self._allowance -= 1
                raises.append(signal)
        self.held_back = len(wanted) - len(raises)
        return raises

    def _refill(self, now_ns: int) -> None:
        since_ns = self._allowance_ns if self._allowance_ns is not None else now_ns
        self._allowance = min(
            EVENTS_A_MINUTE, self._allowance + (now_ns - since_ns) * EVENTS_A_MINUTE / (60 * NANOS_PER_S)
        )
        self._allowance_ns = now_ns


def _shelf(place: Place) -> Place:
    """What is bounded together: a kind, and of caps the kind of account. A hundred keys do not silence a team."""
    kind, subject = place
    return kind, subject.partition(":")[0] if kind in CAPS else ""


def _urgency(signal: Signal) -> tuple[str, int]:
    """Critical ones first ("critical" comes before "warning"), and of caps the largest accounts."""
    account = _shelf(signal.place)[1]
    return ALERTS[signal.kind].severity, ACCOUNTS.index(account) if account in ACCOUNTS else 0


def events_of(
    verdict: Verdict, fold: AlertFold, wall_ns: int, ids: Iterable[str]
) -> tuple[AlertRaised | AlertCleared, ...]:
    """The verdict's events, without what has been recorded meanwhile. `ids` gives one for each alert raised."""
    raised = [
        AlertRaised(
            id=alert_id,
            kind=signal.kind,
            subject=signal.subject,
            severity=ALERTS[signal.kind].severity,
            message=signal.message,
            at_ns=wall_ns,
            details=dict(signal.details),
            seen=signal.seen,
        )
        for signal, alert_id in zip(verdict.raises, ids, strict=False)
        if signal.place not in fold.open
    ]
    cleared = [
        AlertCleared(alert.id, alert.kind, alert.subject, message, wall_ns, seen)
        for alert, message, seen in verdict.clears
        if fold.open.get((alert.kind, alert.subject)) == alert.id
    ]
    return (*raised, *cleared)
