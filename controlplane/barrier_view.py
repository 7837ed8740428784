"""What a barrier waits for: a predicate of the folds and of how old a fence is (rule B3, docs/PROTOCOL.md). Pure.

The barrier for sequence S is complete when every incarnation that joined before S either says in its log that it
acts on S, or has been fenced for `proof_ttl`. An incarnation that was let in but whose fence has not been seen
opened yet (the fold of the node logs lags) counts as one that has not applied anything.

A fence's age counts from the moment its message was folded here, which is after it was stored; a new leader counts
all of them from its takeover, because it cannot know when they were stored.
"""

from typing import NamedTuple

from events.state.nodes import Node
from events.state.replica import Replica


class Standing(NamedTuple):
    """Who still stands in the way of a barrier.

    `unapplied`: living incarnations that have not applied it. `ripens_ns`: when the newest fence that matters will
    be old enough, on the elapsed clock (None: no fence is too young).
    """

    unapplied: tuple[str, ...]
    ripens_ns: int | None

    @property
    def clear(self) -> bool:
        return not self.unapplied and self.ripens_ns is None


class BarrierView:
    """The predicate, over one leader's replica. All times are on the elapsed clock."""

    def __init__(self, replica: Replica, *, takeover_ns: int, proof_ttl_ns: int) -> None:
        self._replica = replica
        self._takeover_ns = takeover_ns
        self._proof_ttl_ns = proof_ttl_ns
        self._fenced_ns: dict[str, int] = {}
        # Nodes that may still matter: all but those whose fence has been old enough once.
        self._relevant = dict(replica.state.nodes)

    def joined(self, node: Node) -> None:
        """NodeJoined was folded."""
        self._relevant[node.incarnation] = node

    def fenced(self, incarnation: str, now_ns: int) -> None:
        """The fold has just passed the incarnation's fence."""
        if incarnation in self._relevant:
            self._fenced_ns[incarnation] = now_ns

    def standing(self, seq: int, now_ns: int) -> Standing:
        """Who stands in the way of the barrier for `seq` now."""
        unapplied = []
        newest_ns = now_ns
        past = []
        nodes = self._replica.nodes
        for node in self._relevant.values():
            if node.joined_seq >= seq:
                continue
            log = nodes.living.get(node.incarnation)
            if log is not None:
                if log.applied < seq:
                    unapplied.append(node.incarnation)
            elif node.fence_seq > nodes.seq:
                unapplied.append(node.incarnation)  # its log is not even open in the fold
            elif (ripens_ns := self._ripens_ns(node.incarnation)) > now_ns:
                newest_ns = max(newest_ns, ripens_ns)
            else:
                past.append(node.incarnation)
        for incarnation in past:
            del self._relevant[incarnation]
            self._fenced_ns.pop(incarnation, None)
        return Standing(tuple(unapplied), newest_ns if newest_ns > now_ns else None)

    def young_fence(self, now_ns: int) -> bool:
        """Whether some incarnation that was fenced may still have a proof young enough to send."""
        living = self._replica.nodes.living
        return any(name not in living and self._ripens_ns(name) > now_ns for name in self._relevant)

    def lowest_applied(self) -> int:
        """Everything through this sequence has been applied by all living incarnations."""
        return min((log.applied for log in self._replica.nodes.living.values()), default=self._replica.control_seq)

    def _ripens_ns(self, incarnation: str) -> int:
        return max(self._fenced_ns.get(incarnation, 0), self._takeover_ns) + self._proof_ttl_ns
