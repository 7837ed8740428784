"""This node's shares of the rate limits: reported to the control plane every second, asked for when they run short.

The node tells what it holds, used and wanted; the answer says what each share should be. A share that should fall does
so as far as what was used within the last minute allows, and the next report says how far it has come: only what a
node has said that it no longer holds is given to another. One exchange at a time, and an answer that comes too late is
no answer: so the shares that the control plane reckons with are never below the real ones.

| answers | a request that does not fit into the share |
|---|---|
| come | waits for one exchange, or up to COMING_S while others are giving back; then 429 |
| have not come for less than TTL_S | 429, unless the node's floor lets it through |
| have not come for TTL_S | the same; and shares have fallen to an even part, if they were more |

The floor is what a twentieth of the limit makes for each node, and one unit at least: the cluster stays within 5% of
the limit, or within one request a node.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from dataplane.control import ControlPlane, Unanswered
from dataplane.core.ratelimit import SLOT_NS, SLOTS, RateLimits, Take, Taken, TooFast, Window
from events.clock import Clock
from schemas.rpc import RATE_SPAN_S, RatesAnswer, RatesAsk, RateShare, RateUse

REPORT_S = 1.0
OWING_S = 0.1
"""While a share still has to fall: what comes free here is wanted elsewhere."""

TIMEOUT_S = 0.3
TTL_NS = 10_000_000_000
"""Outlasts a takeover."""

DENIED_NS = 100_000_000
"""For so long after an answer brought too little, requests that do not fit are refused without asking again."""

COMING_S = 1.5
COMING_PAUSE_S = 0.03

ALONE_PAUSE_S = 0.2
"""Between two tries while nobody answers."""

MAX_USES = 500
"""Limits in one message: 40 KB."""

SLACK = 20
"""The part of a limit that floors may exceed it by: 5%."""

_log = logging.getLogger(__name__)


class Rates:
    """One process's shares. Given: the present incarnation's id ("" for none), the epoch of the newest leader that the
    node has heard, the number of live nodes.
    """

    def __init__(
        self,
        limits: RateLimits,
        control: ControlPlane,
        clock: Clock,
        holder: str,
        *,
        incarnation: Callable[[], str],
        epoch: Callable[[], int],
        nodes: Callable[[], int],
    ) -> None:
        self._limits = limits
        self._control = control
        self._clock = clock
        self._holder = holder
        self._incarnation = incarnation
        self._epoch = epoch
        self._live = nodes
        self._n = 0
        self._synced = (0, "")
        self._nodes = 1
        self._answered_ns = 0
        self._answered = True
        self._owing = False
        self._contended = False
        self._wake = asyncio.Event()
        self._next: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------ requests

    async def take(self, takes: Sequence[Take], first: TooFast) -> list[Taken] | TooFast:
        """The request does not fit into this node's shares: ask for more where there may be more."""
        verdict: list[Taken] | TooFast = first
        deadline_ns = self._clock.elapsed_ns() + int(COMING_S * 1e9)
        while isinstance(verdict, TooFast):
            window = self._limits.window(verdict.bucket)
            now_ns = self._clock.elapsed_ns()
            if verdict.paced or window is None or window.share >= verdict.per_minute or now_ns < window.denied_until_ns:
                return verdict
            if now_ns >= deadline_ns:
                return verdict
            await self._exchanged()
            verdict = self._limits.take(takes, self._clock.elapsed_ns(), again=True)
            if isinstance(verdict, TooFast):
                verdict = self._judge(takes, verdict)
                if isinstance(verdict, TooFast) and not verdict.paced and not self._deny(verdict):
                    await asyncio.sleep(COMING_PAUSE_S)
        return verdict

    def _judge(self, takes: Sequence[Take], verdict: TooFast) -> list[Taken] | TooFast:
        """Nobody answers: the floor may let it through."""
        window = self._limits.window(verdict.bucket)
        if self._answered or window is None:
            return verdict
        floor = max(1, verdict.per_minute // (SLACK * max(1, self._live())))
        if window.share >= floor:
            return verdict
        window.share = window.target = floor
        return self._limits.take(takes, self._clock.elapsed_ns(), again=True)

    def _deny(self, verdict: TooFast) -> bool:
        """Refuse what does not fit for a moment, unless more is on its way."""
        window = self._limits.window(verdict.bucket)
        if window is None or (window.coming and self._answered):
            return False
        window.denied_until_ns = self._clock.elapsed_ns() + DENIED_NS
        return True

    async def _exchanged(self) -> None:
        """Return when an exchange that was begun after this call has ended, with an answer or without."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._wake.set()
        await asyncio.shield(self._next)

    # ------------------------------------------------------------------ reports

    async def run(self) -> None:
        """Report every second while anything is held, and at once when a request is short. Runs for ever."""
        pause_s = REPORT_S
        while True:
            await self._pause(pause_s)
            waiting, self._next = self._next, None
            self._wake.clear()
            if waiting is not None or len(self._limits) or self._synced != (self._epoch(), self._incarnation()):
                await self._exchange()
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            pause_s = OWING_S if self._owing or self._contended else REPORT_S
            if not self._answered:
                await asyncio.sleep(ALONE_PAUSE_S)

    def joined(self) -> None:
        """There is a new incarnation: say at once which holder it is."""
        self._wake.set()

    async def farewell(self) -> None:
        """Give up what is not used, and say what was used when: nothing will be taken here any more."""
        if not len(self._limits):
            return
        now_ns = self._clock.elapsed_ns()
        for _, window in self._limits.items(now_ns):
            window.target = 0
        uses = {
            bucket: RateUse(window.share, window.used, ages=_ages(window, now_ns))
            for bucket, window in self._limits.items(now_ns)
        }
        for part in _parts(uses):
            await self._send(part, begin=False, end=False)

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()

    async def _exchange(self) -> None:
        """Tell what has changed, or everything to a leader that does not know this node yet."""
        self._expire()
        name = self._incarnation()
        if not name:
            self._answered = False
            return
        if self._synced != (self._epoch(), name):
            await self._send_all(name)
            return
        for part in _parts(self._changed()):
            answer = await self._send(part, begin=False, end=False)
            if answer is None:
                return
            if answer.resync:
                await self._send_all(name)
                return

    async def _send_all(self, name: str) -> None:
        now_ns = self._clock.elapsed_ns()
        uses = {bucket: _use(window, now_ns) for bucket, window in self._limits.items(now_ns)}
        parts = _parts(uses)
        for index, part in enumerate(parts):
            answer = await self._send(part, begin=index == 0, end=index == len(parts) - 1)
            if answer is None or answer.resync:
                return
            self._synced = (answer.epoch, name)

    def _changed(self) -> dict[str, RateUse]:
        """What was touched since the last report, or holds another share than reported; and what is over."""
        now_ns = self._clock.elapsed_ns()
        long_ago = now_ns // SLOT_NS - SLOTS
        uses: dict[str, RateUse] = {}
        self._owing = self._contended = False
        for bucket, window in self._limits.items(now_ns):
            if not window.used and window.touched < long_ago and self._answered:
                window.share = window.target = 0
                if not window.reported:
                    self._limits.drop(bucket)
                    continue
            if window.wanted or window.short or window.share != window.reported:
                uses[bucket] = _use(window, now_ns)
            self._owing = self._owing or window.share > window.target
            self._contended = self._contended or window.part > 0
        return uses

    async def _send(self, uses: dict[str, RateUse], *, begin: bool, end: bool) -> RatesAnswer | None:
        """One exchange. Demand that was not heard is not told again: the next report tells of newer demand."""
        self._n += 1
        sent_ns = self._clock.elapsed_ns()
        ask = RatesAsk(self._incarnation(), self._holder, self._n, uses, begin=begin, end=end)
        try:
            answer = await self._control.rates(ask, TIMEOUT_S)
        except Unanswered as reason:
            self._unanswered(uses, str(reason))
            return None
        if answer.epoch < self._epoch():
            self._unanswered(uses, "a deposed leader has answered")
            return None
        self._answered, self._answered_ns, self._nodes = True, sent_ns, max(1, answer.nodes)
        if answer.resync:
            return answer
        self._told(uses)
        for bucket, use in uses.items():
            if (window := self._limits.window(bucket)) is not None:
                window.reported, window.part = use.held, 0
        for bucket, share in answer.shares.items():
            if (window := self._limits.window(bucket)) is not None:
                self._set(window, share)
        return answer

    def _unanswered(self, uses: dict[str, RateUse], why: str) -> None:
        if self._answered:
            _log.info("rate shares stay as they are: %s", why)
        self._answered = False
        self._told(uses)

    def _told(self, uses: dict[str, RateUse]) -> None:
        for bucket, use in uses.items():
            if (window := self._limits.window(bucket)) is not None:
                window.wanted -= use.wanted
                window.short -= use.short

    def _set(self, window: Window, share: RateShare) -> None:
        now_ns = self._clock.elapsed_ns()
        window.target, window.part = share.units, share.part
        window.share = max(window.share, share.units)
        window.settle()
        self._owing = self._owing or window.share > window.target
        window.coming = share.coming
        window.frees_at_ns = now_ns + share.frees_ms * 1_000_000 if share.frees_ms else 0

    def _expire(self) -> None:
        """After a long silence no share is more than an even part."""
        now_ns = self._clock.elapsed_ns()
        if now_ns - self._answered_ns < TTL_NS:
            return
        for _, window in self._limits.items(now_ns):
            window.target = min(window.target, max(1, window.per_minute // self._nodes))
            window.settle()


def _parts(uses: dict[str, RateUse]) -> list[dict[str, RateUse]]:
    """At most MAX_USES in each; one empty part if there are none."""
    names = list(uses)
    begins = range(0, max(1, len(names)), MAX_USES)
    return [{name: uses[name] for name in names[begin : begin + MAX_USES]} for begin in begins]


def _use(window: Window, now_ns: int) -> RateUse:
    frees_ns = (window.slots[0][0] + SLOTS) * SLOT_NS - now_ns if window.slots else 0
    return RateUse(window.share, max(0, window.used), window.wanted, window.short, max(0, frees_ns) // 1_000_000)


def _ages(window: Window, now_ns: int) -> tuple[int, ...]:
    """What was used in each of the last spans, newest first, by the end of the slots."""
    ages: list[int] = []
    for slot, units in window.slots:
        span = max(0, now_ns - slot * SLOT_NS) // (RATE_SPAN_S * 1_000_000_000)
        ages.extend([0] * (span + 1 - len(ages)))
        ages[span] += max(0, units)
    return tuple(ages)
