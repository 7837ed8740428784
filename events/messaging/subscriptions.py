"""Subscriptions that outlive the client that carries them: a link attaches them to each new one."""

from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription

from events.messaging.client import SturdyClient

Callback = Callable[[Msg], Awaitable[None]]

GONE = (
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    OSError,
    RuntimeError,  # uvloop's, on writing to a transport that has just been closed
)
"""How the library says that the connection has gone, in the moment before it calls back."""


class LinkSubscription:
    """One subscription of a link. `forget` is the link's: it attaches this one no more."""

    def __init__(self, forget: Callable[["LinkSubscription"], None], subject: str, callback: Callback) -> None:
        self._forget = forget
        self._callback = callback
        self._carried: ClientSubscription | None = None
        self.subject = subject

    async def attach(self, client: SturdyClient) -> None:
        self._carried = await client.subscribe(self.subject, cb=self._callback)

    async def unsubscribe(self) -> None:
        self._forget(self)
        carried, self._carried = self._carried, None
        if carried is not None:
            try:
                await carried.unsubscribe()
            except GONE:
                return  # and the subscription with it


class SubscriptionAtOnce(LinkSubscription):
    """One whose messages are handed over as they are read, in the reading task."""

    def __init__(
        self, forget: Callable[[LinkSubscription], None], subject: str, deliver: Callable[[Msg], None]
    ) -> None:
        super().__init__(forget, subject, self._early)
        self._deliver = deliver

    async def attach(self, client: SturdyClient) -> None:
        await super().attach(client)
        if self._carried is not None:
            client.at_once(self._carried, self._deliver)

    async def _early(self, msg: Msg) -> None:
        """One that came while the subscription was made."""
        self._deliver(msg)
