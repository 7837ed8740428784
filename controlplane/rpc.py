"""What nodes ask the leader over the bus: the methods of schemas.rpc.

The slot is taken from the subject, which the bus's permissions prove; a message that claims another slot's
incarnation is not served. An ask that cannot be read is answered, not dropped: its sender learns at once. Nothing
here decides: leases are the ledger's, membership the membership's, registrations a command.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from controlplane.errors import CommandRefused, LogUnavailable, NotLeading
from controlplane.feed import Feed
from controlplane.ledger import Ledger
from controlplane.marks import Marks
from controlplane.membership import Membership
from controlplane.projector import records_of
from controlplane.rates import Rates
from controlplane.register import registration
from controlplane.usage import usage_of
from events.clock import Clock
from events.messaging.port import Bus, BusTooLarge, BusUnavailable, Message, Subscription
from events.state.replica import Replica
from events.subjects import parse_rpc
from events.types import By
from schemas.accounts import account_key
from schemas.ids import is_slot
from schemas.rpc import (
    CatchupAsk,
    JoinAsk,
    LeaseAnswer,
    LeaseAsk,
    ObjectAnswer,
    ObjectAsk,
    RatesAsk,
    RegisterAnswer,
    RegisterAsk,
    RpcError,
    SnapshotAsk,
    UsageAsk,
)

MAX_ASK_BYTES = 64 << 10
"""The largest ask is a lease ask of 64 lines, about 20 KB."""

MARK_TIMEOUT_S = 1.0
"""Who asks about an object waits no longer for a current answer, and asks again."""

LOADING_NS = 400_000_000
"""A slot that asked for a chunk of the snapshot this recently is loading it."""

MAX_SLOTS = 1_000
"""Slots remembered as loading; more nodes do not load at once."""

CONCURRENT = {"join": 16, "snapshot": 4, "catchup": 8, "ask": 1, "object": 64, "register": 16, "usage": 8, "rates": 1}
"""Messages of one method handled at a time. Asks are only queued, so one keeps their order; chunks cost work."""

Standing = Literal["living", "fenced", "unknown"]

_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class Rpc:
    """One leader's answers. `record` carries out a command without waiting for the nodes."""

    def __init__(
        self,
        replica: Replica,
        record: Callable[[Any, By], Awaitable[Any]],
        feed: Feed,
        ledger: Ledger,
        membership: Membership,
        marks: Marks,
        rates: Rates,
        bus: Bus,
        clock: Clock,
    ) -> None:
        self._replica = replica
        self._record = record
        self._feed = feed
        self._ledger = ledger
        self._membership = membership
        self._marks = marks
        self._rates = rates
        self._bus = bus
        self._clock = clock
        self._loading_ns: dict[str, int] = {}
        self._subscriptions: list[Subscription] = []
        self._asks = msgspec.json.Decoder(LeaseAsk)
        self._methods: dict[str, Callable[[str, bytes], Awaitable[msgspec.Struct]]] = {
            "join": self._join,
            "snapshot": self._snapshot,
            "catchup": self._catchup,
            "object": self._object,
            "register": self._register,
            "usage": self._usage,
            "rates": self._rate_shares,
        }

    async def start(self) -> None:
        for method, concurrent in CONCURRENT.items():
            handler = self._on_ask if method == "ask" else self._on_message
            subject = f"rf.rpc.*.{method}"
            self._subscriptions.append(await self._bus.subscribe(subject, handler, max_concurrent=concurrent))

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    def is_loading(self, slot: str) -> bool:
        """Whether the slot's node is visibly loading a snapshot."""
        return self._clock.elapsed_ns() - self._loading_ns.get(slot, -LOADING_NS) < LOADING_NS

    # ------------------------------------------------------------ messages

    async def _on_message(self, message: Message) -> None:
        """Any method but `ask`: one answer, when it is ready."""
        subject = parse_rpc(message.subject)
        if subject is None or not is_slot(subject.slot):
            return
        try:
            _check_size(message)
            answer = await self._methods[subject.method](subject.slot, message.payload)
        except NotLeading:
            answer = RpcError("not_leader", "another control plane leads")
        except (LogUnavailable, TimeoutError):
            answer = RpcError("unavailable", "the log does not answer in time")
        except (ValueError, msgspec.MsgspecError) as error:
            answer = RpcError("bad_request", str(error)[:200])
        await self._reply(message.reply, _encoder.encode(answer))

    async def _on_ask(self, message: Message) -> None:
        """A lease ask is answered by the ledger, at once or later."""
        subject = parse_rpc(message.subject)
        if subject is None or not is_slot(subject.slot):
            return
        try:
            _check_size(message)
            ask = self._asks.decode(message.payload)
            match self._standing(subject.slot, ask.incarnation):
                case "living":
                    await self._ledger.ask(ask, message.reply, _Reply(self._bus, message.reply))
                    return
                case "fenced":
                    answer: msgspec.Struct = LeaseAnswer(ask.ask_id, "fenced", self._clock.wall_ns())
                case "unknown":
                    # It may have joined at a leader of whom this one knows nothing yet.
                    answer = RpcError("unavailable", "this incarnation is not known here")
        except (ValueError, msgspec.MsgspecError) as error:
            answer = RpcError("bad_request", str(error)[:200])
        await self._reply(message.reply, _encoder.encode(answer))

    async def _reply(self, reply: str, payload: bytes) -> None:
        await _Reply(self._bus, reply)(payload)

    def _standing(self, slot: str, incarnation: str) -> Standing:
        log = self._replica.nodes.living.get(incarnation)
        node = self._replica.state.nodes.get(incarnation)
        if (log is not None and log.slot != slot) or (node is not None and node.slot != slot):
            raise ValueError("the incarnation is another slot's")
        if log is not None:
            return "living"
        if node is None:
            return "unknown"
        return "fenced" if node.fence_seq <= self._replica.nodes.seq else "living"

    # ------------------------------------------------------------ methods

    async def _join(self, slot: str, payload: bytes) -> msgspec.Struct:
        answer = await self._membership.join(slot, msgspec.json.decode(payload, type=JoinAsk))
        return msgspec.structs.replace(answer, log_full=self._feed.log_full)

    async def _snapshot(self, slot: str, payload: bytes) -> msgspec.Struct:
        ask = msgspec.json.decode(payload, type=SnapshotAsk)
        if len(self._loading_ns) >= MAX_SLOTS:
            self._loading_ns.clear()
        self._loading_ns[slot] = self._clock.elapsed_ns()
        await asyncio.sleep(0)  # chunks are work: let asks and folds have their turn between two of them
        return self._feed.snapshot(ask.cursor)

    async def _catchup(self, _: str, payload: bytes) -> msgspec.Struct:
        return self._feed.catchup(msgspec.json.decode(payload, type=CatchupAsk).after_seq)

    async def _object(self, _: str, payload: bytes) -> msgspec.Struct:
        """What is counted for an object, by a fold that holds everything recorded before the question."""
        ask = msgspec.json.decode(payload, type=ObjectAsk)
        async with asyncio.timeout(MARK_TIMEOUT_S):
            await self._marks.pass_both()
        budget = self._replica.budget
        known = budget.object(ask.ref)
        earlier = budget.earlier_unknown(ask.idempotency, ask.request_id, self._clock.wall_ns())
        if known is None:
            return ObjectAnswer(ask.ref, earlier_unknown=earlier)
        counted = known.counted
        return ObjectAnswer(ask.ref, counted, known.amount_minor, known.currency, known.key, earlier_unknown=earlier)

    async def _register(self, _: str, payload: bytes) -> msgspec.Struct:
        ask = msgspec.json.decode(payload, type=RegisterAsk)
        by = By(name="ringfence", reason=f"declared with key {ask.key}"[:200])
        try:
            await self._record(registration(ask), by)
        except CommandRefused as refused:
            return RegisterAnswer(error=refused.refusal.message)
        ids = (f"agent:{ask.name}", f"budget:{account_key('agent', ask.name)}")
        records = records_of(self._replica.state, ids)
        return RegisterAnswer(self._replica.control_seq, records)

    async def _usage(self, _: str, payload: bytes) -> msgspec.Struct:
        ask = msgspec.json.decode(payload, type=UsageAsk)
        return usage_of(self._replica, ask.key, self._clock.wall_ns())

    async def _rate_shares(self, slot: str, payload: bytes) -> msgspec.Struct:
        ask = msgspec.json.decode(payload, type=RatesAsk)
        if self._standing(slot, ask.incarnation) != "living":
            return RpcError("unavailable", "this incarnation is over, or not known here yet")
        return self._rates.report(slot, ask)


def _check_size(message: Message) -> None:
    if len(message.payload) > MAX_ASK_BYTES:
        raise ValueError("the message is too large")


class _Reply:
    """Answers one message. A lost answer is asked for again."""

    __slots__ = ("_bus", "_reply")

    def __init__(self, bus: Bus, reply: str) -> None:
        self._bus = bus
        self._reply = reply

    async def __call__(self, payload: bytes) -> None:
        try:
            await self._bus.respond(self._reply, payload)
        except (BusUnavailable, BusTooLarge) as error:
            _log.info("an answer could not be sent: %s", error)
