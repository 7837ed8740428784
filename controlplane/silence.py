"""How long each node has been silent, counted only while it could have been heard. Pure (rule A2, docs/PROTOCOL.md).

What the log shows is all that counts as life. But a log that shows nothing may as well mean that nobody could write
it, that our fold lags, or that this process was paused; so silence is counted from the last moment at which that was
not excluded, and whoever judges must have proof (a mark that passed) for the whole span.
"""

from collections.abc import Iterable


class Silence:
    """By incarnation, when its silence began; on the elapsed clock."""

    def __init__(self, now_ns: int) -> None:
        self._since_ns: dict[str, int] = {}
        self._heard_ns: dict[str, int] = {}
        self._began_ns = now_ns

    def heard(self, incarnation: str, now_ns: int) -> None:
        """The fold has passed something that it wrote."""
        self._since_ns[incarnation] = self._heard_ns[incarnation] = now_ns

    def gone(self, incarnation: str) -> None:
        self._since_ns.pop(incarnation, None)
        self._heard_ns.pop(incarnation, None)

    def excuse(self, now_ns: int) -> None:
        """Nobody could have been heard until now: all silence begins anew."""
        self._began_ns = now_ns

    def silent_ns(self, incarnation: str, now_ns: int) -> int:
        """How long it could have been heard and was not."""
        return now_ns - max(self._since_ns.get(incarnation, 0), self._began_ns)

    def age_ns(self, incarnation: str, now_ns: int) -> int:
        """How long ago it was heard, whatever the reason; for people who look."""
        return now_ns - self._heard_ns.get(incarnation, self._began_ns)

    def over(self, incarnations: Iterable[str], limit_ns: int, now_ns: int) -> list[str]:
        return [name for name in incarnations if self.silent_ns(name, now_ns) >= limit_ns]
