"""Why a node is not ready. It never claims more than requests would find: whatever `Node.closed` refuses is here."""

from collections.abc import Iterator

from dataplane.leases import LOG_FULL
from dataplane.node import Node
from schemas.readiness import Reason, reason
from schemas.settings import MS

CLOCK_NS = 10_000_000_000
"""Between this machine's clock and the control plane's; nodes go by the latter, so it is a warning."""

UNANSWERED_S = 2.0
"""Of questions one after the other: an answer takes milliseconds, a failover seldom longer than this."""


def reasons_of(node: Node, *, connected: bool) -> list[Reason]:
    """What hinders admission now, and warnings. `connected`: to NATS."""
    return [*_hindrances(node, connected=connected), *_warnings(node)]


def _hindrances(node: Node, *, connected: bool) -> Iterator[Reason]:
    if node.draining:
        yield reason("draining", "this node is shutting down")
    if not connected:
        yield reason("nats_unreachable", "the connection to NATS is lost")
    node.look()
    yield from _membership(node)
    yield from _log(node)


def _membership(node: Node) -> Iterator[Reason]:
    incarnation, feed = node.incarnation, node.feed
    if incarnation is None:
        fenced = node.membership.joins > 0
        yield reason("not_joined", "it was fenced, and asks to join again" if fenced else "it has not joined yet")
    if not feed.loaded:
        yield reason("no_policy", "the policy has not been loaded yet")
    elif incarnation is not None and feed.snapshot.position < incarnation.joined_seq:
        yield reason("no_policy", "the policy is older than this node's joining")
    if feed.loaded and feed.age_ns() > node.timing.feed_max_age_ms * MS:
        yield reason("feed_stale", f"the policy feed is silent since {feed.age_ns() / 1e9:.0f} s")


def _log(node: Node) -> Iterator[Reason]:
    incarnation = node.incarnation
    if node.shut is LOG_FULL:
        yield reason("log_full", "the event log is nearly full, so nothing is admitted")
    elif incarnation is not None and incarnation.log.stalled_ns() > node.timing.append_timeout_ms * MS:
        log = incarnation.log
        doubt = f" ({log.trouble})" if log.trouble else ""
        yield reason("log_stalled", f"an append is not acknowledged since {log.stalled_ns() / 1e9:.1f} s{doubt}")
    if node.journal.waiting:
        yield reason("log_backlog", f"{node.journal.waiting} groups of ends wait for a log")


def _warnings(node: Node) -> Iterator[Reason]:
    silent_ns = node.feed.age_ns() if node.feed.loaded else 0
    if node.timing.leader_timeout_ms * MS < silent_ns <= node.timing.feed_max_age_ms * MS:
        yield reason("feed_silent", f"nothing has been heard of the control plane for {silent_ns / 1e9:.0f} s")
    deaf_ns = node.feed.deaf_ns() if node.feed.loaded else 0
    if deaf_ns > node.timing.leader_timeout_ms * MS:
        yield reason("feed_deaf", f"messages of the feed have not arrived for {deaf_ns / 1e9:.0f} s")
    unanswered_s = node.control.silent_s()
    if unanswered_s > UNANSWERED_S:
        yield reason("asks_unanswered", f"the control plane has answered no question for {unanswered_s:.0f} s")
    now_ns = node.feed.now_ns()
    offset_ns = abs(now_ns - node.clock.wall_ns()) if now_ns else 0
    if offset_ns > CLOCK_NS:
        yield reason(
            "clock_offset", f"this machine's clock differs from the control plane's by {offset_ns / 1e9:.0f} s"
        )
