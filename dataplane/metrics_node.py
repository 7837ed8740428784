"""Figures of a node's inside: its log, leases, feed, questions, streams, buffers and connections to vendors."""

from collections.abc import Iterable

from prometheus_client.core import Metric

from dataplane.inflight import Incarnation
from dataplane.intake import Bodies
from dataplane.node import Node
from dataplane.upstreams import Destinations
from schemas.accounts import METERS, parse_line
from schemas.metric_families import counter, counters, gauge, gauges, in_unit, seconds, sizes

NAME = "ringfence_node"

NEVER_S = 1e6
"""Shown for an age without a beginning."""


def node_metrics(node: Node) -> Iterable[Metric]:
    """Of the node as long as its process lives; of its incarnation while it has one."""
    joins, feed, journal = node.membership.joins, node.feed, node.journal
    yield counter(f"{NAME}_joins", "Incarnations of this process.", joins)
    yield counter(f"{NAME}_rejoins", "Incarnations after the first: it was fenced before.", max(0, joins - 1))
    yield gauge(f"{NAME}_ready", "Whether requests are admitted.", node.closed() is None)
    yield gauge(f"{NAME}_connected", "Whether the connection to NATS stands.", node.control.connected)
    yield gauge(f"{NAME}_keys", "Vault keys known.", len(node.snapshot.keys))
    yield gauge(f"{NAME}_policy_seq", "Control log covered.", node.snapshot.position)
    age_s = min(feed.age_ns() / 1e9, NEVER_S)
    yield gauge(f"{NAME}_feed_age_seconds", "Silence of the feed.", age_s)
    yield counter(f"{NAME}_feed_unreadable", "Messages of the feed that could not be read.", feed.unreadable)
    yield gauge(f"{NAME}_log_full", "Whether nothing is admitted because the logs are nearly full.", feed.log_full)
    failures = [((method,), count) for method, count in node.control.failures.items()]
    yield counters(f"{NAME}_rpc_failures", "Questions to the control plane without an answer.", ("method",), failures)
    streams = sum(1 for admission in node.inflight if admission.wanted.stream)
    yield gauge(f"{NAME}_open_streams", "Streams that are being relayed.", streams)
    yield gauge(f"{NAME}_journal_waiting", "Groups of ends that wait for a log.", journal.waiting)
    yield from _appends(node)
    if (incarnation := node.incarnation) is not None:
        yield from _incarnation(incarnation)


def _appends(node: Node) -> Iterable[Metric]:
    stats = node.membership.stats
    yield seconds(f"{NAME}_append_seconds", "From the first send of a message to its acknowledgement.", stats.append_us)
    yield sizes(f"{NAME}_append_events", "Events in one message.", stats.batch_events)
    yield counter(f"{NAME}_append_bytes", "Bytes of messages acknowledged.", stats.bytes)
    retries = [((reason,), count) for reason, count in stats.retries.items()]
    yield counters(f"{NAME}_append_retries", "Messages sent again, by why.", ("reason",), retries)


def _incarnation(incarnation: Incarnation) -> Iterable[Metric]:
    log, desk = incarnation.log, incarnation.desk
    age_s = min(log.proof_age_ns() / 1e9, NEVER_S)
    yield gauge(f"{NAME}_proof_age_seconds", "Age of the newest proof.", age_s)
    yield gauge(f"{NAME}_log_queue", "Events waiting for the log.", log.queued_events)
    yield gauge(f"{NAME}_lease_waiters", "Requests waiting for leases.", desk.waiting)
    yield gauge(f"{NAME}_leases", "Lines with leases.", len(desk.book.leases))
    free: dict[str, int] = dict.fromkeys(METERS, 0)
    reserved: dict[str, int] = dict.fromkeys(METERS, 0)
    for line, lease in desk.book.leases.items():
        place = parse_line(line)
        # A request stands in a line of each of its accounts; the key's lines alone count it once.
        if place.kind == "key":
            free[place.meter] += lease.free
            reserved[place.meter] += lease.reserved
    for name, text, sums in (
        ("lease_free", "Free in leases on keys' own caps, by meter.", free),
        ("lease_reserved", "Reserved for requests in flight under keys' own caps, by meter.", reserved),
    ):
        yield gauges(f"{NAME}_{name}", text, ("meter",), [((m,), in_unit(m, amount)) for m, amount in sums.items()])


def edge_metrics(bodies: Bodies, destinations: Destinations) -> Iterable[Metric]:
    """Of the proxy around the node."""
    yield gauge("ringfence_body_bytes", "Large request bodies held in memory.", bodies.held_bytes)
    lanes = [((name,), place.lane.in_flight) for name, place in destinations.by_name.items()]
    yield gauges("ringfence_upstream_in_flight", "Requests in flight.", ("upstream",), lanes)
    pools = {name: place.client.stats().values() for name, place in destinations.by_name.items()}
    for figure, text in (
        ("open", "Connections: dialling, busy and idle."),
        ("idle", "Idle connections."),
        ("waiting", "Requests that wait for a connection."),
    ):
        counts = [((name,), sum(getattr(pool, figure) for pool in stats)) for name, stats in pools.items()]
        yield gauges(f"ringfence_upstream_connections_{figure}", text, ("upstream",), counts)
