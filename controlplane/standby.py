"""Standing by: hear the leader, and say when its time is over. The conclusions are `controlplane.vigil`'s.

Signs of life are the feed's messages and answers to the question who leads. They only decide *when* to take over,
never whether the other one still acts: the fence does that, and a wrong takeover costs milliseconds (rule F4,
docs/PROTOCOL.md). Who cannot hear itself concludes nothing from silence.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from controlplane.presence import NobodyListens, Presence, ask_who_leads
from controlplane.vigil import Vigil
from events.clock import Clock
from events.messaging.port import Bus, BusError, Message, Subscription
from events.subjects import FEED, echo
from schemas.settings import MS, Timing

ASK_TIMEOUT_S = 0.25
"""A leader that lives answers in a millisecond; a checkpoint may hold it up for half a second."""

PAUSE_NS = 100 * MS
"""Between two questions while it is quiet."""

STOOD_STILL_NS = 500 * MS
"""Woken this much late, this process could not have heard anything either."""

_log = logging.getLogger(__name__)


class Heard(msgspec.Struct, frozen=True):
    """What a standby reads of a message of the feed (schemas.policy.FeedDelta)."""

    epoch: int = 0
    leaving: bool = False


class LeaderWatch:
    """One process's ears, for each time that it stands by. `draw` gives random bytes."""

    def __init__(self, bus: Bus, clock: Clock, timing: Timing, draw: Callable[[int], bytes]) -> None:
        self._bus = bus
        self._clock = clock
        self._draw = draw
        self._decode = msgspec.json.Decoder(Heard).decode
        self._vigil = Vigil(clock.elapsed_ns(), timing, self._chance)
        self._presence: Presence | None = None
        self._wake = asyncio.Event()
        self._ask_ns = 0
        self._connected = bus.connected
        self._ears = echo(draw(9).hex())
        bus.on_connection(self._on_connection)

    @property
    def leader(self) -> Presence | None:
        """The leader of the newest epoch, if it lives as far as is known here."""
        known, vigil = self._presence, self._vigil
        lives = vigil.lives(self._clock.elapsed_ns())
        return known if lives and known is not None and known.epoch == vigil.epoch else None

    def fenced(self, epoch: int) -> None:
        """The fold has passed a fence of the control log."""
        self._vigil.fenced(epoch, self._clock.elapsed_ns())
        self._wake.set()

    async def until_over(self, epoch: int, *, fresh: bool) -> int:
        """Return the epoch whose leader's time is over: whoever waits here may take over from it.

        `epoch`: of the newest fence that is folded. `fresh`: this process has just begun, and has heard nobody yet.
        """
        self._vigil.resume(epoch, self._clock.elapsed_ns(), fresh=fresh)
        subscriptions: list[Subscription] = []
        try:
            subscriptions.append(await self._bus.subscribe(FEED, self._on_feed))
            subscriptions.append(await self._bus.subscribe(self._ears, self._on_echo))
            while not await self._is_over():
                await self._ask()
                await self._rest()
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()
        return self._vigil.epoch

    async def _is_over(self) -> bool:
        vigil = self._vigil
        if not self._connected or vigil.due_ns() > self._clock.elapsed_ns():
            return False
        if not vigil.certain() and not await self._can_hear():
            vigil.stood_still(self._clock.elapsed_ns())
        return self._connected and vigil.due_ns() <= self._clock.elapsed_ns()

    async def _can_hear(self) -> bool:
        with contextlib.suppress(BusError):
            await self._bus.request(self._ears, b"", ASK_TIMEOUT_S)
            return True
        return False

    async def _ask(self) -> None:
        """Ask who leads, if that is not known or nothing was heard for a while."""
        now_ns = self._clock.elapsed_ns()
        known = self._presence is not None and self._presence.epoch == self._vigil.epoch
        if not self._connected or now_ns < self._ask_ns or (known and not self._vigil.quiet(now_ns)):
            return
        try:
            presence = await ask_who_leads(self._bus, ASK_TIMEOUT_S)
        except NobodyListens:
            self._vigil.nobody(self._clock.elapsed_ns())
        else:
            if presence is not None:
                self._vigil.spoke(presence.epoch, self._clock.elapsed_ns())
                if presence.epoch == self._vigil.epoch:
                    self._presence = presence
        self._ask_ns = self._clock.elapsed_ns() + PAUSE_NS

    async def _rest(self) -> None:
        """Until there is something to do."""
        planned_ns = min(self._clock.elapsed_ns() + PAUSE_NS, max(self._vigil.due_ns(), self._clock.elapsed_ns()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0, planned_ns - self._clock.elapsed_ns()) / 1e9):
                await self._wake.wait()
        self._wake.clear()
        now_ns = self._clock.elapsed_ns()
        if now_ns - planned_ns > STOOD_STILL_NS:
            self._vigil.stood_still(now_ns)
            await asyncio.sleep(0)  # what has arrived meanwhile is heard first

    def _chance(self) -> float:
        return int.from_bytes(self._draw(4)) / 2**32

    async def _on_feed(self, message: Message) -> None:
        try:
            heard = self._decode(message.payload)
        except msgspec.DecodeError:
            return
        now_ns = self._clock.elapsed_ns()
        if heard.leaving:
            self._vigil.left(heard.epoch, now_ns)
            self._wake.set()
        else:
            self._vigil.spoke(heard.epoch, now_ns)

    async def _on_echo(self, message: Message) -> None:
        with contextlib.suppress(BusError):
            await self._bus.respond(message.reply, b"")

    def _on_connection(self, up: bool) -> None:  # noqa: FBT001 - the bus's listener gets the fact as its argument
        self._connected = up
        self._vigil.cut_off(self._clock.elapsed_ns())
        self._wake.set()
