"""What operators see of one control plane's process, wired: log watch, audit, alerts, readiness, metrics.

It outlives leaderships: `meanwhile(leader)` runs as long as one lasts, `run` and the rest as long as the process.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from controlplane.alerts.desk import AlertDesk
from controlplane.alerts.signals import Observed
from controlplane.api.auth import FailedTries
from controlplane.audit.store import Store, StoreUnavailable
from controlplane.audit_status import AuditEar
from controlplane.following import Logs
from controlplane.leader import Leader
from controlplane.log_watch import LogWatch
from controlplane.metrics import ControlMetrics
from controlplane.readiness import Standing, reasons_of
from events.clock import Clock
from events.messaging.port import Bus
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM
from events.tasks import until_first
from schemas.readiness import Reason
from schemas.settings import MS, Timing


class Operations:
    """`replica` gives the process's state, `place` says why it cannot do its part now (None: it can)."""

    def __init__(
        self,
        logs: Logs,
        store: Store,
        bus: Bus,
        clock: Clock,
        timing: Timing,
        *,
        replica: Callable[[], Replica],
        place: Callable[[], str | None],
    ) -> None:
        self._logs = logs
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._replica = replica
        self._place = place
        self._audited = partial(_audited, store)
        self._feed_lost = 0
        self._clock_seq = 0
        self.draining = False
        """Set when the process was told to stop."""
        self.leader: Leader | None = None
        self.desk: AlertDesk | None = None
        self.watch = self._onlooker()
        self.ear = AuditEar(bus, clock)
        self.tries = FailedTries()
        self.clock_offset_s: float | None = None
        self.metrics = ControlMetrics(self)

    @property
    def replica(self) -> Replica:
        return self._replica()

    async def run(self) -> None:
        """Look at the logs while another control plane leads. Runs for ever."""
        while True:
            if self.leader is None:
                await self.watch.look()
            await asyncio.sleep(self.watch.pause_s)

    async def meanwhile(self, leader: Leader) -> None:
        """Watch the logs and raise alerts while `leader` leads. Runs until cancelled."""
        self.watch = LogWatch(
            self._logs,
            leader.recorder,
            self._audited,
            leader.close_budget,
            nodes=lambda: len(leader.replica.nodes.living),
        )
        self._feed_lost = leader.feed.lost
        self.leader, self.desk = leader, AlertDesk(leader, self.observed, self._clock)
        try:
            await until_first(self.watch.run(), self.desk.run())
        finally:
            self.leader = self.desk = None
            # What the leadership's watch saw last is not how the logs stand from now on.
            self.watch = self._onlooker()

    def observed(self) -> Observed:
        """For the alerts: what the folds do not tell. Called once a second."""
        leader = self.leader
        lost = 0
        if leader is not None:
            lost, self._feed_lost = leader.feed.lost - self._feed_lost, leader.feed.lost
        self._look_at_clock()
        now_ns = self._clock.elapsed_ns()
        return Observed(
            log_shares=self.watch.shares,
            log_full=self.watch.full,
            streams_silent_s=self._silent_streams(),
            audit_lag_s={log: progress.lag_s for log, progress in self.ear.logs.items()},
            audit_silent_s=self.ear.silent_s(),
            feed_lost=lost,
            barrier_age_s=leader.barrier.times.oldest_ns(now_ns) / 1e9 if leader is not None else 0.0,
            checkpoint_failing=leader is not None and leader.recorder.failing,
            clock_offset_s=self.clock_offset_s,
            failed_logins=self.tries.over(now_ns),
        )

    def reasons(self) -> Sequence[Reason]:
        """What `/readyz` says now."""
        leader = self.leader
        stalled_ns = leader.log.stalled_ns() if leader is not None else 0
        return reasons_of(
            Standing(
                connected=self._bus.connected,
                draining=self.draining,
                place=self._place(),
                stalled_s=stalled_ns / 1e9 if stalled_ns > self._timing.append_timeout_ms * MS else 0.0,
                trouble=leader.log.trouble if leader is not None else "",
                log_full=self.watch.full,
                streams_silent_s=self._silent_streams(),
                clock_offset_s=self.clock_offset_s,
                checkpoint_failing=leader is not None and leader.recorder.failing,
                audit_silent_s=self.ear.silent_s(),
                audit_lag_s={log: progress.lag_s for log, progress in self.ear.logs.items()},
            )
        )

    def _onlooker(self) -> LogWatch:
        """A standby's: it looks, trims nothing and tells nobody."""
        return LogWatch(self._logs, None, self._audited, lambda _: None, nodes=lambda: len(self.replica.nodes.living))

    def _silent_streams(self) -> dict[str, float]:
        return {stream: self.watch.silent_s(stream) for stream in (CONTROL_STREAM, NODES_STREAM)}

    def _look_at_clock(self) -> None:
        """Compare with the server's clock by a message that was stored within the last second or so."""
        if self.leader is None:
            return
        newest = self.leader.recorder.newest_node_message
        stored = self.watch.states.get(NODES_STREAM)
        current = stored is not None and newest is not None and newest.sequence >= stored.last_sequence
        if newest is not None and current and self._clock_seq not in {0, newest.sequence}:
            self.clock_offset_s = (self._clock.wall_ns() - newest.time_ns) / 1e9
        self._clock_seq = newest.sequence if newest is not None else 0


async def _audited(store: Store) -> dict[str, int] | None:
    """The audit records a block's boundaries before it writes the block: all before the newest one is written."""
    try:
        rows = await store.query("SELECT log, max(from_seq) FROM ringfence.blocks GROUP BY log")
    except StoreUnavailable:
        return None
    streams = {"control": CONTROL_STREAM, "nodes": NODES_STREAM}
    return {streams[log]: int(from_seq) for log, from_seq in rows if log in streams}
