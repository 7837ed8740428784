"""The protocol with one mechanism switched off. Each mutant patches the real code; the observer must object.

A mutant is what a well-meant simplification would look like: everything else goes on as before.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controlplane import following
from controlplane.barrier import Barrier
from controlplane.barrier_view import BarrierView
from controlplane.leader import Leader
from controlplane.ledger_lines import Room
from controlplane.marks import Marks
from dataplane import admit, enforce, governor, node
from dataplane.admit import Admitter, TooLate
from dataplane.core import access
from dataplane.core.reservation import LeaseBook
from dataplane.core.snapshot import Snapshot
from dataplane.ends import Ends
from dataplane.inflight import Incarnation, State
from dataplane.leases import LeaseDesk
from events.log.group import Appended, Batch
from events.log.memory import MemoryPort, MemoryStream
from events.log.port import AppendUncertain, FenceMoved, PubAck
from events.log.writer import Fenced, LogClosed, SoleWriterLog
from events.state import objects
from events.state.buckets import move
from events.state.budget import Budget
from events.state.four import ZERO, negative
from events.state.keys import KeyFold
from events.state.leases import Leases
from events.subjects import CONTROL_FENCE
from events.types import KeyIssued, KeyRevoked, RequestAdmitted

Mutant = Callable[[pytest.MonkeyPatch], None]


def no_fence_assertion(patch: pytest.MonkeyPatch) -> None:
    """L2: appends assert nothing."""
    store = MemoryStream.store
    patch.setattr(
        MemoryStream, "store", lambda self, subject, payload, msg_id, _: store(self, subject, payload, msg_id, None)
    )


def no_intent_before_dispatch(patch: pytest.MonkeyPatch) -> None:
    """A3, P4: the intent is queued, and nobody waits until it is stored."""

    async def go_on(self: Admitter, admission: Any) -> None:
        admission.state = State.ADMITTED
        admission.appended = Appended(0, 0, self._node.clock.elapsed_ns(), duplicate=False)

    patch.setattr(Admitter, "_acknowledge", go_on)


def no_proof_age(patch: pytest.MonkeyPatch) -> None:
    """A1, A3, A4: any acknowledgement is proof for ever."""
    patch.setattr(SoleWriterLog, "proof_age_ns", lambda _: 0)


def a_duplicate_is_proof(patch: pytest.MonkeyPatch) -> None:
    """L4, A1: that it is stored already is taken for an acknowledgement, and proof counts from the answer."""
    store, publish = MemoryStream.store, SoleWriterLog._publish

    def forget(self: MemoryStream, *args: Any) -> PubAck:
        return PubAck(store(self, *args).sequence)

    async def from_the_answer(self: Any, payload: bytes) -> PubAck:
        ack = await publish(self, payload)
        self._in_flight_since_ns = self._clock_ns()
        return ack

    patch.setattr(MemoryStream, "store", forget)
    patch.setattr(SoleWriterLog, "_publish", from_the_answer)


def a_new_id_for_each_sending(patch: pytest.MonkeyPatch) -> None:
    """L3: an append that was not acknowledged is sent again as another message."""
    publish, sendings = MemoryPort.publish, [0]

    async def anew(self: MemoryPort, subject: str, payload: bytes, **how: Any) -> PubAck:
        sendings[0] += 1
        how["msg_id"] = f"{how['msg_id']}.{sendings[0]}"
        return await publish(self, subject, payload, **how)

    patch.setattr(MemoryPort, "publish", anew)


def an_append_is_given_up(patch: pytest.MonkeyPatch) -> None:
    """L3: what is not acknowledged at once counts as not stored; its number is used again, under another id."""
    tries = [0]

    async def once(self: SoleWriterLog[Any], batch: Batch[Any]) -> None:
        tries[0] += 1
        self._in_flight, self._in_flight_since_ns = batch, self._clock_ns()
        name = f"{self._incarnation}.{self._next_n}.{tries[0]}"
        try:
            ack = await self._port.publish(
                self._subject, batch.payload, msg_id=name, expect=self._fence, timeout_s=self._settings.ack_timeout_s
            )
        except FenceMoved:
            self._finish(Fenced, "fenced")
            if self._on_fenced is not None:
                self._on_fenced()
            return
        except AppendUncertain:
            self._in_flight = None
            for entry in batch.entries:
                intent = any(isinstance(event, RequestAdmitted) for event in entry.events)
                entry.fail(TooLate() if intent else LogClosed("given up"))
            return
        self._in_flight = None
        appended = Appended(ack.sequence, self._next_n, self._in_flight_since_ns, ack.duplicate)
        self._next_n += 1
        self._last, self._proof_ns = appended, appended.first_sent_ns
        for entry in batch.entries:
            entry.succeed(appended)

    patch.setattr(SoleWriterLog, "_commit", once)


def amounts_of_one_message(patch: pytest.MonkeyPatch) -> None:
    """G2: a grant is credited on top of what was returned, so one that comes late or twice counts again."""
    credit = LeaseBook.credit

    def add(self: LeaseBook, granted: Any) -> list[str]:
        known = {line: self.leases[line].returned if line in self.leases else 0 for line in granted}
        return credit(self, {line: total + known[line] for line, total in granted.items()})

    patch.setattr(LeaseBook, "credit", add)


def no_barrier_wait(patch: pytest.MonkeyPatch) -> None:
    """B3: a change is confirmed once it is recorded."""

    async def at_once(self: Barrier, seq: int) -> None:
        self.begin(seq)

    patch.setattr(Barrier, "wait", at_once)


def a_fence_counts_at_once(patch: pytest.MonkeyPatch) -> None:
    """B3: a fenced node is no longer waited for, however young its fence."""
    patch.setattr(BarrierView, "_ripens_ns", lambda _self, _incarnation: 0)


def a_key_revives(patch: pytest.MonkeyPatch) -> None:
    """B4: a KeyIssued that lands after the KeyRevoked makes the key anew."""
    apply = KeyFold.apply

    def revive(self: KeyFold, seq: int, event: Any) -> Any:
        if isinstance(event, KeyIssued) and event.id in self.records:
            self._drop(self.records[event.id])
        return apply(self, seq, event)

    patch.setattr(KeyFold, "apply", revive)


def no_tombstones(patch: pytest.MonkeyPatch) -> None:
    """B4: a revoked key is forgotten."""
    apply = KeyFold.apply

    def forget(self: KeyFold, seq: int, event: Any) -> Any:
        gone = apply(self, seq, event)
        if isinstance(event, KeyRevoked) and event.id in self.records:
            self._drop(self.records[event.id])
        return gone

    patch.setattr(KeyFold, "apply", forget)


def holes_in_the_feed(patch: pytest.MonkeyPatch) -> None:
    """B1: a delta is applied whatever is missing before it."""
    patch.setattr(Snapshot, "covers", lambda _self, _delta: True)


def older_records_replace_newer(patch: pytest.MonkeyPatch) -> None:
    """B4: the record that comes last counts, not the one with the highest sequence."""
    put = Snapshot._put_key

    def newest_message_wins(self: Snapshot, record: Any) -> bool:
        self.keys.pop(record.id, None)
        return put(self, record)

    patch.setattr(Snapshot, "_put_key", newest_message_wins)


def any_policy_will_do(patch: pytest.MonkeyPatch) -> None:
    """F5, what the fence of a feed store would be for: a node serves with whatever snapshot it was given."""
    begin = Incarnation.__init__
    patch.setattr(Incarnation, "__init__", lambda self, name, log, desk, _: begin(self, name, log, desk, 0))


def no_second_look_at_the_key(patch: pytest.MonkeyPatch) -> None:
    """A3, B1: what was allowed when the request came stays allowed."""
    for module in (access, admit, enforce):
        patch.setattr(module, "still_allowed", lambda _snapshot, caller, *_: (caller, None))


def streams_are_not_cut(patch: pytest.MonkeyPatch) -> None:
    """A4: who relays asks nobody."""
    patch.setattr(governor.Governor, "check_relay", lambda _self, _admission: None)
    patch.setattr(enforce, "cut", lambda _admission, _refusal: None)


def leases_outlive_the_fence(patch: pytest.MonkeyPatch) -> None:
    """F2: a node that was fenced goes on with what the incarnation before had borrowed."""
    begin = LeaseDesk.__init__

    def inherit(self: LeaseDesk, incarnation: str, control: Any, *args: Any, **named: Any) -> None:
        begin(self, incarnation, control, *args, **named)
        self.book = control.__dict__.setdefault("inherited", self.book)

    patch.setattr(LeaseDesk, "__init__", inherit)


def a_fence_returns_nothing(patch: pytest.MonkeyPatch) -> None:
    """F2: the leases of a fenced incarnation stay lent."""
    patch.setattr(Leases, "fence", lambda _self, _incarnation: None)


def what_was_used_is_free(patch: pytest.MonkeyPatch) -> None:
    """A settlement frees the whole reservation."""
    patch.setattr(LeaseBook, "settle", lambda self, needs, _used: self.release(needs))


def the_last_answer_wins(patch: pytest.MonkeyPatch) -> None:
    """S2: of two answers that overlap, the one that is recorded last counts."""
    patch.setattr(objects, "exposure_after", lambda _counted, _final, told, _newest: told.exposure_nanos)


def a_settlement_counts_when_it_comes(patch: pytest.MonkeyPatch) -> None:
    """A request's end is counted in the windows of its end, not in those of its admission."""
    end = Budget._end

    def late(self: Budget, seq: int, actor: str, event: Any) -> None:
        request = self.open.get(event.request_id)
        if request is not None and event.outcome == "settled":
            move(request.spot, negative(request.bound), ZERO)
            request.spot = self.tally.spot(request.key, request.agent, request.owner, event.at_ns)
            move(request.spot, request.bound, ZERO)
        end(self, seq, actor, event)

    patch.setattr(Budget, "_end", late)


def a_plan_outlives_its_window(patch: pytest.MonkeyPatch) -> None:
    """G3: which lines a request needs is not looked at again when a window turns."""
    patch.setattr(node, "holds", lambda plan, snapshot, _: plan.version == snapshot.caps_version)


def a_little_more_is_lent(patch: pytest.MonkeyPatch) -> None:
    """G2: what may be lent is counted wrongly by a few units."""
    begin = Room.__init__

    def generous(self: Room, cap: int, zone: str, spent: int, free: int) -> None:
        begin(self, cap, zone, spent, free + 3)

    patch.setattr(Room, "__init__", generous)


def leases_are_a_reason(patch: pytest.MonkeyPatch) -> None:
    """G4, P2: what is lent to other nodes counts for a refusal."""
    patch.setattr(Room, "refuses", lambda self, amount: amount > self.free)


def no_mark_before_a_refusal(patch: pytest.MonkeyPatch) -> None:
    """G4, P2: the ledger refuses by what its fold shows just now."""

    async def at_once(_: Marks) -> None:
        await asyncio.sleep(0)

    patch.setattr(Marks, "pass_both", at_once)


def a_takeover_does_not_wait_for_the_fold(patch: pytest.MonkeyPatch) -> None:
    """F4: a new leader begins with its own fence and what it happens to have folded before."""

    async def what_is_here(self: Any, sequence: int) -> None:
        for message in await self.follower.next_batch(timeout_s=0.001):
            self._fold(message)
        if self._position() < sequence:
            newest = await self._port.get(sequence)
            if newest is not None and newest.subject == CONTROL_FENCE:
                self._fold(newest)

    patch.setattr(following.Replay, "through", what_is_here)


def what_is_released_may_go_out(patch: pytest.MonkeyPatch) -> None:
    """F3, B1: a withdrawn request is released in the log, and its driver is not told."""
    release = Ends.release

    def silently(self: Ends, admission: Any, reason: str) -> None:
        release(self, admission, reason)
        if admission.appended is not None:
            admission.state, admission.refusal = State.ADMITTED, None

    patch.setattr(Ends, "release", silently)


def an_idle_leader_hears_nothing(patch: pytest.MonkeyPatch) -> None:
    """A leader learns of a takeover by its next append alone."""

    async def never(_: Leader) -> None:
        await asyncio.get_running_loop().create_future()

    patch.setattr(Leader, "_watch_fence", never)
