"""`Idempotency-Key`: the same answer again, token included, for ten minutes, in memory only.

A vault key's token is shown once; a client that lost the answer asks again under the same key and gets the same
token, not a second vault key. Nothing is stored: after a restart the retry issues another key, and the first
one, whose token nobody has, expires unused.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from controlplane.api.answers import Answer
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid, refuse
from controlplane.errors import LogUnavailable

KEPT_NS = 600_000_000_000
ENTRIES = 10_000
"""About 2 kB each. When full the oldest answer is forgotten first."""
MAX_KEY_CHARS = 255

Outcome = Answer | CommandRefusal


@dataclass(slots=True)
class _Entry:
    digest: bytes
    until_ns: int
    outcome: asyncio.Future[Outcome] = field(repr=False)


class Replays:
    """Answers by (operator, idempotency key). Times are of an elapsed clock, in nanoseconds."""

    def __init__(self, elapsed_ns: Callable[[], int]) -> None:
        self._elapsed_ns = elapsed_ns
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    async def once(self, operator: str, key: str, body: bytes, make: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Make the answer, or give the one that was made before. A failure is not kept: the retry tries again.

        Two at once under one key get one answer. Raises what `make` raises.
        """
        if not key or not key.isprintable() or len(key) > MAX_KEY_CHARS:
            return invalid("Idempotency-Key", f"the key is not printable text of 1 to {MAX_KEY_CHARS} characters")
        self._forget_old()
        digest = hashlib.sha256(body).digest()
        entry = self._entries.get((operator, key))
        if entry is None:
            return await self._make((operator, key), digest, make)
        if entry.digest != digest:
            return refuse("idempotency_key_reused", "the key came before with another body", "Idempotency-Key")
        outcome = await asyncio.shield(entry.outcome)
        return _replayed(outcome) if isinstance(outcome, Answer) else outcome

    async def _make(self, name: tuple[str, str], digest: bytes, make: Callable[[], Awaitable[Outcome]]) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = self._entries[name] = _Entry(digest, self._elapsed_ns() + KEPT_NS, future)
        try:
            outcome = await make()
        except BaseException as error:
            self._drop(name, entry)
            # Whoever waits gets it; if nobody does, it is still seen to. A cancelled first request must not
            # cancel those that wait for it.
            cancelled = LogUnavailable("the request that was to make this answer was interrupted")
            future.set_exception(error if isinstance(error, Exception) else cancelled)
            future.exception()
            raise
        if isinstance(outcome, CommandRefusal):
            self._drop(name, entry)
        future.set_result(outcome)
        return outcome

    def _drop(self, name: tuple[str, str], entry: _Entry) -> None:
        if self._entries.get(name) is entry:
            del self._entries[name]

    def _forget_old(self) -> None:
        now_ns = self._elapsed_ns()
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.until_ns > now_ns and len(self._entries) < ENTRIES:
                return
            self._entries.popitem(last=False)


def _replayed(answer: Answer) -> Answer:
    return Answer(answer.body, answer.status, answer.content_type, {**answer.headers, "Idempotent-Replayed": "true"})
