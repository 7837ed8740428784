"""The ledger's fold: any interleaving of the two logs gives the same bytes, and the figures are what they claim.

A script of small integers is interpreted as a history that nodes and a leader could have written (so that it
shrinks well). The same history is then folded in several orders, with checkpoints in between, and compared
with a naive model that sums up whole histories.
"""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.histories import NANOS, Script, World, admit, fold, interpret, line_for, repeating, scripts, world_of

from events.codec import decode_batch, encode_batch
from events.log.port import Stored
from events.state.budget_image import dump_budget
from events.state.node_logs import CorruptLog
from events.state.replica import Replica
from events.subjects import CONTROL_LOG
from events.types import (
    Event,
    Fenced,
    LeaseGranted,
    RequestAdmitted,
    RequestReconciled,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import METERS, parse_line, window_end_s
from schemas.amounts import Amounts
from schemas.ids import slot_of


@given(scripts | repeating, st.lists(st.booleans(), max_size=120), st.frozensets(st.integers(0, 150), max_size=4))
@settings(max_examples=250, deadline=None)
def test_every_interleaving_gives_the_same_bytes(
    script: Script, order: list[bool], checkpoints: frozenset[int]
) -> None:
    world = world_of(script)
    control_first = fold(world, [True] * len(world.control)).dump()
    nodes_first = fold(world, [False] * len(world.nodes)).dump()
    assert nodes_first == control_first
    assert fold(world, order, checkpoints).dump() == control_first


def test_who_used_a_key_first_is_not_forgotten_over_a_checkpoint() -> None:
    """Folded nodes first: a key is used and gives everything back; the state is kept; hours go by; the key is made."""
    world = world_of([(0, 3, 0), (5, 3, 1), (8, 0, 0)])
    nodes_first = [False] * len(world.nodes)
    for step in range(len(world.nodes) + len(world.control)):
        assert fold(world, nodes_first, frozenset({step})).dump() == fold(world, []).dump(), step


@given(scripts, st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_cached_lines_agree_with_sums_at_every_step(script: Script, seed: int) -> None:
    world = world_of(script)
    replica = Replica()
    lines = [line_for(world, pick) for pick in range(12)]
    for step, message in enumerate(sorted([*world.control, *world.nodes], key=lambda m: (m.time_ns, m.subject))):
        if message.subject.startswith("rf.control"):
            replica.apply_control(message)
        else:
            replica.apply_node(message)
        if (step + seed) % 3:
            continue
        for line in lines:
            kind, account, meter, window, start_s = parse_line(line)
            zone = replica.state.zone_of(kind, account)
            end_s = window_end_s(window, start_s, zone)
            figure = replica.budget.line(line, zone)
            assert figure[:2] == replica.budget.tally.total(kind, account, meter, start_s, end_s)
            assert figure.leased >= 0


NEVER = 2**62


class Naive:
    """Sums up whole histories of requests without objects: the definition, spelt out. Positions are in the node log."""

    def __init__(self, world: World) -> None:
        self.settled: dict[tuple[str, str, str], int] = {}
        self.held: dict[tuple[str, str, str], int] = {}
        reconciled = {}
        for message in world.control:
            for event in decoded(message):
                if isinstance(event, RequestReconciled):
                    reconciled[event.request_id] = event.actual
        told = [(event, decode_batch(message.payload).actor) for message in world.nodes for event in decoded(message)]
        self.history = [event for event, _ in told]
        self.slots = [slot_of(actor) for _, actor in told]
        self.admitted_by = world.admitted_by
        for request in world.requests:
            end = self.first(request, lambda event: isinstance(event, RequestReleased) or is_settled(event))
            if self.resolved(request, world.admitted_by[request.request_id]) < end:
                self.add(self.settled, request, Amounts(requests=request.bound.requests))
            elif end < NEVER:
                event = self.history[end]
                self.add(self.settled, request, event.actual if isinstance(event, RequestSettled) else Amounts())
            elif request.request_id in reconciled:
                self.add(self.settled, request, reconciled[request.request_id])
            else:
                self.add(self.held, request, request.bound)

    def first(self, request: RequestAdmitted, wanted: Callable[[Event], bool]) -> int:
        """Where the first such event about the request is, by the slot that admitted it: others have no say."""
        found = (
            place
            for place, event in enumerate(self.history)
            if getattr(event, "request_id", "") == request.request_id and wanted(event) and self.is_own(place, request)
        )
        return next(found, NEVER)

    def is_own(self, place: int, request: RequestAdmitted) -> bool:
        return self.slots[place] == slot_of(self.admitted_by[request.request_id])

    def resolved(self, request: RequestAdmitted, actor: str) -> int:
        """Where an answer to another attempt had been told, and its own outcome was unknown."""
        begin = self.first(request, lambda event: isinstance(event, RequestAdmitted))
        told = lost = NEVER
        for place, event in enumerate(self.history):
            if place > begin and isinstance(event, RequestSettled):
                of_another = event.request_id != request.request_id and event.resolves == request.idempotency != ""
                if of_another and event.at_ns - request.at_ns <= 86_400 * NANOS:
                    told = min(told, place)
                own = event.request_id == request.request_id and self.is_own(place, request)
                if own and event.outcome == "unknown":
                    lost = min(lost, place)
            if isinstance(event, Fenced) and event.actor == actor:
                lost = min(lost, place)
        return max(told, lost)

    def add(self, figures: dict[tuple[str, str, str], int], request: RequestAdmitted, amounts: Amounts) -> None:
        who = request.who
        for kind, account in (("key", who.key), ("agent", who.agent), ("team", who.owner), ("org", "default")):
            for meter in METERS:
                if account:
                    figures[kind, account, meter] = figures.get((kind, account, meter), 0) + amounts.of(meter)


def is_settled(event: Event) -> bool:
    return isinstance(event, RequestSettled) and event.outcome == "settled"


def decoded(message: Stored) -> Sequence[Event]:
    return decode_batch(message.payload).events


@given(scripts | repeating)
@settings(max_examples=300, deadline=None)
def test_totals_are_what_the_history_says(script: Script) -> None:
    world = World()
    for op, a, b in script:
        plain = b + 1 if op in {6, 7} and b % 3 == 0 else b  # objects have tables of their own
        soon = a % 4 if op == 0 else a  # the keys do not die
        interpret(world, op, soon, plain)
    naive = Naive(world)
    budget = fold(world, []).budget
    for kind, account in (
        ("key", "vk_a"),
        ("key", "vk_b"),
        ("agent", "bot"),
        ("agent", "declared"),
        ("team", "team"),
        ("org", "default"),
    ):
        for meter in METERS:
            name = (kind, account, meter)
            figure = budget.figure(kind, account, meter, "total", world.now_ns, "UTC")
            assert figure == (naive.settled.get(name, 0), naive.held.get(name, 0)), name


@given(scripts | repeating, st.frozensets(st.integers(0, 150), max_size=4))
@settings(max_examples=150, deadline=None)
def test_repeats_are_found_among_what_is_open_and_nothing_lost_is_held_that_was_told(
    script: Script, checkpoints: frozenset[int]
) -> None:
    world = world_of(script)
    budget = fold(world, [], checkpoints).budget
    for digest in ("d1", "d2"):
        carrying = [name for name, request in budget.open.items() if request.idempotency == digest]
        assert sorted(budget.repeats.others(digest, "", 0)) == sorted(carrying)
    assert not [request for request in budget.open.values() if request.unknown and request.resolved]


def test_repeated_batches_change_nothing() -> None:
    world = world_of([(5, 3, 4), (3, 2, 2), (5, 1, 1), (6, 0, 5)])
    once = fold(world, []).budget
    twice = Replica()
    for message in world.control:
        twice.apply_control(message)
    for message in world.nodes:
        twice.apply_node(message)
        if message.subject.startswith("rf.node.log"):
            twice.apply_node(message)
    assert dump_budget(twice.budget) == dump_budget(once)


def test_a_gap_in_a_node_log_ends_that_log_and_no_other() -> None:
    world = world_of([(5, 3, 4), (5, 1, 1), (5, 2, 2)])
    replica = Replica()
    logs = [m for m in world.nodes if m.subject.startswith("rf.node.log")]
    folded = [replica.apply_node(message) for message in world.nodes if message is not logs[1]]
    assert [message.breaks for message in folded if message is not None] == [False, True]
    assert list(replica.budget.open) == ["req_0"], "believed up to the gap"
    world.join(2)
    for message in world.nodes[-1:]:
        replica.apply_node(message)
    world.write(world.living["n2"], world.requests[0])
    assert replica.apply_node(world.nodes[-1]) is not None, "another one's log goes on"


def test_a_gap_in_the_control_log_stops_the_fold() -> None:
    world = world_of([(10, 1, 1), (10, 2, 1)])
    replica = Replica()
    for message in world.control[:2]:
        replica.apply_control(message)
    with pytest.raises(CorruptLog, match="control log goes"):
        replica.apply_control(world.control[3])


def test_what_a_fenced_incarnation_would_still_write_is_ignored() -> None:
    world = world_of([(5, 3, 4)])
    incarnation = world.living["n1"]
    world.fence("n1")
    before = fold(world, []).budget.figure("org", "default", "usd", "total", world.now_ns, "UTC")
    world.counters[incarnation] = 1
    admit(world, incarnation, 9, 9)
    after = fold(world, []).budget.figure("org", "default", "usd", "total", world.now_ns, "UTC")
    assert before == after == (0, 3)


def test_a_leader_that_was_fenced_is_ignored() -> None:
    world = world_of([])
    stale, n = world.leader, world.leader_n
    world.lead("cp-2")
    batch = encode_batch(stale, n + 1, world.now_ns, [LeaseGranted("n1-0", {"key:vk_a:usd:day:0": 5})])
    world.control.append(Stored(len(world.control) + 1, CONTROL_LOG, batch, world.now_ns))
    assert fold(world, []).budget.leases.granted("n1-0", "key:vk_a:usd:day:0") == 0
