"""Figures that only a leadership has: its appends, its nodes, barriers, leases, feed and checkpoints."""

from collections.abc import Iterable

from prometheus_client.core import Metric

from controlplane.leader import Leader
from schemas.metric_families import counter, counters, gauge, gauges, seconds, sizes

NAME = "ringfence_control"

MAX_SLOTS = 200
"""Nodes named one by one, those that lag most; `live_nodes` counts all."""


def leader_metrics(leader: Leader) -> Iterable[Metric]:
    yield gauge(f"{NAME}_epoch", "Sequence of this leadership's fence.", leader.epoch)
    yield from _appends(leader)
    yield from _nodes(leader)
    yield from _barriers(leader)
    yield from _leases(leader)
    yield counter(f"{NAME}_feed_lost", "Messages of the feed that could not leave.", leader.feed.lost)
    yield gauge(f"{NAME}_feed_unsent", "Messages of the feed that wait for the bus.", leader.feed.unsent)
    recorder = leader.recorder
    yield counter(f"{NAME}_checkpoints_failed", "Checkpoints that could not be written.", recorder.failed)
    if recorder.saved_ns is not None:
        age_s = (leader.now_ns() - recorder.saved_ns) / 1e9
        yield gauge(f"{NAME}_checkpoint_age_seconds", "Age of the newest checkpoint of this process.", age_s)


def _appends(leader: Leader) -> Iterable[Metric]:
    stats = leader.log.stats
    text = "From the first send of a message to its acknowledgement."
    yield seconds(f"{NAME}_append_seconds", text, stats.append_us)
    yield sizes(f"{NAME}_append_events", "Events in one message.", stats.batch_events)
    yield counter(f"{NAME}_append_bytes", "Bytes of messages acknowledged.", stats.bytes)
    retries = [((reason,), count) for reason, count in stats.retries.items()]
    yield counters(f"{NAME}_append_retries", "Messages sent again, by why.", ("reason",), retries)


def _nodes(leader: Leader) -> Iterable[Metric]:
    replica = leader.replica
    yield gauge(f"{NAME}_live_nodes", "Incarnations that are not fenced.", len(replica.nodes.living))
    fences = [((reason,), count) for reason, count in leader.membership.fenced.items()]
    yield counters(f"{NAME}_fences", "Incarnations that this leadership fenced, by why.", ("reason",), fences)
    told = leader.feed.told_seq
    lags = sorted(((max(0, told - log.applied), log.slot) for log in replica.nodes.living.values()), reverse=True)
    text = "How far a node is behind this leadership's newest policy change, in sequences of the control log."
    lagging = {slot: lag for lag, slot in reversed(lags[:MAX_SLOTS])}
    yield gauges(f"{NAME}_node_feed_lag", text, ("slot",), [((slot,), lag) for slot, lag in lagging.items()])
    silent = {
        replica.nodes.living[name].slot: ns / 1e9
        for name, ns in leader.membership.silent_ns().items()
        if replica.nodes.living[name].slot in lagging
    }
    text = "How long a node's log has been silent."
    yield gauges(f"{NAME}_node_silent_seconds", text, ("slot",), [((slot,), s) for slot, s in silent.items()])


def _barriers(leader: Leader) -> Iterable[Metric]:
    barrier = leader.barrier
    yield gauge(f"{NAME}_open_barriers", "Tightening changes that some node may not have applied.", barrier.open)
    text = "From a tightening change's recording to its confirmation by all nodes."
    yield seconds(f"{NAME}_barrier_seconds", text, barrier.times.complete_us)
    text = "Waits that were answered with 'still open' after ten seconds."
    yield counter(f"{NAME}_barriers_overdue", text, barrier.times.overdue)


def _leases(leader: Leader) -> Iterable[Metric]:
    core = leader.ledger.core
    yield gauge(f"{NAME}_lease_waiters", "Asks that wait for budget.", core.waiting)
    answers = (("granted", core.granted), ("refused", core.refused), ("unavailable", core.unavailable))
    yield counters(
        f"{NAME}_lease_answers", "Answers to asks for budget.", ("outcome",),
        [((outcome,), count) for outcome, count in answers],
    )  # fmt: skip
    yield seconds(f"{NAME}_lease_wait_seconds", "From an ask's arrival to its answer.", core.waits_us)
