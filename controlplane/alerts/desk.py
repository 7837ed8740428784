"""Raising and clearing alerts while this control plane leads: look, judge, record. About once a second.

What is decided is decided again in the lane, on the state that has folded everything before, so that an alert whose
recording was in doubt is not raised twice. A log that takes no appends takes no alerts either: then readiness and the
process's own log say what is wrong, and the alert is raised when the log is back, if it is still so.
"""

import asyncio
import logging
from collections.abc import Callable

from controlplane.alerts.caps import CapWalk
from controlplane.alerts.judge import Judge, Verdict, events_of
from controlplane.alerts.kinds import ALERTS, CALM_S
from controlplane.alerts.signals import Observed, signals_of
from controlplane.commands.base import Decision, Figures, Moment
from controlplane.errors import CommandRefused, LogUnavailable, NotLeading
from controlplane.leader import Leader
from events.clock import Clock
from events.state.control import ControlState
from events.types import SYSTEM, AlertRaised
from schemas.ids import ID_BYTES, alert_id

EVERY_S = 1.0

_log = logging.getLogger(__name__)


class AlertDesk:
    """One leadership's alerts. `observe` tells what the folds do not."""

    def __init__(self, leader: Leader, observe: Callable[[], Observed], clock: Clock, calm_s: float = CALM_S) -> None:
        self._leader = leader
        self._observe = observe
        self._clock = clock
        self.judge = Judge(calm_s)
        self.caps = CapWalk(leader.replica)
        leader.on_exhausted = self.caps.refused

    async def run(self) -> None:
        """Runs for ever; ends with the leadership that owns it."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except (LogUnavailable, NotLeading, CommandRefused) as error:
                _log.info("alerts are not recorded now: %s", type(error).__name__)

    async def look(self) -> None:
        """One look. Raises LogUnavailable, NotLeading."""
        leader, now_ns = self._leader, self._clock.elapsed_ns()
        fold = leader.state.alerts
        signals = [
            *signals_of(leader.replica, self._observe()),
            *self.caps.look(fold, leader.control_time_ns()),
        ]
        verdict = self.judge.judge(signals, fold, now_ns)
        if verdict:
            await leader.record(self._command(verdict), SYSTEM)

    def _command(self, verdict: Verdict) -> Callable[[ControlState, Figures, Moment], Decision[None]]:
        def decide(state: ControlState, _: Figures, moment: Moment) -> Decision[None]:
            ids = [alert_id(moment.draw(ID_BYTES)) for _ in verdict.raises]
            events = events_of(verdict, state.alerts, moment.now_ns, ids)
            for event in events:
                if isinstance(event, AlertRaised):
                    level = logging.CRITICAL if event.severity == "critical" else logging.WARNING
                    _log.log(level, "alert %s %s: %s. %s", *_words(event), ALERTS[event.kind].remedy)
                else:
                    _log.info("alert %s %s is over: %s", event.kind, event.subject, event.message)
            return Decision(events, None)

        return decide


def _words(event: AlertRaised) -> tuple[str, str, str]:
    return event.kind, event.subject or "-", event.message
