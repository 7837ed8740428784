"""A bus in memory. `MemoryBus` is the server, `MemoryBus.client(...)` one process's way to it.

Faults are decided per message and receiver, so a simulation can lose, double and delay messages, and cut
one client off, in both directions. Only primitives of the running loop are used: the same decisions on a
virtual-time loop give the same run.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from events.messaging.delay import later
from events.messaging.dispatch import Dispatcher
from events.messaging.port import BusTimeout, BusTooLarge, BusUnavailable, Handler, Message
from events.subjects import matches

MAX_PAYLOAD_BYTES = 8 << 20
"""As the configured server's."""


class BusFaults(Protocol):
    """Asked once for each message and receiver."""

    def deliveries_s(self, sender: str, receiver: str, subject: str) -> tuple[float, ...]:
        """Return one delay for each copy that arrives: `()` loses the message, two entries double it."""


class NoBusFaults:
    """Every message arrives, once, at once."""

    def deliveries_s(self, sender: str, receiver: str, subject: str) -> tuple[float, ...]:  # noqa: ARG002 - protocol
        return (0.0,)


class MemoryBus:
    """Knows the subscriptions of all clients."""

    def __init__(self, faults: BusFaults | None = None) -> None:
        self._faults = faults or NoBusFaults()
        self._subscriptions: list[MemorySubscription] = []
        self._clients = 0

    def client(self, name: str) -> "MemoryBusClient":
        """Return one process's bus. `name` is what the faults see; two clients may share it."""
        self._clients += 1
        return MemoryBusClient(self, name, f"_INBOX_{name}.{self._clients}")

    def add(self, subscription: "MemorySubscription") -> None:
        self._subscriptions.append(subscription)

    def remove(self, subscription: "MemorySubscription") -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def route(self, sender: str, message: Message) -> int:
        """Send a message on its ways; return how many subscriptions it was meant for."""
        receivers = [sub for sub in self._subscriptions if matches(sub.subject, message.subject)]
        for receiver in receivers:
            for delay_s in self._faults.deliveries_s(sender, receiver.owner, message.subject):
                later(delay_s, partial(receiver.deliver, message))
        return len(receivers)


class MemorySubscription:
    """See `events.messaging.port.Subscription`."""

    def __init__(self, bus: MemoryBus, owner: str, subject: str, dispatcher: Dispatcher) -> None:
        self._bus = bus
        self._dispatcher = dispatcher
        self.owner = owner
        self.subject = subject

    @property
    def dropped(self) -> int:
        return self._dispatcher.dropped

    def deliver(self, message: Message) -> None:
        self._dispatcher.offer(message)

    async def unsubscribe(self) -> None:
        self._bus.remove(self)
        await self._dispatcher.close()


class MemoryBusClient:
    """See `events.messaging.port.Bus`."""

    def __init__(self, bus: MemoryBus, name: str, inbox: str) -> None:
        self._bus = bus
        self._name = name
        self._inbox = inbox
        self._requests = 0
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._inbox_subscription: MemorySubscription | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self._connected = True

    @property
    def connected(self) -> bool:
        return self._connected

    def set_connected(self, connected: bool) -> None:  # noqa: FBT001 - the fact is the argument
        """For tests: what the client itself knows about its connection (losses in transit are the faults')."""
        if connected != self._connected:
            self._connected = connected
            for listener in self._listeners:
                listener(connected)

    async def publish(self, subject: str, payload: bytes) -> None:
        self._send(Message(subject, payload, ""))

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        self._listen()
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        try:
            if self._send(Message(subject, payload, reply)) == 0:
                raise BusUnavailable(f"nobody listens on {subject}")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise BusTimeout(f"no answer on {subject} within {timeout_s} s") from None
        finally:
            del self._waiting[reply]

    async def respond(self, reply: str, payload: bytes) -> None:
        if reply:
            self._send(Message(reply, payload, ""))

    async def subscribe(
        self, subject: str, handler: Handler, *, max_concurrent: int = 1, max_pending: int = 8_192
    ) -> MemorySubscription:
        dispatcher = Dispatcher(subject, handler, max_concurrent=max_concurrent, max_pending=max_pending)
        subscription = MemorySubscription(self._bus, self._name, subject, dispatcher)
        self._bus.add(subscription)
        return subscription

    async def flush(self, timeout_s: float = 2.0) -> None:  # noqa: ARG002 - there is nothing to wait for
        if not self._connected:
            raise BusUnavailable("not connected")
        await asyncio.sleep(0)

    def on_connection(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)

    async def aclose(self) -> None:
        """Take the inbox down, as the end of the process would."""
        if self._inbox_subscription is not None:
            await self._inbox_subscription.unsubscribe()

    def _send(self, message: Message) -> int:
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            raise BusTooLarge(f"{len(message.payload)} bytes, the limit is {MAX_PAYLOAD_BYTES}")
        if not self._connected:
            raise BusUnavailable("not connected")
        return self._bus.route(self._name, message)

    def _listen(self) -> None:
        if self._inbox_subscription is None:
            dispatcher = Dispatcher(self._inbox, self._answered, max_concurrent=1, max_pending=65_536)
            subject = f"{self._inbox}.*"
            self._inbox_subscription = MemorySubscription(self._bus, self._name, subject, dispatcher)
            self._bus.add(self._inbox_subscription)

    async def _answered(self, message: Message) -> None:
        answer = self._waiting.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message.payload)
