"""What a standby concludes from what it hears of the leader. Pure; times are nanoseconds of the elapsed clock.

The fence decides who leads, so a wrong conclusion costs milliseconds; but two healthy control planes must not depose
each other in turn. Why they do not:

- Silence is judged per *epoch*, and a fence counts only for the epoch that its writer judged (controlplane.takeover).
  So between two takeovers there always lies one standby's whole patience with the later epoch, begun when it had
  folded that epoch's fence. Standbys that race for one epoch depose nobody: one fence is stored, the others are not.
- A sign of life of that epoch begins the patience anew; a deposed leader's words count for nothing.
- Each takeover that no sign of life has followed doubles the patience. If a takeover takes longer than the patience
  (a huge rest to fold, a machine that crawls), a few rounds make the patience longer than that.
- Patience has a random part, so that of several standbys one is first, and the others see its fence.

| what is known of the newest epoch | it is over |
|---|---|
| its leader said goodbye | at once (after up to HURRY) |
| it was heard, and twice now nobody listens | at once (after up to HURRY) |
| nobody listens, and this process has just begun | at once (after up to HURRY) |
| silence, though it or its takeover was seen | `leader_timeout` * 2^(takeovers without a word) * (1 to 1.3) |
| nothing could be heard (no connection, this process stood still) | the silence begins anew |
"""

from collections.abc import Callable

from schemas.settings import MS, Timing

GONE_ANSWERS = 2
"""One "nobody listens" may be a leader that is just reconnecting."""

HURRY_NS = 150 * MS
"""Standbys that know at the same moment wait a random part of this: a fence is seen everywhere within 5 ms or so."""

JITTER_SHARE = 0.3
MAX_DOUBLINGS = 4

QUIET_BEATS = 1.5
"""After so many heartbeats of the feed without a word, it is worth asking."""


class Vigil:
    """One process's view. `resume` it each time that it begins to stand by. `chance()` is in [0, 1)."""

    def __init__(self, now_ns: int, timing: Timing, chance: Callable[[], float]) -> None:
        self.epoch = 0
        """Sequence of the newest fence that is known."""
        self.heard = False
        """Whether its leader has given a sign of life."""
        self._timeout_ns = timing.leader_timeout_ms * MS
        self._quiet_ns = round(QUIET_BEATS * timing.feed_heartbeat_ms * MS)
        self._chance = chance
        self._fresh = False
        self._since_ns = now_ns
        self._spoke_ns = 0
        self._takeovers = 0
        self._gone = 0
        self._over_ns: int | None = None
        self._share = chance()

    def resume(self, epoch: int, now_ns: int, *, fresh: bool) -> None:
        """Stand by (again), with the newest fence at `epoch`. `fresh`: the process has just begun, so that nothing was
        heard yet is no news.
        """
        self.fenced(epoch, now_ns)
        self.heard = False
        self._fresh = fresh
        if fresh:
            self._takeovers = 0
        self._begin(now_ns)

    def fenced(self, epoch: int, now_ns: int) -> None:
        """Somebody takes over since `epoch`."""
        if epoch <= self.epoch:
            return
        self.epoch = epoch
        self._takeovers += 1
        self.heard = self._fresh = False
        self._begin(now_ns)

    def spoke(self, epoch: int, now_ns: int) -> None:
        """The leader of `epoch` gave a sign of life."""
        self.fenced(epoch, now_ns)
        if epoch == self.epoch:
            self._takeovers = 0
            self.heard = True
            self._spoke_ns = now_ns
            self._begin(now_ns)

    def left(self, epoch: int, now_ns: int) -> None:
        """The leader of `epoch` says that it stops."""
        self.fenced(epoch, now_ns)
        if epoch == self.epoch:
            self._end(now_ns)

    def nobody(self, now_ns: int) -> None:
        """The bus says that nobody answers for a leader. No news while a takeover may be under way."""
        if self.heard or self._fresh:
            self._gone += 1
            if self._gone >= GONE_ANSWERS:
                self._end(now_ns)

    def stood_still(self, now_ns: int) -> None:
        """This process could not have heard anything until now."""
        if self._over_ns is None:
            self._begin(now_ns)

    def cut_off(self, now_ns: int) -> None:
        """There was no connection until now. The leader may have lost its own as well, and come back later."""
        self.heard = self._fresh = False
        self._begin(now_ns)

    def quiet(self, now_ns: int) -> bool:
        """Whether it is worth asking."""
        return not self.heard or now_ns - self._since_ns >= self._quiet_ns

    def lives(self, now_ns: int) -> bool:
        """Whether the leader gave a sign of life lately, as far as could be heard."""
        return self.heard and self._over_ns is None and now_ns - self._spoke_ns < self._timeout_ns

    def certain(self) -> bool:
        """Whether the end is known, and not merely concluded from silence."""
        return self._over_ns is not None

    def due_ns(self) -> int:
        """When to take over, if nothing is heard until then."""
        if self._over_ns is not None:
            return self._over_ns + round(self._share * HURRY_NS)
        doublings = min(self._takeovers, MAX_DOUBLINGS)
        return self._since_ns + round((1 + JITTER_SHARE * self._share) * (self._timeout_ns << doublings))

    def _begin(self, now_ns: int) -> None:
        self._since_ns = now_ns
        self._gone = 0
        self._over_ns = None
        self._share = self._chance()

    def _end(self, now_ns: int) -> None:
        if self._over_ns is None:
            self._over_ns = now_ns
