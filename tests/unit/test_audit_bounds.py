"""What the audit writer holds is bounded, however much is waiting and however long ClickHouse takes."""

import asyncio
from typing import Any

from contract.test_audit_writer import Log, admitted
from sim.loop import run_virtual

from controlplane.audit.writer import LogWriter, WriterLimits
from events.log.memory_follower import MemoryFollower

LIMITS = WriterLimits(max_rows=10, max_messages=8, linger_s=0.1)
BLOCKS_HELD = 3
"""One is written, one is ready, one waits to be handed over."""


class Stuck:
    """Knows nothing, and takes no row."""

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return []

    async def insert(self, *_: Any) -> None:
        await asyncio.get_running_loop().create_future()


def test_while_clickhouse_takes_nothing_the_log_is_not_read_on() -> None:
    async def main() -> None:
        log = Log()
        for n in range(400):  # without objects, which would be looked up behind what is written
            await log.append(admitted(f"req_{n}"), admitted(f"req_{n}_too"))
        followers: list[MemoryFollower] = []
        read = log.port.read

        def watched(*args: Any, **kwargs: Any) -> MemoryFollower:
            followers.append(read(*args, **kwargs))  # type: ignore[arg-type]  # of a memory port
            return followers[-1]

        log.port.read = watched  # type: ignore[method-assign]
        task = asyncio.create_task(LogWriter("nodes", log.port, Stuck(), LIMITS).run())  # type: ignore[arg-type]
        await asyncio.sleep(600)
        assert not task.done()
        events_a_message = 2
        most = BLOCKS_HELD * (LIMITS.max_rows + events_a_message) + LIMITS.max_messages
        assert 0 < followers[0].position <= most < (await log.port.state()).last_sequence
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())
