"""The audit by itself: how fast it writes a log that is there already, and how fast it answers over many requests.

The writer here, the embedded ClickHouse in a process of its own (`ringfence up` has both in one), a log in memory.
Elapsed time depends on what else the machine does; processor time does not, so both are given.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable

from support.clickhouse_endpoint import WRITER, Endpoint, endpoint

from bench.ledger import log_of
from bench.processes import cpu_ns, resident_bytes
from bench.run import Run
from bench.stats import table
from controlplane.api.ports import Filters
from controlplane.audit.reader import ClickHouseReader
from controlplane.audit.store import Store
from controlplane.audit.writer import LogWriter
from controlplane.process_settings import ClickHouseAccess
from events.log.memory import MemoryPort, MemoryStream
from events.subjects import NODES_STREAM

WRITTEN = "backlog"
REPORTS = "reports"
REQUESTS = 100_000
EVENTS_A_MESSAGE = 100
LIMIT_S = 300.0

STORED = 10_000_000
DAYS = 30
SLICE = 20_000
ASKED = 5

STORE = """
INSERT INTO ringfence.request_rows (request_id, at, version, agent, owner, purpose, key, run, client, upstream,
    operation, method, path, model, status, outcome, bound_usd, actual_usd, input_tokens, output_tokens, latency_us,
    overhead_us, actor)
SELECT concat('req_', lower(leftPad(hex(number), 32, '0'))),
    now64(9) - toIntervalMillisecond(toUInt64(({of} - number) * {days} * 86400000. / {of})), 2,
    concat('agent-', toString(number % 200)), concat('team-', toString(number % 20)), 'bench',
    concat('vk_', leftPad(toString(cityHash64(number) % 10000), 22, '0')), concat('run-', toString(number % 5000)),
    '10.1.2.3', 'openai', 'chat.completions.create', 'POST', '/v1/chat/completions',
    if(number % 3 = 0, 'gpt-4o', 'gpt-4o-mini'), 200, 'settled', toDecimal64(0.0007, 9),
    toDecimal64((number % 700) / 1000000, 9), 100, 300, 512000, 900, 'n1-bench'
FROM numbers({first}, {count})
SETTINGS max_partitions_per_insert_block = 0
"""
"""Of 200 agents in 20 teams with 10,000 keys."""


def measure_writing(run: Run) -> list[str]:
    """Markdown lines."""
    return asyncio.run(_measure_writing(run))


async def _measure_writing(run: Run) -> list[str]:
    port = MemoryStream(NODES_STREAM, now_ns=time.time_ns).port()
    rows = await _fill(port)
    with endpoint(run.scratch / WRITTEN) as served:
        store = await _store(served)
        writer, pids = LogWriter("nodes", port, store), [os.getpid(), served.process.pid]
        before = [cpu_ns([pid]) for pid in pids]
        began_s = time.perf_counter()
        task = asyncio.create_task(writer.run())
        last = (await port.state()).last_sequence
        while writer.progress.written_through < last and not task.done():
            await asyncio.sleep(0.05)
            if time.perf_counter() - began_s > LIMIT_S:
                raise RuntimeError(f"the audit has {writer.progress.written_through} of {last} messages")
        took_s = time.perf_counter() - began_s
        used_us = [(cpu_ns([pid]) - start) / rows / 1000 for pid, start in zip(pids, before, strict=True)]
        peak = resident_bytes(pids[1:], peak=True)  # once: while memory is mapped and unmapped, asking takes 10 ms
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # raises what ended it
        shown = await store.query("SELECT count() FROM ringfence.requests WHERE outcome = 'settled'")
        await store.close()
    if shown != [(REQUESTS,)]:
        raise RuntimeError(f"the audit shows {shown} of {REQUESTS} requests")
    rate = run.add(WRITTEN, "ringfence", "rows_s", [rows / took_s])
    run.add(WRITTEN, "ringfence", "writer_row_us", used_us[:1])
    run.add(WRITTEN, "ringfence", "engine_row_us", used_us[1:])
    run.add(WRITTEN, "ringfence", "peak_rss_bytes", [peak])
    return [
        "## The audit writer, with nothing beside it",
        "",
        (
            f"{rows:,} rows in {took_s:.1f} s: {rate:,.0f} a second. A row takes the writer {used_us[0]:.1f} us and "
            f"ClickHouse {used_us[1]:.1f} us of CPU; ClickHouse held {peak / 1e6:.0f} MB at most."
        ),
        "",
    ]


async def _fill(port: MemoryPort) -> int:
    """A node's log; returns how many rows it makes."""
    now_ns = time.time_ns()  # what is older than the retention would be gone at once
    for message in log_of(100, EVENTS_A_MESSAGE, requests=REQUESTS, at_ns=now_ns):
        await port.publish(message.subject, message.payload, msg_id=None, expect=None, timeout_s=1)
    return 2 * REQUESTS + 1


def measure_reports(run: Run) -> list[str]:
    """Markdown lines: the reports over STORED requests."""
    return asyncio.run(_measure_reports(run, STORED))


async def _measure_reports(run: Run, count: int) -> list[str]:
    rows = []
    with endpoint(run.scratch / REPORTS) as served:
        store = await _store(served)
        for first in range(0, count, SLICE):
            await _put(store, first, min(SLICE, count - first), count)
        # As ten minutes later: past days are one part each.
        await store.query("OPTIMIZE TABLE ringfence.request_rows FINAL")
        reader, every = ClickHouseReader(store), Filters()
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "spend by agent": lambda: reader.report("spend", "agent", every, 100, None),
            "spend by team": lambda: reader.report("spend", "team", every, 100, None),
            "spend by day": lambda: reader.report("spend", "day", every, 100, None),
            "requests by model": lambda: reader.report("requests", "model", every, 100, None),
            "spend by agent, one team": lambda: reader.report("spend", "agent", Filters(team="team-3"), 100, None),
            "the newest 100 requests": lambda: reader.requests(every, 100, None),
            "one request": lambda: reader.request(f"req_{count // 2:032x}"),
        }
        for title, ask in asks.items():
            took_s = []
            for _ in range(ASKED):
                began_s = time.perf_counter()
                found = await ask()
                took_s.append(time.perf_counter() - began_s)
                if not found:
                    raise RuntimeError(f"{title}: nothing was found")
            rows.append([title, f"{run.add(REPORTS, title, 'answer_s', took_s) * 1000:,.0f}"])
        held = run.add(REPORTS, "ringfence", "rss_bytes", [served.resident_bytes()])
        await store.close()
    return [
        f"## Reports over {count:,} requests of {DAYS} days",
        "",
        *table(["", "ms"], rows),
        f"ClickHouse holds {held / 1e6:.0f} MB.",
        "",
    ]


async def _put(store: Store, first: int, count: int, of: int) -> None:
    """Requests as `merge.sql` leaves them, the newest last."""
    await store.query(STORE.format(first=first, count=count, of=of, days=DAYS))


async def _store(served: Endpoint) -> Store:
    store = Store(ClickHouseAccess(host="127.0.0.1", port=served.port, user=WRITER[0], password=WRITER[1]))
    await store.migrate()
    return store
