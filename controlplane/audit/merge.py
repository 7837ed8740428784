"""Keeps one row per request in `ringfence.request_rows`, in step with `ringfence.events`.

The idea
    Merging all requests from all their events whenever somebody asks takes minutes over ten million. So the requests of
    each block are merged once its events are there, by merge.sql, from **all** events of those requests; under load
    some blocks together, for a merge costs as much as 9,000 rows before it has looked at any. A merge says how much
    it knew (`version`); of several rows the one that knew most counts. So a merge may be repeated, and the two logs'
    writers may merge the same request at once: the one that began last knew what both had written. How far a log is
    merged is on record (`ringfence.merges`), and a writer that was killed begins there.

Where a request's other events are
    Mostly some messages back: this process remembers where (`_places`), and the merge reads those few spans. What it
    does not remember (it was restarted, or the request is old) is searched for in the whole table; that is slow, and
    rare.

Whose row changes without an event of its own
    Open requests of a node that was fenced, and requests whose idempotency key a later answer tells about. Such events
    are copied to `ringfence.turns` first, and the requests that they concern are merged too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from controlplane.audit.engine_session import sql_string
from controlplane.audit.memory import drop_oldest
from controlplane.audit.told import Step, Told

MAX_PLACES = 150_000
"""Requests whose places are remembered, some 40 MB: those of the last seconds at full load."""

OVER = -1
"""Behind the places of a request that has ended: what may still come is late, and would show itself as such."""

MAX_SPANS = 32
"""Spans of the log that one merge reads besides its block; nearer ones are joined."""

DUE_ROWS = 32_000
"""Merged at once at most: under the engine's limit for a statement's memory, and half a second of work."""

TURN_STEPS = 2_000
"""Placed in one turn of the loop: a millisecond."""

MAX_NAMED = 4_000
"""Requests named in one statement, which may have 256 KB."""

SLICE_REQUESTS = 50_000
"""Requests merged by one statement of a migration, under the engine's limit for a statement's memory."""

TURNS = "(type IN ('Fenced', 'RequestReconciled') OR resolves != '')"

PLACE = "bitShiftLeft(seq, 20) + idx AS place"
"""One number for an event's place in the log: compared ten times as fast as a pair. No message holds a million events,
and no stream 16 trillion messages."""

Run = Callable[[str, dict[str, Any]], Awaitable[Sequence[Sequence[Any]]]]
"""Runs a statement until it is acknowledged."""


@dataclass(slots=True)
class Pending:
    """Blocks that are not merged yet. `lost`: requests of which earlier events may be anywhere."""

    rows: int = 0
    touched: set[str] = field(default_factory=set)
    """Requests that have an event there."""
    turned: bool = False
    """Whether some of the events change what other requests' rows mean: `fenced`, `resolved` as in Told."""
    fenced: set[str] = field(default_factory=set)
    resolved: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    earlier: set[int] = field(default_factory=set)
    """Sequences below `from_seq` of what else is known of the requests."""
    from_seq: int = 0
    to_seq: int = 0

    def add(self, told: Told) -> None:
        """All but the requests themselves."""
        self.rows += len(told.steps) + len(told.fenced)
        self.turned = self.turned or bool(told.fenced or told.resolved or told.reconciled)
        self.fenced.update(told.fenced)
        self.resolved.update(told.resolved)


class Merger:
    """One log's. `add` is called for each block once its events are in the table, in the log's order; `merge` as often
    as there is time, and when `is_due`.
    """

    def __init__(self, log: str, run: Run) -> None:
        self._log = log
        self._run = run
        self._places: dict[str, tuple[int, ...]] = {}
        """Sequences of all events of a request, the oldest request first."""
        self._unplaced: set[str] = set()
        """Requests without an outcome whose events may be anywhere: of a predecessor, or too many to remember."""
        self._pending = Pending()

    async def resume(self) -> None:
        """Merge what a predecessor has written and not merged. Call before the first `add`."""
        merged = await self._run(
            "SELECT max(to_seq) FROM ringfence.merges WHERE log = {log:String}", {"log": self._log}
        )
        sql = (
            "SELECT seq, type, request_id, subject, resolves FROM ringfence.events "
            "WHERE log = {log:String} AND seq > {merged:UInt64} AND (request_id != '' OR type = 'Fenced')"
        )
        told, sequences = Told(), []
        for seq, kind, request_id, subject, resolves in await self._run(
            sql, {"log": self._log, "merged": merged[0][0]}
        ):
            sequences.append(seq)
            if request_id:
                told.steps.append((request_id, seq, False, False))
            if kind == "Fenced":
                told.fenced.append(subject)
            if resolves:
                told.resolved.append(resolves)
            told.reconciled = told.reconciled or kind == "RequestReconciled"
        if sequences:
            pending = self._pending = Pending(from_seq=min(sequences), to_seq=max(sequences))
            pending.add(told)
            pending.touched = {step[0] for step in told.steps}
            pending.lost = set(pending.touched)
            await self.merge()
        if self._log == "nodes":
            sql = "SELECT request_id FROM ringfence.request_rows FINAL WHERE outcome IN ('open', 'unknown')"
            self._unplaced = {row[0] for row in await self._run(sql, {})}

    async def add(self, told: Told, from_seq: int, to_seq: int) -> None:
        """The rows of a block, as they are stored, are to be merged. In many turns of the loop."""
        pending = self._pending
        pending.from_seq = pending.from_seq or from_seq
        pending.to_seq = to_seq
        pending.add(told)
        for begin in range(0, len(told.steps), TURN_STEPS):
            self._place(told.steps[begin : begin + TURN_STEPS], pending)
            await asyncio.sleep(0)
        pending.lost |= self._shrink() & pending.touched

    @property
    def is_due(self) -> bool:
        """Whether so much is waiting that the next block must wait for it."""
        return self._pending.rows >= DUE_ROWS

    async def merge(self) -> None:
        """Bring the requests up to date that the added blocks concern."""
        pending, self._pending = self._pending, Pending()
        if not pending.rows:
            return
        lost, span = pending.lost, {"log": self._log, "from": pending.from_seq, "to": pending.to_seq}
        if pending.turned:
            await self._run(
                f"INSERT INTO ringfence.turns SELECT * FROM ringfence.events WHERE log = {{log:String}} "  # noqa: S608 - our own text
                f"AND seq BETWEEN {{from:UInt64}} AND {{to:UInt64}} AND {TURNS}",
                span,
            )
            lost |= await self._concerned(pending)
        touched = pending.touched - lost
        if touched and len(lost) <= MAX_NAMED:
            await self._merge_span(pending, lost)
        else:
            lost |= touched
        await self.merge_named(lost)
        await self._run("INSERT INTO ringfence.merges (log, to_seq) SELECT {log:String}, {to:UInt64}", span)

    async def merge_named(self, request_ids: Collection[str]) -> None:
        """Merge these requests, wherever their events are."""
        names = sorted(request_ids)
        for begin in range(0, len(names), MAX_NAMED):
            await self._run(merge_statement(_named(names[begin : begin + MAX_NAMED])), {})

    def _place(self, steps: Iterable[Step], pending: Pending) -> None:
        """Remember where these events are, and note of which requests earlier events may be anywhere."""
        all_places, unplaced, from_seq = self._places, self._unplaced, pending.from_seq
        for request_id, seq, begins, ends in steps:
            pending.touched.add(request_id)
            places = all_places.get(request_id, ())
            if not places and (not begins or request_id in unplaced):
                pending.lost.add(request_id)
                (unplaced.discard if ends else unplaced.add)(request_id)
                continue
            if places and places[-1] == OVER:
                places = places[:-1]
            pending.earlier.update([place for place in places if place < from_seq])
            all_places[request_id] = (*places, seq, OVER) if ends else (*places, seq)

    def _shrink(self) -> set[str]:
        """Forget the oldest requests' places; returns whose. One that is about to be merged is lost without them."""
        forgotten = drop_oldest(self._places, MAX_PLACES)
        self._unplaced.update(request_id for request_id, places in forgotten.items() if places[-1] != OVER)
        return set(forgotten)

    async def _concerned(self, pending: Pending) -> set[str]:
        """Requests whose rows these events change although they are others'."""
        concerned: set[str] = set()
        if pending.fenced:
            sql = "SELECT request_id FROM ringfence.request_rows FINAL WHERE outcome = 'open' AND actor IN "
            concerned |= {row[0] for row in await self._run(sql + _list(sorted(pending.fenced)), {})}
        digests = sorted(pending.resolved)
        for begin in range(0, len(digests), MAX_NAMED // 2):
            sql = "SELECT request_id FROM ringfence.request_rows WHERE idempotency IN "
            some = await self._run(sql + _list(digests[begin : begin + MAX_NAMED // 2]), {})
            concerned |= {row[0] for row in some}
        return concerned

    async def _merge_span(self, pending: Pending, lost: Collection[str]) -> None:
        from_seq, to_seq = pending.from_seq, pending.to_seq
        spans = [*spans_of(pending.earlier), (from_seq, to_seq)]
        where = " OR ".join(f"seq BETWEEN {first} AND {last}" for first, last in spans)
        block = (
            f"SELECT request_id FROM ringfence.events WHERE log = 'nodes' "  # noqa: S608 - numbers and names of our own
            f"AND seq BETWEEN {from_seq} AND {to_seq} AND request_id != ''"
        )
        others = f" AND request_id NOT IN {_list(sorted(lost))}" if lost else ""
        await self._run(merge_statement(f"({where}) AND request_id IN ({block}){others}", f"IN ({block}){others}"), {})


def merge_statement(which: str, reconciled: str = "") -> str:
    """merge.sql for the requests of which `which` (a condition on `ringfence.events`) holds all events.

    `reconciled`: the same of `request_id` alone, where `which` also tells where the events are.
    """
    script = resources.files("controlplane.audit").joinpath("merge.sql").read_text()
    body = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("--"))
    operators = f"request_id {reconciled}" if reconciled else which
    events = (
        f"SELECT *, {PLACE} FROM ringfence.events WHERE log = 'nodes' AND request_id != '' AND {which} "  # noqa: S608 - as above
        f"UNION ALL SELECT *, {PLACE} FROM ringfence.turns FINAL WHERE type = 'RequestReconciled' AND {operators}"
    )
    return body.replace("/*events*/", events)


async def merge_everything(run: Run) -> None:
    """Merge all requests of all events: for tables that were written before request_rows was there."""
    await run(f"INSERT INTO ringfence.turns SELECT * FROM ringfence.events WHERE {TURNS}", {})  # noqa: S608 - as above
    count = (await run("SELECT uniq(request_id) FROM ringfence.events WHERE request_id != ''", {}))[0][0]
    slices = int(count) // SLICE_REQUESTS + 1
    for number in range(slices):
        await run(merge_statement(f"cityHash64(request_id) % {slices} = {number}"), {})
    await run("INSERT INTO ringfence.merges (log, to_seq) SELECT log, max(seq) FROM ringfence.events GROUP BY log", {})


def spans_of(sequences: Collection[int]) -> list[tuple[int, int]]:
    """At most MAX_SPANS spans that hold all the sequences, apart where the gaps are widest."""
    ordered = sorted(sequences)
    if not ordered:
        return []
    gaps = sorted(range(1, len(ordered)), key=lambda at: ordered[at - 1] - ordered[at])[: MAX_SPANS - 1]
    begins = [0, *sorted(at for at in gaps if ordered[at] - ordered[at - 1] > 1)]
    ends = [*begins[1:], len(ordered)]
    return [(ordered[begin], ordered[end - 1]) for begin, end in zip(begins, ends, strict=True)]


def _named(request_ids: Sequence[str]) -> str:
    return f"request_id IN {_list(request_ids)}"


def _list(values: Sequence[str]) -> str:
    return f"({', '.join(map(sql_string, values))})"
