"""Rate shares at the leader: the table (controlplane.rates_core), its clock, and the limits of the folded policy."""

from controlplane.rates_core import RatesCore
from events.clock import Clock
from events.state.replica import Replica
from schemas.rpc import RatesAnswer, RatesAsk


class Rates:
    """One leader's rate shares. They are kept in memory alone: a new leader learns them from the nodes."""

    def __init__(self, replica: Replica, clock: Clock, epoch: int) -> None:
        self._replica = replica
        self._clock = clock
        self.core = RatesCore(epoch, self._limit)

    def report(self, slot: str, ask: RatesAsk) -> RatesAnswer:
        """Raises ValueError for an ask that is not well-formed."""
        return self.core.report(slot, ask, self._replica.nodes.living.keys(), self._clock.elapsed_ns())

    def gone(self, incarnation: str) -> None:
        """The fold has passed the incarnation's fence."""
        self.core.gone(incarnation, self._clock.elapsed_ns())

    def _limit(self, bucket: str) -> int:
        """`key:<id>:rpm` and the like (dataplane.core.access)."""
        account, _, unit = bucket.rpartition(":")
        kind, _, name = account.partition(":")
        record = self._replica.state.keys.get(name) if kind == "key" else self._replica.state.agents.get(name)
        if record is None or unit not in {"rpm", "tpm"}:
            return 0
        return record.rpm if unit == "rpm" else record.tpm
