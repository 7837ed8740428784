"""How much each slot writes to the node logs: who fills them is named, long before they are full.

NATS limits what an account may send in one message and how many connections it has, and has no limit of bytes a
second. A stolen credential can therefore fill the node logs, and a fence does not stop it: a fence stops writers who
assert it. What ends it is taking the credential away (docs/DEPLOY.md). So this only tells, loudly, whom.
"""

import logging
from collections.abc import Callable

from events.subjects import parse_node_log

WINDOW_S = 60.0
LIMIT_BYTES = 2 << 30
"""In a minute. A node at its fastest writes some 40 MB a second; the default stream has 32 GiB."""

MAX_SLOTS = 1_000
"""Slots counted at a time; a server knows fewer."""

_log = logging.getLogger(__name__)


class SlotVolumes:
    """`tell(slot, size_bytes)` is called at most once a window and slot."""

    def __init__(
        self,
        elapsed_ns: Callable[[], int],
        *,
        limit_bytes: int = LIMIT_BYTES,
        tell: Callable[[str, int], None] | None = None,
    ) -> None:
        self._elapsed_ns = elapsed_ns
        self._limit_bytes = limit_bytes
        self._tell = tell or _warn
        self._since_ns = elapsed_ns()
        self._written: dict[str, int] = {}

    def count(self, subject: str, size_bytes: int) -> None:
        """A message was stored on `subject`."""
        owner = parse_node_log(subject)
        if owner is None:
            return
        now_ns = self._elapsed_ns()
        if now_ns - self._since_ns > WINDOW_S * 1e9 or len(self._written) > MAX_SLOTS:
            self._since_ns = now_ns
            self._written.clear()
        before = self._written.get(owner.slot, 0)
        after = self._written[owner.slot] = before + size_bytes
        if before <= self._limit_bytes < after:
            self._tell(owner.slot, after)


def _warn(slot: str, size_bytes: int) -> None:
    _log.critical(
        "slot %s writes %d MB to the node logs within a minute. If that is no load that you know, take its "
        "credential away: remove it from nats-server's configuration and reload that",
        *(slot, size_bytes >> 20),
    )
