"""Which open requests repeat one call, by the digest of their idempotency key (rule S1, docs/PROTOCOL.md).

A vendor that knows idempotency keys executes a key's call once and replays that answer to every repeat. So a replayed
answer says what all attempts of the call have done together, wherever they went through: the node that sent the
first one may be another, or dead. An attempt that has an outcome is no longer here; nothing is kept beyond that.
"""

REPLAYED_NS = 24 * 3_600 * 1_000_000_000
"""Stripe keeps a key for 24 hours at least, and executes its call anew once it is forgotten. So a replayed answer says
nothing about an attempt that was admitted longer ago than this: it may be another execution's."""


class Repeats:
    """Names of open requests by digest. Bounded by the requests that are open."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int]] = {}

    def add(self, digest: str, name: str, at_ns: int) -> None:
        """`name` was admitted at `at_ns` and carries the key of that digest."""
        names = self._names.get(digest)
        if names is None:
            self._names[digest] = {name: at_ns}
        else:
            names[name] = at_ns

    def drop(self, digest: str, name: str) -> None:
        """It is over."""
        names = self._names[digest]
        del names[name]
        if not names:
            del self._names[digest]

    def others(self, digest: str, name: str, at_ns: int) -> list[str]:
        """All but `name` of which an answer that was replayed at `at_ns` tells."""
        names = self._names.get(digest)
        if names is None:
            return []
        return [other for other, since_ns in names.items() if other != name and at_ns - since_ns <= REPLAYED_NS]
