"""How far the audit is, told over the bus once a second by its writer and heard by control planes.

Nothing depends on it but what operators see: that the audit is behind, or silent, neither stops requests nor commands.
The logs keep what is not written, and trimming asks the audit's own store (controlplane.log_watch).
"""

from collections.abc import Mapping

import msgspec

from events.clock import Clock
from events.messaging.port import Bus, Message, Subscription
from events.subjects import AUDIT_STATUS

SILENT_S = 15.0
"""After so long without a word the audit counts as silent."""


class LogProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """`written_through`: sequence below which everything is written. `lag_s`: age of the oldest event that is not."""

    written_through: int = 0
    lag_messages: int = 0
    lag_s: float = 0.0
    trouble: str = ""


class AuditStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """By log (`control`, `nodes`)."""

    logs: dict[str, LogProgress]


class AuditEar:
    """A control plane's newest knowledge of the audit. `start` it in the loop that uses it."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._heard_ns = clock.elapsed_ns()
        self._status: AuditStatus | None = None
        self._decode = msgspec.json.Decoder(AuditStatus).decode
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listen. The silence counts from here."""
        self._heard_ns = self._clock.elapsed_ns()
        self._subscription = await self._bus.subscribe(AUDIT_STATUS, self._on_message)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    @property
    def logs(self) -> Mapping[str, LogProgress]:
        """The newest word; empty before the first."""
        return self._status.logs if self._status is not None else {}

    def silent_s(self) -> float:
        return (self._clock.elapsed_ns() - self._heard_ns) / 1e9

    async def _on_message(self, message: Message) -> None:
        try:
            self._status = self._decode(message.payload)
        except msgspec.DecodeError:
            return  # a newer version's word; its silence shows
        self._heard_ns = self._clock.elapsed_ns()


def encode_status(logs: Mapping[str, LogProgress]) -> bytes:
    return msgspec.json.encode(AuditStatus(dict(logs)))
