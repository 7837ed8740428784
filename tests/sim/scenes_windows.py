"""Windows that turn under load, as scenes (docs/PROTOCOL.md, "Windows and clocks").

Each begins some seconds before something turns (sim.epochs), and the observer judges every cap of every window by
books of its own. They are played as tests (test_scenarios), some again with a rule switched off (test_bites).
"""

import asyncio

from sim.cluster import Cluster
from sim.epochs import Epoch
from sim.scene import When, pay, until
from sim.world import World

from controlplane.commands.keys import IssuedKey
from schemas.api import Span, Usd

HOUR_NS = 3600 * 10**9

MIDNIGHT = When(Epoch("2025-12-01T00:00:00"), 2.0)
"""Hour, day and month turn at once."""

SOON = When(Epoch("2025-12-01T00:00:00"), 900.0)


async def a_daily_key(cluster: Cluster, cap: int, **caps: Usd) -> IssuedKey:
    return await cluster.issue(agent="bot", daily_usd_cap=Usd(cap), expires_in=Span(30 * 86_400), **caps)


async def until_utc(world: World, when: When, after_s: float) -> None:
    """Sleep until so long after the scene's instant."""
    await asyncio.sleep(max(0.0, when.before_s + after_s - world.now_ns() / 1e9))


async def a_new_day_has_its_whole_cap(cluster: Cluster) -> None:
    """What was spent yesterday is not missing today, and what is settled today of yesterday's counts yesterday."""
    node, other = cluster.nodes
    key = await a_daily_key(cluster, 100)
    late = node.send(pay(key, 60, acts_s=3.0, patience_s=9.0))  # admitted today, settled tomorrow
    assert await other.call(pay(key, 40)) == "sent"
    assert await other.call(pay(key, 1)) == "cap_exhausted"
    await until_utc(cluster.world, MIDNIGHT, 0.3)
    assert await other.call(pay(key, 30)) == "sent"
    await until(cluster.world, lambda: late.end)
    assert late.end == "sent"
    await asyncio.sleep(0.1)
    assert await other.call(pay(key, 70)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"
    await until(cluster.world, lambda: _spent_by_day(cluster, key) == [100, 100])


def _spent_by_day(cluster: Cluster, key: IssuedKey) -> list[int]:
    """What the logs have settled, day by day. A settlement is stored some milliseconds after its client is answered."""
    settled = cluster.world.observer.books.settled
    days = {spot[3]: amount for spot, amount in settled.items() if spot[:3] == (f"key:{key.id}", "usd", "day")}
    return [days[start] for start in sorted(days)]


async def a_lease_of_yesterday_is_worth_nothing(cluster: Cluster) -> None:
    """Money that a node had borrowed of the old window is not there in the new one, nor missing in it."""
    node, other = cluster.nodes
    key = await a_daily_key(cluster, 400)
    for each in (node, other):
        assert await each.call(pay(key, 20, 0)) == "sent"  # ample leases, all free now
    await until_utc(cluster.world, MIDNIGHT, 0.3)
    assert await node.call(pay(key, 400)) == "sent"
    assert await other.call(pay(key, 1)) == "cap_exhausted"


async def windows_turn_while_requests_wait(cluster: Cluster) -> None:
    """An ask that waits for a full window when it turns is asked anew, and fits."""
    node, other = cluster.nodes
    key = await a_daily_key(cluster, 100)
    await until_utc(cluster.world, MIDNIGHT, -0.4)
    holds = other.send(pay(key, 100, 0, acts_s=1.5, patience_s=5.0))
    await until_utc(cluster.world, MIDNIGHT, -0.05)
    waiting = [node.send(pay(key, 30, connects_s=0.1)) for _ in range(3)]
    await until(cluster.world, lambda: holds.end and all(record.end for record in waiting))
    assert holds.end == "sent"
    assert {record.end for record in waiting} <= {"sent", "cap_exhausted"}
    await asyncio.sleep(0.2)
    left = 100 - 30 * sum(record.end == "sent" and _today(cluster, record.request_ids[-1]) for record in waiting)
    assert await node.call(pay(key, left)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


def _today(cluster: Cluster, request_id: str) -> bool:
    return cluster.world.observer.books.requests[request_id].at_ns // 10**9 % 86_400 < 43_200


LONG_DAY = When(Epoch("2025-11-03T05:00:00", "America/New_York"), 3605.0, ("agent:bot",))
"""24 hours of a day of 25 are over in five seconds."""


async def a_day_of_25_hours(cluster: Cluster) -> None:
    """Where clocks were put back, the daily cap lasts an hour longer than 24."""
    node = cluster.nodes[0]
    key = await cluster.issue(agent="bot", total_usd_cap=Usd(10_000), expires_in=Span(30 * 86_400))
    await cluster.set_caps("agent", "bot", daily_usd_cap=Usd(100), hourly_usd_cap=Usd(60))
    assert await node.call(pay(key, 60)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"  # the hour's
    await until_utc(cluster.world, LONG_DAY, -3599.0)
    assert await node.call(pay(key, 41)) == "cap_exhausted"  # the day's: the hour is a new one
    assert await node.call(pay(key, 40)) == "sent"
    cluster.controls[0].clock.step(3598 * 10**9)  # an hour goes by
    await asyncio.sleep(0.5)
    assert await node.call(pay(key, 1)) == "cap_exhausted"
    await asyncio.sleep(1.5)
    assert await node.call(pay(key, 60)) == "sent"


LOST_HOUR = When(Epoch("2026-04-23T22:00:00", "Africa/Cairo"), 2.0, ("agent:bot",))
"""There is no midnight: after 23:59:59 it is 1:00."""


async def a_day_without_a_midnight(cluster: Cluster) -> None:
    node, other = cluster.nodes
    key = await cluster.issue(agent="bot", total_usd_cap=Usd(10_000), expires_in=Span(30 * 86_400))
    await cluster.set_caps("agent", "bot", daily_usd_cap=Usd(100))
    assert await node.call(pay(key, 100)) == "sent"
    assert await other.call(pay(key, 1)) == "cap_exhausted"
    await until_utc(cluster.world, LOST_HOUR, 0.5)
    assert await other.call(pay(key, 100)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


FOREIGN_MONTH = When(Epoch("2025-11-20T12:00:00", "Asia/Kathmandu"), 0.0, ("agent:bot",))
"""Of which the first quarter of a day is October's in UTC."""


async def a_foreign_month_is_not_over(cluster: Cluster) -> None:
    """A node drops the figures of windows long over, now and then; a running month of another zone is none."""
    node, other = cluster.nodes
    key = await cluster.issue(agent="bot", total_usd_cap=Usd(10_000))
    await cluster.set_caps("agent", "bot", monthly_usd_cap=Usd(100))
    assert await node.call(pay(key, 40)) == "sent"
    await asyncio.sleep(12.0)  # it looks every ten seconds
    assert await node.call(pay(key, 30)) == "sent"
    assert await node.call(pay(key, 31)) == "cap_exhausted"
    assert await other.call(pay(key, 30)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


async def a_nodes_clock_is_an_hour_wrong(cluster: Cluster) -> None:
    """Nothing depends on a node's wall clock: neither when a day ends for it, nor when a key does."""
    node, other = cluster.nodes
    node.clock.step(HOUR_NS)
    key = await a_daily_key(cluster, 100)
    assert await node.call(pay(key, 50)) == "sent"
    other.clock.step(-HOUR_NS)
    assert await other.call(pay(key, 50)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"
    node.clock.step(-5 * HOUR_NS)
    assert await node.call(pay(key, 1)) == "cap_exhausted"
    await until_utc(cluster.world, MIDNIGHT, 0.3)
    assert await other.call(pay(key, 100)) == "sent"
    assert await node.call(pay(key, 1)) == "cap_exhausted"


async def a_leaders_clock_is_set(cluster: Cluster) -> None:
    """The ledger's clock names the window. It is believed when it is set forward, and does not go back: what was
    closed would be open again.
    """
    node, other = cluster.nodes
    key = await a_daily_key(cluster, 100)
    assert await node.call(pay(key, 70)) == "sent"
    cluster.controls[0].clock.step(HOUR_NS)
    await asyncio.sleep(0.5)
    assert await other.call(pay(key, 60)) == "sent"  # tomorrow's
    cluster.controls[0].clock.step(-HOUR_NS)
    await asyncio.sleep(0.5)
    assert await other.call(pay(key, 41)) == "cap_exhausted"
    assert await node.call(pay(key, 40)) == "sent"
    cluster.usurp(cluster.controls[0])  # nor does the next leader's
    await until(cluster.world, lambda: cluster.serving)
    assert await node.call(pay(key, 1)) == "cap_exhausted"


SCENES = [
    (a_new_day_has_its_whole_cap, MIDNIGHT),
    (a_lease_of_yesterday_is_worth_nothing, MIDNIGHT),
    (windows_turn_while_requests_wait, MIDNIGHT),
    (a_day_of_25_hours, LONG_DAY),
    (a_day_without_a_midnight, LOST_HOUR),
    (a_foreign_month_is_not_over, FOREIGN_MONTH),
    (a_nodes_clock_is_an_hour_wrong, MIDNIGHT),
    (a_leaders_clock_is_set, SOON),
]
