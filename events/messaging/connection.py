"""One connection to NATS, and everything that a process does over it: the bus and the logs."""

from events.log.jetstream import JetStreamAppender, JetStreamStream
from events.log.streams import StreamSpec, ensure_stream
from events.messaging.credentials import NatsCredentials
from events.messaging.link import LinkDown, NatsLink
from events.messaging.nats_bus import NatsBus
from events.messaging.port import BusUnavailable


class NatsConnection:
    """What `connect` returns. Close it at the end; its bus, streams and followers end with it."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self.bus = NatsBus(link)
        self.appender = JetStreamAppender(link)
        """Appends to any log that this user may write: all that a node needs."""

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def last_error(self) -> str:
        """The newest asynchronous error of the connection, such as a permission denial."""
        return self._link.last_error

    def stream(self, name: str) -> JetStreamStream:
        """A whole stream, for users of the control account."""
        return JetStreamStream(self._link, name)

    async def ensure_stream(self, spec: StreamSpec) -> JetStreamStream:
        """Make or check a stream. Raises StreamUnsafe, LogUnavailable."""
        await ensure_stream(self._link, spec)
        return self.stream(spec.name)

    async def renew(self, credentials: NatsCredentials) -> bool:
        """Take over new credentials, servers or certificates; True if the connection uses them now.

        The old connection goes on until a new one stands. If none does (the servers do not know the new password
        yet), it stays, and the new credentials count from the next connection on. Raises ValueError for another
        user's credentials, TlsUnusable; nothing changes then.
        """
        return await self._link.renew(credentials)

    async def close(self) -> None:
        await self._link.close()


async def connect(credentials: NatsCredentials, *, name: str, timeout_s: float = 10.0) -> NatsConnection:
    """Connect to NATS. `name` is what its operator sees in the list of connections.

    From then on the connection repairs itself. Raises BusUnavailable if there is none within `timeout_s`,
    TlsUnusable for certificate files that cannot be used.
    """
    link = NatsLink(credentials, name=name)
    try:
        await link.open(timeout_s)
    except BaseException as error:
        await link.close()
        if isinstance(error, LinkDown):
            raise BusUnavailable(str(error)) from None
        raise
    return NatsConnection(link)
