"""Both logs folded into everything that the control plane knows, message by message.

One door for the leader, a standby, and a replay in a test: bytes in, state out, the same bytes the same state.
The two logs are folded in any interleaving; each keeps its own position.
"""

from collections.abc import Sequence

import msgspec

from events.codec import Batch, decode_batch
from events.log.port import Stored
from events.state.budget import Budget
from events.state.budget_image import BudgetImage, budget_from_image, budget_image
from events.state.control import ControlImage, ControlState
from events.state.node_logs import CorruptLog, NodeLog, NodeLogs
from events.subjects import CONTROL_FENCE, CONTROL_LOG
from events.types import ControlEvent, FenceOpened, NodeEvent, NodeFenced


class ReplicaImage(msgspec.Struct, frozen=True):
    """A checkpoint of a Replica: `control_seq` and `nodes_seq` are what it has folded."""

    control_seq: int
    nodes_seq: int
    leader: str
    leader_n: int
    fence_seq: int
    control: ControlImage
    budget: BudgetImage
    living: dict[str, NodeLog]
    at_ns: int = 0


class Folded(msgspec.Struct, frozen=True, gc=False):
    """A node message as it was folded: by whom, and what. `breaks`: nothing more of this log is believed."""

    seq: int
    actor: str
    events: Sequence[NodeEvent]
    breaks: bool = False


class Replica:
    """The control plane's state. `leader` may write the control log since `fence_seq`; `leader_n` counts there.

    `at_ns` is the newest time that a leader has put into the log.
    """

    def __init__(self) -> None:
        self.state = ControlState()
        self.budget = Budget()
        self.nodes = NodeLogs()
        self.control_seq = 0
        self.leader = ""
        self.leader_n = 0
        self.fence_seq = 0
        self.at_ns = 0

    def apply_control(self, message: Stored) -> Sequence[ControlEvent]:
        """Fold one message of RF_CONTROL; return its events if they count. Raises CorruptLog, CodecError."""
        self.control_seq = message.sequence
        batch = decode_batch(message.payload)
        if message.subject == CONTROL_FENCE:
            self._take_over(message.sequence, batch)
            return ()
        if message.subject != CONTROL_LOG or batch.actor != self.leader or batch.n <= self.leader_n:
            return ()  # a leader that was fenced, or a repeat
        if batch.n != self.leader_n + 1:
            raise CorruptLog(f"control log goes from {batch.actor}'s batch {self.leader_n} to {batch.n}")
        self.leader_n = batch.n
        self.at_ns = max(self.at_ns, batch.at_ns)
        events: Sequence[ControlEvent] = batch.events  # type: ignore[assignment]  # this log holds control events
        for event in events:
            self._apply_event(message.sequence, batch.at_ns, event)
        return events

    def apply_node(self, message: Stored) -> Folded | None:
        """Fold one message of RF_NODES; None if it brings nothing new. Raises CodecError for an unreadable fence."""
        passed = self.nodes.apply(message.sequence, message.subject, message.payload)
        if passed is None:
            return None
        if passed.breaks:
            self.budget.leases.keep(passed.actor)
        for event in passed.events:
            self.budget.apply_node(message.sequence, passed.actor, event)
        return Folded(message.sequence, passed.actor, passed.events, passed.breaks)

    def image(self) -> ReplicaImage:
        """A checkpoint; encode it before anything more is folded."""
        return ReplicaImage(
            control_seq=self.control_seq,
            nodes_seq=self.nodes.seq,
            leader=self.leader,
            leader_n=self.leader_n,
            fence_seq=self.fence_seq,
            control=self.state.image(),
            budget=budget_image(self.budget),
            living=dict(sorted(self.nodes.living.items())),
            at_ns=self.at_ns,
        )

    @classmethod
    def from_image(cls, image: ReplicaImage) -> "Replica":
        replica = cls()
        replica.state = ControlState.from_image(image.control)
        replica.budget = budget_from_image(image.budget)
        replica.nodes.living = dict(image.living)
        replica.nodes.seq = image.nodes_seq
        replica.control_seq = image.control_seq
        replica.leader = image.leader
        replica.leader_n = image.leader_n
        replica.fence_seq = image.fence_seq
        replica.at_ns = image.at_ns
        return replica

    def dump(self) -> bytes:
        """Canonical bytes: equal logs give equal bytes (P5)."""
        return msgspec.json.encode(self.image())

    @classmethod
    def load(cls, data: bytes) -> "Replica":
        """Raises msgspec.DecodeError for bytes that are no dump."""
        return cls.from_image(msgspec.json.decode(data, type=ReplicaImage))

    def _take_over(self, seq: int, batch: Batch) -> None:
        for event in batch.events:
            if isinstance(event, FenceOpened):
                self.leader, self.leader_n, self.fence_seq = event.actor, 0, seq

    def _apply_event(self, seq: int, at_ns: int, event: ControlEvent) -> None:
        if isinstance(event, NodeFenced):
            node = self.state.nodes.get(event.incarnation)
            if node is None or node.fenced_seq:
                return  # recorded before: the ledger counts on being told once
        self.state.apply(seq, event)
        self.budget.apply_control(event, at_ns)
