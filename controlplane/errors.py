"""How a command can end other than with its answer. Raised by the leader, rendered by the API."""

from controlplane.commands.base import CommandRefusal


class CommandRefused(Exception):
    """The command was looked at and not carried out; nothing changed."""

    def __init__(self, refusal: CommandRefusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class LogUnavailable(Exception):
    """The control log could not be written in time. Whether the change was recorded is not known.

    Every command may be repeated: what was recorded is found, the rest is done.
    """


class BarrierOpen(Exception):
    """The change is recorded, but some node may still act on the old policy. Repeat the command to wait again."""


class NotLeading(Exception):
    """Another control plane leads, or this one has not caught up yet; ask again shortly."""
