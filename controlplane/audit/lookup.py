"""What the rows of a block need of those before it, looked up in the table where this process has not seen it.

Which requests have ended, what is counted for an object, where an intent is. All of it is asked of rows with a sequence
below the block's own, so that a block which is written again gives the same rows.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.audit.memory import REMEMBERED, Known, Memory, Wants, attempt_name, refusal_name
from schemas.money import NANOS_PER_USD

MAX_OBJECTS = 200_000
"""Vendor objects whose count is kept at hand (some 50 MB); others are looked up again."""

Query = Callable[[str, dict[str, Any]], Awaitable[list[tuple[Any, ...]]]]


class Lookup:
    """Fills one log's memory. `written` returns once all blocks before the one in question are in the table."""

    def __init__(self, memory: Memory, query: Query, written: Callable[[], Awaitable[None]]) -> None:
        self._memory = memory
        self._query = query
        self._written = written

    async def remember(self, before_seq: int) -> None:
        """What was told already, from the node logs' rows before the block that is written again."""
        sql = (
            "SELECT type, request_id, JSONExtractUInt(data, 'attempt'), refusal, "
            "JSONExtractInt(data, 'first_at_ns') FROM ringfence.events WHERE log = 'nodes' AND seq < {before:UInt64} "
            "AND ((type = 'RequestSettled' AND outcome = 'settled') OR type = 'RequestRefused') "
            "ORDER BY seq DESC, idx DESC LIMIT {limit:UInt64}"
        )
        rows = await self._query(sql, {"before": before_seq, "limit": REMEMBERED})
        for kind, request_id, attempt, code, first_at_ns in reversed(rows):
            refused = kind == "RequestRefused"
            self._memory.tell(
                refusal_name(request_id, code, int(first_at_ns)) if refused else attempt_name(request_id, int(attempt))
            )

    async def know(self, wants: Wants, before_seq: int) -> None:
        """All that the rows of a block want."""
        memory = self._memory
        # First: what is known now must still be known when the rows are made.
        memory.forget(keep_objects=MAX_OBJECTS - len(wants.places))
        places = wants.places - memory.objects.keys()
        names = wants.names - memory.since.keys()
        if places or names:
            await self._written()
        if places:
            await self._know_objects(sorted(places), before_seq)
        if names:
            await self._know_intents(sorted(names), before_seq)

    async def _know_objects(self, places: list[str], before_seq: int) -> None:
        """What is counted is the sum of all differences."""
        sql = (
            "SELECT concat(meter, ' ', object) AS place, sum(if(meter = 'usd', actual_usd, refund_usd)), max(seq), "
            "max(JSONExtractBool(data, 'object', 'final')) FROM ringfence.events "
            "WHERE log = 'nodes' AND seq < {before:UInt64} AND object IN {objects:Array(String)} GROUP BY place"
        )
        objects = sorted({place.split(" ", 1)[1] for place in places})
        rows = await self._query(sql, {"before": before_seq, "objects": objects})
        known = {
            place: Known(int(counted * NANOS_PER_USD), int(told_seq), bool(final))
            for place, counted, told_seq, final in rows
        }
        for place in places:
            self._memory.objects[place] = known.get(place, Known())

    async def _know_intents(self, names: list[str], before_seq: int) -> None:
        sql = (
            "SELECT request_id, JSONExtractUInt(data, 'attempt'), seq FROM ringfence.events "
            "WHERE log = 'nodes' AND seq < {before:UInt64} "
            "AND type = 'RequestAdmitted' AND request_id IN {requests:Array(String)} ORDER BY seq DESC"
        )
        requests = sorted({name.partition("#")[0] for name in names})
        for request_id, attempt, seq in await self._query(sql, {"before": before_seq, "requests": requests}):
            self._memory.since[attempt_name(request_id, int(attempt))] = int(seq)  # the first one's, which comes last
