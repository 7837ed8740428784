"""What comes from elsewhere and interrupts requests in flight: changes of the policy (rule B1) and fences (F3).

| | before it was sent | sent, a stream | sent, no stream |
|---|---|---|---|
| its key, agent or endpoint is forbidden now | released, refused | cut | ends normally; a half-sent body is aborted |
| a cap of its accounts is lower now, or it belongs to other accounts | released, admitted again | goes on | goes on |
| its incarnation is fenced | released, admitted again | cut | ends normally |

All of it happens in the step in which the change is applied, and only then is `Applied` queued: whoever reads that in
the log knows that this node sends nothing more that the change forbids.
"""

from typing import Final

from dataplane.admit import AGAIN, CAPS_CHANGED
from dataplane.core.access import still_allowed
from dataplane.core.snapshot import Changes
from dataplane.ends import Ends
from dataplane.inflight import Admission, Incarnation
from dataplane.node import Node
from events.types import Applied
from schemas.refusals import Refusal, refuse
from schemas.rpc import JoinAnswer

STREAM_CUT: Final = refuse("stream_cut", "this node lost its proof of authority in the middle of the stream")


class Enforcer:
    """Applies changes and fences to one node's requests."""

    def __init__(self, node: Node, ends: Ends) -> None:
        self._node = node
        self._ends = ends

    def changed(self, changes: Changes | None, through: int) -> None:
        """The snapshot holds the control log through a sequence now; `changes` None: it was loaded anew."""
        self.enforce(changes)
        self._say_applied(through)

    def enforce(self, changes: Changes | None) -> None:
        """Withdraw and cut what the policy no longer allows."""
        if changes is not None and not changes:
            return
        incarnation = self._node.incarnation
        if incarnation is not None and (changes is None or changes.tightened):
            if changes is None:
                incarnation.desk.lowered_anywhere()
            else:
                incarnation.desk.lowered(changes.tightened)
        for admission in self._node.inflight:
            if changes is None or _concerns(changes, admission):
                self._check(admission, changes)

    def _check(self, admission: Admission, changes: Changes | None) -> None:
        node, wanted = self._node, admission.wanted
        call = (wanted.upstream, wanted.method, wanted.segments, wanted.model)
        caller, refusal = still_allowed(node.snapshot, admission.caller, wanted.digest, node.feed.now_ns(), call)
        if refusal is not None:
            self._stop(admission, refusal)
        elif admission.unsent:
            lowered = changes is None or not changes.tightened.isdisjoint(caller.accounts)
            if lowered or caller.accounts != admission.caller.accounts:
                self._ends.withdraw(admission, CAPS_CHANGED, "caps_changed")

    def _stop(self, admission: Admission, refusal: Refusal) -> None:
        if admission.unsent:
            self._ends.withdraw(admission, refusal, refusal.code)
        else:
            cut(admission, refusal)

    def joined(self, incarnation: Incarnation, answer: JoinAnswer) -> None:
        """A new incarnation: its log gets what the last one's could not take, and where the policy stands."""
        node = self._node
        node.feed.heard(answer.epoch, answer.now_ns, log_full=answer.log_full)
        node.journal.attach(incarnation.log)
        node.rates.joined()
        if node.feed.loaded:
            self._say_applied(node.snapshot.position)
            if node.snapshot.position < incarnation.joined_seq:
                node.feed.seek()

    def fenced(self, incarnation: Incarnation) -> None:
        """An incarnation is over: what it admitted and did not send is released, its streams are cut."""
        self._node.journal.detach()
        for admission in self._node.inflight:
            if admission.incarnation is not incarnation:
                continue
            if admission.unsent:
                self._ends.withdraw(admission, AGAIN, "fenced")
            elif admission.wanted.stream:
                cut(admission, STREAM_CUT)

    def _say_applied(self, through: int) -> None:
        incarnation = self._node.incarnation
        if incarnation is not None and through > incarnation.applied:
            incarnation.applied = through
            self._node.journal.post((Applied(through),))


def _concerns(changes: Changes, admission: Admission) -> bool:
    caller = admission.caller
    return (
        caller.key.id in changes.keys
        or caller.agent.name in changes.agents
        or not changes.tightened.isdisjoint(caller.accounts)
    )


def cut(admission: Admission, refusal: Refusal) -> None:
    """Tell whoever relays it, once. Whether there is something to cut is known there."""
    if admission.refusal is None:
        admission.refusal = refusal
        if admission.on_cut is not None:
            admission.on_cut(refusal)
