"""How full the logs are: stop admitting before it is too late, and make room (rule L6, docs/PROTOCOL.md).

A log stream refuses new messages when it is full; it never forgets by itself. So above STOP_SHARE no more budget is
lent: what is left is for settlements, control and fences. And above TRIM_SHARE the oldest messages go, but only those
that a checkpoint of this process has folded *and* the audit has written; fences never go, because a purged fence would
let its writer in again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from controlplane.takeover import Logs
from events.log.port import LogUnavailable, StreamPort, StreamState
from events.subjects import CONTROL_LOG, CONTROL_STREAM, NODE_LOGS, NODE_MARK, NODES_STREAM

EVERY_S = 5.0
"""At 50 MB a second, far beyond any load, a stream of 4 GiB fills by a twentieth in that time."""

TRIM_EVERY = 12
"""Looks between two trims of a stream: a checkpoint and a purge are work."""

TRIM_SHARE = 0.7
STOP_SHARE = 0.9

TRIMMED_SUBJECTS = {CONTROL_STREAM: (CONTROL_LOG,), NODES_STREAM: (NODE_LOGS, NODE_MARK)}

Audited = Callable[[], Awaitable[Mapping[str, int] | None]]
"""Per stream, the sequence below which the audit has written everything; None while it cannot be asked."""

_log = logging.getLogger(__name__)


class Checkpointed(Protocol):
    """The leader's recorder."""

    async def save(self) -> None:
        """Write a checkpoint now."""

    def saved_through(self, stream: str) -> int:
        """The sequence that the newest checkpoint written by this process has folded; 0 before the first."""


class LogWatch:
    """`on_full` hears whether any log is too full to admit more."""

    def __init__(
        self, logs: Logs, checkpoints: Checkpointed, audited: Audited, on_full: Callable[[bool], None]
    ) -> None:
        self._logs = logs
        self._checkpoints = checkpoints
        self._audited = audited
        self._on_full = on_full
        self._full = False
        self._rest: dict[str, int] = {}
        self.shares: dict[str, float] = {}
        """How full each stream is, 0 to 1, for metrics."""

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            for port in self._logs:
                try:
                    await self._look(port)
                except LogUnavailable as error:
                    _log.info("stream %s does not answer: %s", port.name, error)
            self._tell(any(share > STOP_SHARE for share in self.shares.values()))
            await asyncio.sleep(EVERY_S)

    async def _look(self, port: StreamPort) -> None:
        state = await port.state()
        self.shares[port.name] = state.full_share
        self._rest[port.name] = max(0, self._rest.get(port.name, 0) - 1)
        if state.full_share > TRIM_SHARE and not self._rest[port.name]:
            self._rest[port.name] = TRIM_EVERY
            await self._trim(port, state)

    async def _trim(self, port: StreamPort, state: StreamState) -> None:
        await self._checkpoints.save()
        audited = await self._audited()
        if audited is None:
            _log.warning("stream %s is %.0f%% full, and the audit does not answer", port.name, 100 * state.full_share)
            return
        # The message that a checkpoint names stays: it is what the next start compares.
        through = min(self._checkpoints.saved_through(port.name), audited.get(port.name, 0)) - 1
        if through < state.first_sequence:
            return
        removed = 0
        for subject in TRIMMED_SUBJECTS[port.name]:
            removed += await port.trim(subject, through)
        self.shares[port.name] = (await port.state()).full_share
        _log.info("stream %s: %d messages through %d removed", port.name, removed, through)

    def _tell(self, full: bool) -> None:  # noqa: FBT001 - the fact is the argument
        if full != self._full:
            _log.log(logging.CRITICAL if full else logging.INFO, "the logs are %s", "too full" if full else "in order")
        self._full = full
        self._on_full(full)
