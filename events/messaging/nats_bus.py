"""The bus over core NATS. See `events.messaging.port`."""

from collections.abc import Callable

from nats.aio.msg import Msg

from events.messaging.dispatch import Dispatcher
from events.messaging.link import (
    LinkBacklog,
    LinkDown,
    LinkError,
    LinkTooLarge,
    NatsLink,
)
from events.messaging.port import BusTimeout, BusTooLarge, BusUnavailable, Handler, Message
from events.messaging.subscriptions import LinkSubscription


class NatsSubscription:
    """See `events.messaging.port.Subscription`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._carried: LinkSubscription | None = None

    @property
    def dropped(self) -> int:
        return self._dispatcher.dropped

    async def attach(self, link: NatsLink, subject: str) -> None:
        self._carried = await link.subscribe(subject, self._deliver)

    async def _deliver(self, msg: Msg) -> None:
        self._dispatcher.offer(Message(msg.subject, msg.data, msg.reply))

    async def unsubscribe(self) -> None:
        carried, self._carried = self._carried, None
        if carried is not None:
            await carried.unsubscribe()
        await self._dispatcher.close()


class NatsBus:
    """See `events.messaging.port.Bus`."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    @property
    def connected(self) -> bool:
        return self._link.connected

    async def publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._link.publish(subject, payload)
        except LinkTooLarge as error:
            raise BusTooLarge(str(error)) from None
        except LinkError as error:
            raise BusUnavailable(str(error)) from None

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        try:
            answer = await self._link.request(subject, payload, timeout_s)
        except (LinkDown, LinkBacklog) as error:
            raise BusUnavailable(str(error)) from None
        except LinkTooLarge as error:
            raise BusTooLarge(str(error)) from None
        except LinkError:
            raise BusTimeout(f"no answer on {subject} within {timeout_s:g} s") from None
        if answer.headers and answer.headers.get("Status") == "503" and not answer.data:
            raise BusUnavailable(f"nobody listens on {subject}")
        return answer.data

    async def respond(self, reply: str, payload: bytes) -> None:
        if reply:
            await self.publish(reply, payload)

    async def subscribe(
        self, subject: str, handler: Handler, *, max_concurrent: int = 1, max_pending: int = 8_192
    ) -> NatsSubscription:
        dispatcher = Dispatcher(subject, handler, max_concurrent=max_concurrent, max_pending=max_pending)
        subscription = NatsSubscription(dispatcher)
        await subscription.attach(self._link, subject)
        return subscription

    async def flush(self, timeout_s: float = 2.0) -> None:
        try:
            await self._link.flush(timeout_s)
        except LinkDown as error:
            raise BusUnavailable(str(error)) from None
        except LinkError as error:
            raise BusTimeout(str(error)) from None

    def on_connection(self, listener: Callable[[bool], None]) -> None:
        self._link.on_connection(listener)
