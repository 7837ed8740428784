"""How full the logs are: stop admitting before it is too late, and make room (rule L6, docs/PROTOCOL.md).

A log stream refuses new messages when it is full; it never forgets by itself. So above STOP_SHARE nothing is admitted,
capped or not: nodes learn it with the feed, and the ledger lends nothing. What is left then is for settlements, control
and fences. Once there is room again (RESUME_SHARE; the gap keeps a log at its mark from opening and closing the gate
with every look) requests are admitted again. And above TRIM_SHARE the oldest messages go, but only those that a
checkpoint of this process has folded *and* the audit has written; fences never go, because a purged fence would let
its writer in again.

Why the rest is enough
    After the stop come, from each node: intents of the time until it has heard (a look and a heartbeat of the feed,
    1.25 s, of at most 5,000 requests a second and 0.7 KB each: 4.4 MB), and the end of each request in flight (at most
    some 4,000 of 0.6 KB: 2.4 MB). NODE_BYTES rounds that up; refusals are only counted meanwhile. So the reserve is a
    tenth of the stream, or that much for each node, if it is more. Signs of life go on, 2 KB a second from an idle
    node: 8 MiB in an hour, the time that an operator has. While no leader lives nobody says stop: nodes go on for
    `feed_max_age` at most, and a node whose own append finds the stream full admits nothing more either.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from controlplane.following import Logs
from events.log.port import LogUnavailable, StreamPort, StreamState
from events.subjects import CONTROL_LOG, CONTROL_STREAM, NODE_LOGS, NODE_MARK, NODES_STREAM

EVERY_S = 5.0
"""At 50 MB a second, far beyond any load, a stream of 4 GiB fills by a twentieth in that time."""

CLOSE_EVERY_S = 1.0
CLOSE_SHARE = 0.75
"""Above it every second counts."""

TRIM_EVERY_S = 60.0
"""Between two trims of a stream: a checkpoint and a purge are work."""

TRIM_SHARE = 0.7
STOP_SHARE = 0.9
RESUME_SHARE = 0.85
NODE_BYTES = 8 << 20
MAX_RESERVE_SHARE = 0.25
"""A stream of which a quarter is not enough for its nodes is too small: 32 MiB for each node is the least."""

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
    """`on_full` hears after every look whether any log is too full to admit more. `nodes` counts the living ones.
    `checkpoints` None: a standby's, which trims nothing.
    """

    def __init__(
        self,
        logs: Logs,
        checkpoints: Checkpointed | None,
        audited: Audited,
        on_full: Callable[[bool], None],
        nodes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.ports = logs
        self._checkpoints = checkpoints
        self._audited = audited
        self._on_full = on_full
        self._nodes = nodes
        self._trim_due_s: dict[str, float] = {}
        self._silent_since_s: dict[str, float] = {}
        self.full = False
        self.states: dict[str, StreamState] = {}
        """The newest state of each stream, for metrics and alerts."""

    @property
    def shares(self) -> dict[str, float]:
        """How full each stream is, 0 to 1."""
        return {name: state.full_share for name, state in self.states.items()}

    def silent_s(self, stream: str) -> float:
        """How long the stream has not said how it stands; 0 if it answered when it was asked last."""
        since_s = self._silent_since_s.get(stream)
        return 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self.pause_s)

    @property
    def pause_s(self) -> float:
        """Until the next look."""
        near = any(share > CLOSE_SHARE for share in self.shares.values())
        return CLOSE_EVERY_S if near or self._silent_since_s else EVERY_S

    async def look(self) -> None:
        """Ask both streams, tell how they stand, make room where it is time."""
        for port in self.ports:
            try:
                self.states[port.name] = await port.state()
            except LogUnavailable as error:
                if port.name not in self._silent_since_s:
                    _log.warning("stream %s does not answer: %s", port.name, error)
                self._silent_since_s.setdefault(port.name, asyncio.get_running_loop().time())
            else:
                self._silent_since_s.pop(port.name, None)
        self._tell()
        for port in self.ports:
            try:
                await self._trim_if_due(port)
            except LogUnavailable as error:
                _log.info("stream %s cannot be trimmed now: %s", port.name, error)

    async def _trim_if_due(self, port: StreamPort) -> None:
        state, now_s = self.states.get(port.name), asyncio.get_running_loop().time()
        if state is None or state.full_share <= TRIM_SHARE or now_s < self._trim_due_s.get(port.name, 0.0):
            return
        if self._checkpoints is None:
            return
        self._trim_due_s[port.name] = now_s + TRIM_EVERY_S
        await self._trim(port, state, self._checkpoints)
        self.states[port.name] = await port.state()
        self._tell()

    async def _trim(self, port: StreamPort, state: StreamState, checkpoints: Checkpointed) -> None:
        await checkpoints.save()
        audited = await self._audited()
        if audited is None:
            _log.warning("stream %s is %.0f%% full, and the audit does not answer", port.name, 100 * state.full_share)
            return
        # The message that a checkpoint names stays: it is what the next start compares.
        through = min(checkpoints.saved_through(port.name), audited.get(port.name, 0)) - 1
        if through < state.first_sequence:
            return
        removed = 0
        for subject in TRIMMED_SUBJECTS[port.name]:
            removed += await port.trim(subject, through)
        _log.info("stream %s: %d messages through %d removed", port.name, removed, through)

    def _tell(self) -> None:
        full = any(self._is_full(state) for state in self.states.values())
        if full != self.full:
            _log.log(logging.CRITICAL if full else logging.INFO, "the logs are %s", "too full" if full else "in order")
        self.full = full
        self._on_full(full)

    def _is_full(self, state: StreamState) -> bool:
        stop = stop_share(state.max_bytes, self._nodes())
        return state.full_share > (stop - (STOP_SHARE - RESUME_SHARE) if self.full else stop)


def stop_share(max_bytes: int, nodes: int) -> float:
    """Above which share of a stream nothing is admitted; see the module's page."""
    if max_bytes <= 0:
        return STOP_SHARE
    return 1 - min(MAX_RESERVE_SHARE, max(1 - STOP_SHARE, nodes * NODE_BYTES / max_bytes))
