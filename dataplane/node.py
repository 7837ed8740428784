"""What the parts of a node share: its policy, its incarnation, its log, its requests in flight."""

import time
from collections.abc import Callable
from typing import Final

from dataplane.control import ControlPlane
from dataplane.core.access import Caller, Callers
from dataplane.core.lines import Plan, holds, make_plan
from dataplane.core.ratelimit import RateLimits
from dataplane.core.shed import Shedder
from dataplane.core.snapshot import Snapshot
from dataplane.feed import Feed
from dataplane.inflight import Incarnation, InFlight
from dataplane.journal import Journal
from dataplane.leases import LOG_FULL
from dataplane.membership import Membership
from dataplane.rates import Rates
from dataplane.refused import Refusals
from events.clock import Clock
from events.tasks import Tasks
from schemas.accounts import NANOS_PER_S
from schemas.refusals import Refusal, refuse
from schemas.settings import MS, Timing

_NO_POLICY: Final = refuse("policy_unavailable", "this node has no current policy; nothing was sent")
_NO_LOG: Final = refuse("log_unavailable", "the event log takes nothing now; nothing was sent")
_DRAINING: Final = refuse("draining", "this node is shutting down; nothing was sent")


class Node:
    """The parts, wired by `dataplane.governor`. Nothing here awaits."""

    def __init__(
        self,
        clock: Clock,
        timing: Timing,
        draw: Callable[[int], bytes],
        tasks: Tasks,
        control: ControlPlane,
    ) -> None:
        self.clock = clock
        self.timing = timing
        self.draw = draw
        self.tasks = tasks
        self.control = control
        self.journal = Journal()
        self.inflight = InFlight()
        self.refusals = Refusals(self.journal.post)
        self.limits = RateLimits()
        self.callers = Callers()
        self.shedder = Shedder(time.thread_time_ns)
        self.draining = False
        self.shut: Refusal | None = None
        self.feed: Feed
        self.membership: Membership
        self.rates: Rates
        self.proof_ttl_ns = timing.proof_ttl_ms * MS
        self._feed_max_age_ns = timing.feed_max_age_ms * MS
        self._admit_timeout_ns = timing.admit_timeout_ms * MS

    @property
    def snapshot(self) -> Snapshot:
        return self.feed.snapshot

    @property
    def incarnation(self) -> Incarnation | None:
        return self.membership.current

    def plan(self, caller: Caller, now_ns: int) -> Plan:
        """The caps that apply to a caller now, by the control plane's time."""
        plan = caller.plan
        if plan is None or not holds(plan, self.snapshot, now_ns):
            plan = caller.plan = make_plan(self.snapshot, caller.accounts, now_ns)
        return plan

    def closed(self) -> Refusal | None:
        """Why nothing may be admitted now; None: it may. A node without an incarnation may have one in a moment."""
        if self.draining:
            return _DRAINING
        incarnation = self.membership.current
        feed = self.feed
        if incarnation is None or not feed.loaded or feed.snapshot.position < incarnation.joined_seq:
            return _NO_POLICY
        return self.shut or (_NO_LOG if self.journal.waiting else None)

    def look(self) -> None:
        """Judge what changes slowly: the feed's silence, the log's answers. Called many times a second."""
        incarnation = self.membership.current
        self.shut = None
        if self.feed.age_ns() > self._feed_max_age_ns:
            self.shut = _NO_POLICY
        elif self.feed.log_full or (incarnation is not None and incarnation.log.trouble == "stream_full"):
            # The leader says so while there is room for ends; its absence shows in our own appends at last.
            self.shut = LOG_FULL
        elif incarnation is not None and self._log_is_slow(incarnation):
            self.shut = _NO_LOG

    def joining(self) -> bool:
        """Whether the only reason against admitting may pass in a moment: a join, or its policy, is under way."""
        incarnation = self.membership.current
        return not self.draining and (
            incarnation is None or not self.feed.loaded or self.snapshot.position < incarnation.joined_seq
        )

    def spares_log(self) -> bool:
        """Whether refusals are only counted now: the log is slow, or its last room is for ends of requests (L6)."""
        incarnation = self.membership.current
        return incarnation is None or self.shut is LOG_FULL or incarnation.log.stalled_ns() > NANOS_PER_S

    def _log_is_slow(self, incarnation: Incarnation) -> bool:
        """Whether an intent queued now would most likely not be acknowledged in time."""
        return incarnation.log.stalled_ns() > self._admit_timeout_ns
