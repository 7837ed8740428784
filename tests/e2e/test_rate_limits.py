"""A rate limit over real processes: demand moves between the workers, and the vendor's own log is held to the limit."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from support.load import Answer, charge
from support.stack import Stack, running_stack

WORKERS = 3
RPM = 600
OFFERED = 2.0
"""Times the limit."""

PHASES = ((1, 0, 0), (1, 1, 1), (0, 1, 0), (0, 8, 1), (0, 0, 1), (1, 0, 1))
"""How demand is divided over the workers, phase after phase."""
PHASE_S = 25.0
WARM_S = 60.0
"""A limit that nobody has used for a minute goes out as a burst, and takes a minute to become even."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("rates") / "data", workers=WORKERS) as running:
        yield running


@asynccontextmanager
async def one_session_each(stack: Stack) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Sessions whose only connection leads to a worker of its own: all share one port, and /healthz says who answers."""
    found: dict[str, aiohttp.ClientSession] = {}
    opened: list[aiohttp.ClientSession] = []
    try:
        while len(found) < WORKERS:
            timeout = aiohttp.ClientTimeout(total=30)
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1), timeout=timeout)
            opened.append(session)
            async with session.get(f"{stack.urls['proxy']}/healthz") as answer:
                found.setdefault((await answer.json())["node"], session)
        yield [found[node] for node in sorted(found)]
    finally:
        for session in opened:
            await session.close()


async def offer(stack: Stack, token: str, sessions: list[aiohttp.ClientSession]) -> list[Answer]:
    """Twice the limit, at a constant rate, phase after phase."""
    loop = asyncio.get_running_loop()
    calls: list[asyncio.Task[Answer]] = []
    began_s, owed = loop.time(), [0.0] * WORKERS
    for count in range(int(len(PHASES) * PHASE_S * RPM / 60 * OFFERED)):
        at_s = count / (RPM / 60 * OFFERED)
        weights = PHASES[int(at_s // PHASE_S)]
        owed = [left + weight / sum(weights) for left, weight in zip(owed, weights, strict=True)]
        worker = owed.index(max(owed))
        owed[worker] -= 1
        await asyncio.sleep(began_s + at_s - loop.time())
        calls.append(asyncio.create_task(charge(sessions[worker], stack.stripe, token, 1)))
    return list(await asyncio.gather(*calls))


def minutes(times_s: list[float], from_s: float) -> list[int]:
    """How many fell into each minute that begins with one of them, from a time on."""
    last_s = times_s[-1]
    begins = [at_s for at_s in times_s if from_s <= at_s <= last_s - 60]
    return [sum(begin_s <= at_s < begin_s + 60 for at_s in times_s) for begin_s in begins]


@pytest.mark.slow
async def test_any_minute_stays_within_the_limit_wherever_demand_moves(
    three: Stack, record_property: Callable[[str, object], None]
) -> None:
    key = three.issue(vendor="stripe", agent="busy", uncapped=True, rate_limit_rpm=RPM)
    async with one_session_each(three) as sessions:
        answers = await offer(three, key["token"], sessions)
    assert {answer.refusal or str(answer.status) for answer in answers} == {"200", "rate_limited"}
    entries = await asyncio.to_thread(three.vendor_log)
    times_s = sorted(entry["received_mono_ns"] / 1e9 for entry in entries)
    assert len(times_s) == sum(answer.status == 200 for answer in answers)
    everywhere = minutes(times_s, times_s[0])
    settled = minutes(times_s, times_s[0] + WARM_S)
    record_property("worst minute", max(everywhere) / RPM)
    record_property("least minute", min(settled) / RPM)
    record_property("mean", sum(settled) / len(settled) / RPM)
    assert max(everywhere) <= 1.05 * RPM
    assert sum(settled) / len(settled) >= 0.9 * RPM, "shares follow demand"
