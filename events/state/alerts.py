r"""Alerts: the fold of their events.

| state \ event | AlertRaised | AlertCleared |
|---|---|---|
| (none) | open | - |
| open | - | cleared |
| cleared | - (an id is never used again) | - |

Few are open (whoever raises them bounds that); of the cleared ones the newest are kept, the audit has them all.
"""

from typing import Literal

import msgspec
from msgspec.structs import replace

from events.types import AlertCleared, AlertRaised

CLEARED_KEPT = 1_000
"""What `GET /v1/alerts` shows of the past: half a megabyte."""

SEEN_KEPT = 2_000
"""Subjects of which is known how many cases were alerted. Of a forgotten one the next case is an alert: harmless."""


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cleared_seq` = 0: it is open."""

    id: str
    kind: str
    subject: str
    severity: Literal["warning", "critical"]
    message: str
    raised_at_ns: int
    raised_seq: int
    details: dict[str, str] = {}
    cleared_at_ns: int = 0
    cleared_seq: int = 0
    cleared_message: str = ""

    @property
    def open(self) -> bool:
        return not self.cleared_seq


class AlertFold:
    """`records`: by id, in order of raising. `open`: ids by (kind, subject). `seen`: `<kind> <subject>` -> how many
    cases of what is counted have been alerted.
    """

    def __init__(self) -> None:
        self.records: dict[str, Alert] = {}
        self.open: dict[tuple[str, str], str] = {}
        self.seen: dict[str, int] = {}

    def apply(self, seq: int, event: AlertRaised | AlertCleared) -> None:
        place = (event.kind, event.subject)
        if isinstance(event, AlertRaised):
            if event.id in self.records or place in self.open:
                return
            self._add(
                Alert(
                    event.id, event.kind, event.subject, event.severity, event.message, event.at_ns, seq, event.details
                )
            )
        else:
            alert = self.records.get(event.id)
            if alert is None or not alert.open:
                return
            self.records[event.id] = replace(
                alert, cleared_at_ns=event.at_ns, cleared_seq=seq, cleared_message=event.message
            )
            del self.open[alert.kind, alert.subject]
            self._drop_oldest()
        self._note(event)

    def load(self, records: dict[str, Alert], seen: dict[str, int]) -> None:
        """Take what an equal fold holds."""
        for alert in records.values():
            self._add(alert)
        self.seen = dict(seen)

    def _add(self, alert: Alert) -> None:
        self.records[alert.id] = alert
        if alert.open:
            self.open[alert.kind, alert.subject] = alert.id

    def _drop_oldest(self) -> None:
        if len(self.records) - len(self.open) > CLEARED_KEPT:
            del self.records[next(alert.id for alert in self.records.values() if not alert.open)]

    def _note(self, event: AlertRaised | AlertCleared) -> None:
        if not event.seen:
            return
        name = f"{event.kind} {event.subject}"
        self.seen.pop(name, None)  # the newest last
        self.seen[name] = event.seen
        if len(self.seen) > SEEN_KEPT:
            del self.seen[next(iter(self.seen))]
