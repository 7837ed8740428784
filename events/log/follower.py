"""What all followers share: iteration over single messages."""

import abc
from collections.abc import AsyncIterator

from events.log.port import Stored


class MessageIterator(abc.ABC):
    """Iterates over what `next_batch` returns."""

    @abc.abstractmethod
    async def next_batch(self, max_messages: int = 1_000, timeout_s: float | None = None) -> list[Stored]:
        """See `events.log.port.Follower`."""

    async def __aiter__(self) -> AsyncIterator[Stored]:
        # One at a time, so that `position` is always the message that the caller holds.
        while True:
            for stored in await self.next_batch(max_messages=1):
                yield stored
