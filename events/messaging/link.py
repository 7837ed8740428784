"""One process's connection to NATS: what bus and logs share.

The client library reconnects by itself and replays its subscriptions. What it does not do is done here:

- It can give up for good (the server says "authorization violation" after a reload, "slow consumer",
  "maximum connections"). The link then makes a new client and subscribes everything again.
- A request costs little: one wildcard inbox for all answers, a dictionary of waiting futures, a time-out
  of our own. When the connection is lost, whoever waits is told at once instead of after the time-out.
- Nothing is sent while disconnected. The library would buffer it, and send it when nobody waits any more.
- It stays with a server that answers pings, though that one may be cut off from its cluster. Whoever uses what lies
  behind the server says whether it answers (`served`, `unserved`).
"""

import asyncio
import secrets
import ssl
from collections.abc import Callable
from functools import partial

import nats.errors
from nats.aio.msg import Msg

from events.messaging.client import ErrorLog, SturdyClient, end_client, open_client
from events.messaging.credentials import NODE_PAYLOAD_BYTES, NatsCredentials
from events.messaging.subscriptions import GONE, Callback, LinkSubscription, SubscriptionAtOnce
from events.tls import client_tls

UNSENT_BYTES_MAX = 16 << 20
"""Two of the largest messages. What a connection has not taken by then does not get through in time."""

_REBUILD_TIMEOUT_S = 10.0
_REBUILD_PAUSE_S = 0.5
_RENEW_TIMEOUT_S = 3.0
_FLUSH_S = 2
MOVE_AFTER_S = 4.0
"""Nothing answered for so long: it may be this server that is cut off. An ordinary election takes as long."""
_ANSWERS_S = 0.5
"""For questions under way when one connection replaces another."""

STUCK_S = 20.0
"""Without a connection for so long: the library may have ceased to try. A new client costs nothing then."""
_LOOK_S = 1.0


class LinkError(Exception):
    """Base of what a link raises. The message was not sent, unless it is `LinkTimeout` or `LinkLost`."""


class LinkDown(LinkError):
    """Not connected; nothing was sent."""


class LinkBacklog(LinkError):
    """The connection does not take what is sent; nothing was added."""


class LinkTooLarge(LinkError):
    """Above the server's `max_payload`; nothing was sent."""


class LinkTimeout(LinkError):
    """Sent, and no answer in time."""


class LinkLost(LinkError):
    """Sent, and the connection was lost before the answer."""


class NatsLink:
    """Open with `open`, end with `close`. Listeners hear False when the connection is lost, True when back."""

    def __init__(self, credentials: NatsCredentials, *, name: str) -> None:
        self._credentials = credentials
        self._name = name
        self._tls = _context(credentials)
        self._generation = 0
        self._unserved_since: float | None = None
        self._errors = ErrorLog(name)
        self._client: SturdyClient | None = None
        self._subscriptions: list[LinkSubscription] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._up = False
        self._closing = False
        self._rebuilding: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._inbox = f"{credentials.inbox_prefix}.{secrets.token_hex(8)}"
        self._requests = 0
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    @property
    def connected(self) -> bool:
        return self._up and self._client is not None and self._client.is_connected

    @property
    def max_payload_bytes(self) -> int:
        server = int(self._client.max_payload) if self._client is not None else 1 << 20
        return min(server, NODE_PAYLOAD_BYTES) if self._credentials.slot else server

    @property
    def last_error(self) -> str:
        """The newest asynchronous error, such as a permission denial; empty if there was none."""
        return self._errors.last

    def new_inbox(self) -> str:
        """Return a subject prefix that nobody else listens to or can guess."""
        return f"{self._credentials.inbox_prefix}.{secrets.token_hex(8)}"

    def on_connection(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)

    def off_connection(self, listener: Callable[[bool], None]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def open(self, timeout_s: float) -> None:
        """Connect. Raises LinkDown with the reason."""
        try:
            self._client = await self._connect(timeout_s, self._generation)
        except TimeoutError:
            reason = self._errors.summary() or f"no answer from {', '.join(self._credentials.servers)}"
            raise LinkDown(f"no connection within {timeout_s:g} s: {reason}") from None
        self._up = True
        await self.subscribe_at_once(f"{self._inbox}.*", self._answered)
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name=f"nats watch {self._name}")

    async def close(self) -> None:
        """End the connection; whoever waits for an answer gets LinkLost. Idempotent."""
        self._closing = True
        self._up = False
        for task in filter(None, (self._watching, self._rebuilding)):
            task.cancel()
            await asyncio.wait({task})
        client, self._client = self._client, None
        if client is not None:
            await end_client(client)
        self._fail_waiting()

    def served(self) -> None:
        """What is behind the server has answered."""
        self._unserved_since = None

    async def unserved(self) -> None:
        """What is behind the server has not answered. If that lasts, go to another server, if there are several."""
        now = asyncio.get_running_loop().time()
        if self._unserved_since is None:
            self._unserved_since = now
        client = self._client
        if (
            client is not None
            and self.connected
            and len(self._credentials.servers) > 1
            and now - self._unserved_since > MOVE_AFTER_S
        ):
            self._unserved_since = None
            await self._lost(self._generation)
            await client.force_reconnect()

    async def renew(self, credentials: NatsCredentials) -> bool:
        """See `NatsConnection.renew`."""
        if (credentials.user, credentials.slot, credentials.inbox_prefix) != (
            self._credentials.user,
            self._credentials.slot,
            self._credentials.inbox_prefix,
        ):
            raise ValueError("the new NATS credentials are another user's; that takes a restart")
        tls = _context(credentials)
        self._credentials, self._tls = credentials, tls
        old = self._client
        if old is None or self._closing or self._rebuilding is not None:
            return False  # whatever connects next uses them
        # What the old client would reconnect with.
        old.options |= {"user": credentials.user, "password": credentials.password}
        try:
            fresh = await self._connect(_RENEW_TIMEOUT_S, self._generation + 1)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            await self._errors.note(error)
            return False
        if self._closing or self._client is not old or self._rebuilding is not None:
            await end_client(fresh)
            return False
        return await self._swap(old, fresh)

    async def _swap(self, old: SturdyClient, fresh: SturdyClient) -> bool:
        """The new connection hears everything before the old one goes: nothing sent meanwhile is missed. False: it
        failed in that moment, and another one is made.
        """
        asked = [answer for answer in self._waiting.values() if not answer.done()]
        self._client = fresh
        self._generation += 1
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.attach(fresh)
            await fresh.flush(_FLUSH_S)
        except (nats.errors.Error, *GONE) as error:
            await self._errors.note(error)
            await end_client(fresh)
            await self._gave_up(self._generation)
            await end_client(old)
            return False
        await self._back(self._generation)
        if asked:
            await asyncio.wait(asked, timeout=_ANSWERS_S)
        await end_client(old)
        return True

    async def subscribe(self, subject: str, callback: Callback) -> LinkSubscription:
        """Call `callback` for each message, one after the other."""
        return await self._subscribe(LinkSubscription(self.forget, subject, callback))

    async def subscribe_at_once(self, subject: str, deliver: Callable[[Msg], None]) -> LinkSubscription:
        """Call `deliver` for each message as it is read: less work, but nothing else is read meanwhile."""
        return await self._subscribe(SubscriptionAtOnce(self.forget, subject, deliver))

    async def _subscribe(self, subscription: LinkSubscription) -> LinkSubscription:
        self._subscriptions.append(subscription)
        if self._client is not None and not self._client.is_closed:
            await subscription.attach(self._client)
        return subscription

    def forget(self, subscription: LinkSubscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand a message to the connection. Raises LinkDown, LinkBacklog, LinkTooLarge."""
        client = self._client
        if client is None or not self.connected:
            raise LinkDown("not connected")
        if len(payload) > self.max_payload_bytes:
            raise LinkTooLarge(f"{len(payload)} bytes, the limit is {self.max_payload_bytes}")
        if client.pending_data_size + len(payload) > UNSENT_BYTES_MAX:
            raise LinkBacklog("the connection takes nothing")
        try:
            await client.publish(subject, payload, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError:
            raise LinkTooLarge(f"{len(payload)} bytes, the limit is {self.max_payload_bytes}") from None
        except GONE as error:
            raise LinkDown(f"{type(error).__name__}: {error}") from None

    async def request(
        self, subject: str, payload: bytes, timeout_s: float, *, headers: dict[str, str] | None = None
    ) -> Msg:
        """Send a message and return the first answer. Raises LinkError."""
        loop = asyncio.get_running_loop()
        self._requests += 1
        token = str(self._requests)
        answer: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = answer
        timer = loop.call_later(timeout_s, _expire, answer)
        try:
            await self.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            return await answer
        finally:
            timer.cancel()
            del self._waiting[token]

    async def flush(self, timeout_s: float) -> None:
        """Wait until the server has taken everything sent so far. Raises LinkError."""
        client = self._client
        if client is None or not self.connected:
            raise LinkDown("not connected")
        try:
            await client.flush(timeout=timeout_s)  # type: ignore[arg-type] # annotated as int, used as seconds
        except nats.errors.TimeoutError:
            raise LinkTimeout(f"the server did not answer within {timeout_s:g} s") from None
        except GONE as error:
            raise LinkDown(f"{type(error).__name__}: {error}") from None

    async def _connect(self, timeout_s: float, generation: int) -> SturdyClient:
        """A client whose callbacks count only while it is the one of its generation."""
        return await open_client(
            self._credentials,
            name=self._name,
            errors=self._errors,
            on_lost=partial(self._lost, generation),
            on_back=partial(self._back, generation),
            on_closed=partial(self._gave_up, generation),
            tls=self._tls,
            timeout_s=timeout_s,
        )

    def _answered(self, msg: Msg) -> None:
        answer = self._waiting.get(msg.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(msg)

    def _fail_waiting(self) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(LinkLost("the connection was lost"))

    async def _lost(self, generation: int) -> None:
        if self._up and generation == self._generation:
            self._up = False
            self._fail_waiting()
            self._tell(connected=False)

    async def _back(self, generation: int) -> None:
        if generation != self._generation:
            return
        self._errors.forget()
        if not self._up and not self._closing:
            self._up = True
            self._tell(connected=True)

    async def _gave_up(self, generation: int) -> None:
        if generation != self._generation:
            return
        await self._lost(generation)
        if not self._closing and self._rebuilding is None and self._client is not None:
            self._rebuilding = asyncio.get_running_loop().create_task(self._rebuild(), name=f"nats {self._name}")
            self._rebuilding.add_done_callback(self._rebuild_ended)

    async def _watch(self) -> None:
        """Replace a client that stays without a connection. (When one fails while it is made, two of the library's
        tasks can undo each other's work, and then none tries any more.)
        """
        down_s = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            client = self._client
            down_s = 0.0 if self.connected or self._rebuilding is not None else down_s + _LOOK_S
            if down_s >= STUCK_S and client is not None:
                down_s = 0.0
                await end_client(client)
                await self._gave_up(self._generation)

    async def _rebuild(self) -> None:
        """Replace a client that has ended, however long it takes."""
        while not await self._rebuilt():  # noqa: ASYNC110 - a pause between attempts, nothing to wait for
            await asyncio.sleep(_REBUILD_PAUSE_S)
        self._rebuilding = None
        await self._back(self._generation)

    async def _rebuilt(self) -> bool:
        try:
            client = await self._connect(_REBUILD_TIMEOUT_S, self._generation + 1)
            self._client = client
            self._generation += 1
            for subscription in tuple(self._subscriptions):
                await subscription.attach(client)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            await self._errors.note(error)
            return False
        return not client.is_closed

    def _rebuild_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"nats connection {self._name} could not be rebuilt", "exception": error}
            )

    def _tell(self, *, connected: bool) -> None:
        for listener in tuple(self._listeners):
            listener(connected)


def _context(credentials: NatsCredentials) -> ssl.SSLContext | None:
    return client_tls(credentials.tls).ssl if credentials.tls is not None else None


def _expire(answer: "asyncio.Future[Msg]") -> None:
    if not answer.done():
        answer.set_exception(LinkTimeout("no answer in time"))
