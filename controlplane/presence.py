"""Who leads: a question that the leader alone answers, on the bus.

A leader that was killed no longer listens, and the server says so at once: that tells a dead leader from a busy one.
The answer also names the URL at which standbys reach it, and the word by which they prove to it that they are control
planes. The bus's control account is closed to nodes, so the word is as safe there as the log is.
"""

import msgspec

from events.messaging.port import Bus, BusError, BusTooLarge, BusUnavailable, Message, Subscription
from events.subjects import LEADER


class Presence(msgspec.Struct, frozen=True):
    """One leadership. `url`: where its HTTP API is; `word`: what forwarded requests must carry (secret)."""

    epoch: int
    name: str
    url: str
    word: str

    def __repr__(self) -> str:
        """Without the word."""
        return f"Presence(epoch={self.epoch}, name={self.name!r}, url={self.url!r})"


class NobodyListens(Exception):
    """The bus knows of no leader. It may also not know of one that is just reconnecting."""


class Herald:
    """Answers for one leadership."""

    def __init__(self, bus: Bus, presence: Presence) -> None:
        self._bus = bus
        self._payload = msgspec.json.encode(presence)
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(LEADER, self._answer)

    async def stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def _answer(self, message: Message) -> None:
        try:
            await self._bus.respond(message.reply, self._payload)
        except (BusUnavailable, BusTooLarge):
            return  # it is asked again


async def ask_who_leads(bus: Bus, timeout_s: float) -> Presence | None:
    """None: no answer in time, or none that can be read. Raises NobodyListens."""
    try:
        return msgspec.json.decode(await bus.request(LEADER, b"", timeout_s), type=Presence)
    except BusUnavailable:
        if bus.connected:
            raise NobodyListens from None
    except (BusError, msgspec.MsgspecError):
        pass
    return None
