"""The bus: messages between processes that may be lost, and requests that may go unanswered.

Nothing that must not be lost travels here; that is what the logs are for. The bus carries leases, pushes,
the feed, and questions. Everything sent over it is repeated by its sender until the log shows the effect.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """`reply` is the subject to answer on; empty if nobody waits for an answer."""

    subject: str
    payload: bytes
    reply: str


Handler = Callable[[Message], Awaitable[None]]


class BusError(Exception):
    """Base of everything that a bus raises."""


class BusTimeout(BusError):
    """No answer in time. The request may have been carried out."""


class BusUnavailable(BusTimeout):
    """No answer is to be expected: not connected, nobody listens, or too much waits to be sent.

    A kind of time-out that is known early, so that a caller may treat both alike.
    """


class BusTooLarge(BusError):
    """The message exceeds what the bus carries (8 MiB). It was not sent; send it in parts."""


class Subscription(Protocol):
    """A standing interest in a subject."""

    @property
    def dropped(self) -> int:
        """Messages thrown away because `max_pending` of them were waiting."""

    async def unsubscribe(self) -> None:
        """Take no more messages; handlers that run are cancelled. Idempotent."""


class Bus(Protocol):
    """One client's way to the other processes."""

    @property
    def connected(self) -> bool:
        """Whether messages would leave now."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send to whoever listens. Raises BusUnavailable if it certainly cannot leave now, BusTooLarge."""

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Send and wait for the first answer. Raises BusTimeout, BusUnavailable, BusTooLarge."""

    async def respond(self, reply: str, payload: bytes) -> None:
        """Answer a message's `reply`; empty: nobody waits, nothing is sent.

        Raises BusUnavailable, BusTooLarge.
        """

    async def subscribe(
        self, subject: str, handler: Handler, *, max_concurrent: int = 1, max_pending: int = 8_192
    ) -> Subscription:
        """Call `handler` for every message on `subject` (wildcards allowed).

        `max_concurrent` of 1 keeps the order; more run at once, as requests that may wait should. Up to
        `max_pending` messages wait for a handler; the ones above are dropped and counted. A handler's
        exception is logged and counted, and touches no other message.
        """

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Return when the server has taken everything sent before. Raises BusTimeout."""

    def on_connection(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with False when the connection is lost, True when it is back."""
