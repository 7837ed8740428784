"""One walk over the waiting asks: what can be granted, what is lent out, what may have to be refused. Pure.

Asks are weighed in order of arrival. Each either takes its room, or blocks the lines that it lacks for all who came
later (rule G6, docs/PROTOCOL.md), and nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

from controlplane.ledger_lines import Lines, Need, Room
from controlplane.recalls import Recalls
from schemas.rpc import LeaseAsk

AMPLE = 4
"""A grant is up to so many times the bound (rule G3)."""


class Instant(NamedTuple):
    """Both clocks, read together: elapsed time for patience, wall time for windows."""

    elapsed_ns: int
    wall_ns: int


class Waiting:
    """An ask that has not been answered. `order` counts arrivals; `judged`: a mark begun after its deadline has passed;
    `lacks`: the lines that it lacked at the last look.
    """

    __slots__ = ("ask", "deadline_ns", "hard_ns", "judged", "lacks", "needs", "order", "turns_ns")

    def __init__(self, ask: LeaseAsk, needs: tuple[Need, ...], order: int, deadline_ns: int, hard_ns: int) -> None:
        self.ask = ask
        self.needs = needs
        self.order = order
        self.deadline_ns = deadline_ns
        self.hard_ns = hard_ns
        self.turns_ns: int | None = None
        self.judged = False
        self.lacks: list[str] = []


class Survey:
    """The result of weighing. `nodes`: how many live; `stray`: caps of which old leases are out on windows that no
    longer exist (controlplane.lowered), on which nothing is lent.
    """

    def __init__(
        self, lines: Lines, recalls: Recalls, stray: frozenset[tuple[str, ...]], nodes: int, at: Instant
    ) -> None:
        self._lines = lines
        self._recalls = recalls
        self._stray = stray
        self._share = 2 * nodes
        self._at = at
        self._rooms: dict[str, Room | None] = {}
        self._blocked: set[str] = set()
        self.grants: list[tuple[Waiting, dict[str, int]]] = []
        """With the sizes of their grants."""
        self.lent_out: set[str] = set()
        """Lines that somebody waits for and that would have room if nodes gave back."""
        self.doubtful: list[Waiting] = []
        """Asks that do not fit settled + held, as far as the fold shows."""
        self.turned: list[Waiting] = []

    def weigh(self, waiting: Waiting) -> None:
        """Put one ask where it belongs."""
        if waiting.turns_ns is not None and self._at.wall_ns >= waiting.turns_ns:
            self.turned.append(waiting)
            return
        lacks, refusable = [], False
        for need in waiting.needs:
            room = self._room(need)
            if room is None:
                self.turned.append(waiting)
                return
            if need.amount > room.free or need.line in self._blocked or need.span in self._stray:
                lacks.append(need.line)
                refusable = refusable or room.refuses(need.amount)
        waiting.lacks = lacks
        if not lacks:
            self.grants.append((waiting, self._take(waiting.needs)))
            return
        self._blocked.update(lacks)
        if refusable:
            self.doubtful.append(waiting)
        else:
            self.lent_out.update(lacks)

    def spare(self, needs: Sequence[Need]) -> dict[str, int]:
        """What can be lent ahead of need: nothing that is tight or waited for, and a share of what remains."""
        sizes: dict[str, int] = {}
        for need in needs:
            room = self._room(need)
            wanted = need.line in self._blocked or need.span in self._stray
            if room is None or wanted or self._recalls.is_tight(need.line, self._at.elapsed_ns):
                continue
            size = min(need.amount, room.free // self._share)
            if size > 0:
                room.free -= size
                sizes[need.line] = size
        return sizes

    def _take(self, needs: Sequence[Need]) -> dict[str, int]:
        """Sizes of a grant (rule G3), taken from the rooms."""
        sizes = {}
        for need in needs:
            room = self._room(need)
            assert room is not None  # noqa: S101 - weighed just before
            size = need.amount
            if not self._recalls.is_tight(need.line, self._at.elapsed_ns):
                size = max(size, min(AMPLE * size, room.free // self._share))
            room.free -= size
            sizes[need.line] = size
        return sizes

    def _room(self, need: Need) -> Room | None:
        if need.line not in self._rooms:
            self._rooms[need.line] = self._lines.room(need)
        return self._rooms[need.line]
