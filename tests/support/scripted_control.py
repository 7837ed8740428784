"""A control plane that follows a test's script: it joins nodes, feeds them, lends by a small ledger, and fences.

It shares no code with the real one. Its ledger is a plain sum over the node logs, so a test can hold the node's
arithmetic against it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from events import subjects
from events.codec import decode_batch, encode_batch
from events.log.faults import StreamFaults
from events.log.memory import MemoryPort, MemoryStream
from events.messaging.memory import BusFaults, MemoryBus
from events.messaging.port import Message
from events.subjects import NODES_STREAM
from events.types import Fenced, FenceOpened, NodeEvent
from schemas.accounts import AccountCaps, Cap
from schemas.packed import encode_record, pack
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, FeedDelta, KeyPolicy, Record, record_id
from schemas.rpc import (
    CatchupAsk,
    JoinAnswer,
    JoinAsk,
    LeaseAnswer,
    LeaseAsk,
    LeaseRefusal,
    ObjectAnswer,
    ObjectAsk,
    Push,
    RatesAnswer,
    RatesAsk,
    RateShare,
    RegisterAnswer,
    RegisterAsk,
    SnapshotAsk,
    SnapshotChunk,
    UsageAnswer,
    UsageAsk,
)

START_WALL_NS = 1_763_640_000 * 1_000_000_000
"""2025-11-20 12:00:00 UTC."""

_ASKS: dict[str, type[Any]] = {
    "join": JoinAsk,
    "snapshot": SnapshotAsk,
    "catchup": CatchupAsk,
    "ask": LeaseAsk,
    "object": ObjectAsk,
    "register": RegisterAsk,
    "usage": UsageAsk,
    "rates": RatesAsk,
}


class LoopClock:
    """Both clocks, from the running loop's time: works on a virtual loop and on a real one."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self._ahead_ns = ahead_ns

    def elapsed_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def wall_ns(self) -> int:
        return START_WALL_NS + self._ahead_ns + self.elapsed_ns()


class ScriptedControl:
    """One leader over a bus and a stream in memory.

    `answer`: replaces an answer (return None: none is sent) or the method's default; by method name. `asks`: lease asks
    as they came; `object_asks` likewise. Sequences of the control log are a counter: `record` spends one.
    """

    def __init__(self, faults: BusFaults | None = None) -> None:
        self.clock = LoopClock()
        self.stream = MemoryStream(NODES_STREAM, now_ns=self.clock.wall_ns)
        self.bus = MemoryBus(faults)
        self.me = self.bus.client("control")
        self.seq = 0
        self.epoch = 1
        self.records: dict[str, Record] = {}
        self.history: list[tuple[int, Record]] = []
        self.asks: list[LeaseAsk] = []
        self.granted: dict[tuple[str, str], int] = {}
        self.fences: dict[str, int] = {}
        self.joined: list[str] = []
        self.answer: dict[str, Callable[[str, Any], Any]] = {}
        self.objects: dict[str, ObjectAnswer] = {}
        self.object_asks: list[ObjectAsk] = []
        self.silent: set[str] = set()
        self.grant_factor = 4
        self.rate_asks: list[RatesAsk] = []
        self.rate_share = 1_000_000
        self.feeding = True
        self._joins: dict[str, JoinAnswer] = {}
        self._beat: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.me.subscribe(subjects.ALL_RPCS, self._serve, max_concurrent=256)
        self._beat = asyncio.get_running_loop().create_task(self._beats(), name="scripted feed")

    async def stop(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait({self._beat})

    def port(self, faults: StreamFaults | None = None) -> MemoryPort:
        return self.stream.port(faults)

    # ------------------------------------------------------------------ policy

    def record(self, *records: Record) -> int:
        """Put records into the policy, all at one new sequence of the control log, without telling anybody."""
        self.seq += 1
        for record in records:
            self.records[record_id(record)] = record
            self.history.append((self.seq, record))
        return self.seq

    def delta(self, after: int, through: int) -> FeedDelta:
        records = tuple(record for seq, record in self.history if after < seq <= through)
        return FeedDelta(self.epoch, after, through, self.clock.wall_ns(), records)

    async def feed(self, after: int, through: int) -> None:
        await self.me.publish(subjects.FEED, msgspec.json.encode(self.delta(after, through)))

    async def tell(self, *records: Record) -> int:
        """Record and push, as the leader does."""
        before = self.seq
        after = self.record(*records)
        await self.feed(before, after)
        return after

    def key(self, key_id: str = "vk_1", **fields: Any) -> KeyPolicy:
        known = self.records.get(f"key:{key_id}")
        tokens = known.tokens if isinstance(known, KeyPolicy) else ()
        base: dict[str, Any] = {"agent": "bot", "tokens": tokens, "seq": self.seq + 1}
        return KeyPolicy(id=key_id, **(base | fields))

    def agent(self, name: str = "bot", **fields: Any) -> AgentPolicy:
        return AgentPolicy(name=name, seq=self.seq + 1, **fields)

    def caps(self, kind: Any, account_id: str, *caps: Cap) -> BudgetPolicy:
        return BudgetPolicy(self.seq + 1, AccountCaps(kind, account_id, caps))

    # ------------------------------------------------------------------ nodes

    async def fence(self, incarnation: str) -> None:
        """F1: one message on the fence subject."""
        slot = incarnation.partition("-")[0]
        event = Fenced(incarnation, "scripted", self.epoch)
        payload = encode_batch("control", 1, self.clock.wall_ns(), (event,))
        subject = subjects.node_fence(slot, incarnation)
        await self.port().publish(subject, payload, msg_id=None, expect=None, timeout_s=1.0)

    async def push(self, slot: str, message: Push) -> None:
        await self.me.publish(subjects.push(slot), msgspec.json.encode(message))

    def events(self, incarnation: str = "") -> list[NodeEvent]:
        """What the node logs hold, of one incarnation or of all, in order."""
        found: list[NodeEvent] = []
        for stored in self.stream.between(0, self.stream.state().last_sequence):
            owner = subjects.parse_node_log(stored.subject)
            if owner is not None and incarnation in {"", owner.incarnation}:
                found.extend(decode_batch(stored.payload).events)  # type: ignore[arg-type]  # node logs hold those
        return found

    def of(self, kind: type[Any], incarnation: str = "") -> list[Any]:
        return [event for event in self.events(incarnation) if isinstance(event, kind)]

    # ------------------------------------------------------------------ answers

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            if self.feeding:
                await self.feed(self.seq, self.seq)

    async def _serve(self, message: Message) -> None:
        asked = subjects.parse_rpc(message.subject)
        assert asked is not None
        if asked.method in self.silent:
            return
        ask = msgspec.json.decode(message.payload, type=_ASKS[asked.method])
        if isinstance(ask, LeaseAsk):
            self.asks.append(ask)
        scripted = self.answer.get(asked.method)
        answer = (scripted or getattr(self, f"_{asked.method}"))(asked.slot, ask)
        if asyncio.iscoroutine(answer):
            answer = await answer
        answer = await answer if asyncio.isfuture(answer) else answer
        if answer is not None:
            await self.me.respond(message.reply, msgspec.json.encode(answer))

    async def _join(self, slot: str, ask: JoinAsk) -> JoinAnswer:
        if ask.nonce in self._joins:
            return self._joins[ask.nonce]
        incarnation = f"{slot}-{len(self.joined) + 1}"
        fence = subjects.node_fence(slot, incarnation)
        payload = encode_batch("control", 1, self.clock.wall_ns(), (FenceOpened(incarnation, self.epoch),))
        ack = await self.port().publish(fence, payload, msg_id=None, expect=None, timeout_s=1.0)
        self.joined.append(incarnation)
        before = self.seq
        joined_seq = self.record(ClusterPolicy(self.seq + 1, 1))
        await self.feed(before, joined_seq)
        log = subjects.node_log(slot, incarnation)
        now_ns = self.clock.wall_ns()
        answer = JoinAnswer(incarnation, fence, ack.sequence, log, joined_seq, self.epoch, now_ns)
        self._joins[ask.nonce] = answer
        return answer

    def _snapshot(self, _slot: str, ask: SnapshotAsk) -> SnapshotChunk:
        """Two records a chunk, so that chunks are always joined."""
        names = sorted(name for name in self.records if name > ask.cursor)
        chunk = tuple(self.records[name] for name in names[:2])
        cursor = names[1] if len(names) > 2 else ""
        return SnapshotChunk(self.seq, self.clock.wall_ns(), pack(map(encode_record, chunk)), cursor)

    def _catchup(self, _slot: str, ask: CatchupAsk) -> FeedDelta:
        return self.delta(ask.after_seq, self.seq)

    def _ask(self, _slot: str, ask: LeaseAsk) -> LeaseAnswer:
        return self.lend(ask)

    def lend(self, ask: LeaseAsk, tight: Sequence[str] = ()) -> LeaseAnswer:
        """Grant `grant_factor` times the bound without looking at any cap."""
        for line, amount in ask.lines.items():
            place = (ask.incarnation, line)
            factor = 1 if line in tight else self.grant_factor
            self.granted[place] = self.granted.get(place, 0) + factor * amount
        granted = {line: self.granted[ask.incarnation, line] for line in ask.lines}
        return LeaseAnswer(ask.ask_id, "granted", self.clock.wall_ns(), granted, tuple(tight))

    def refuse(self, ask: LeaseAsk, line: str, cap: int, settled: int) -> LeaseAnswer:
        refusal = LeaseRefusal(line, cap, settled, 0)
        return LeaseAnswer(ask.ask_id, "refused", self.clock.wall_ns(), refusal=refusal)

    def _object(self, _slot: str, ask: ObjectAsk) -> ObjectAnswer:
        self.object_asks.append(ask)
        return self.objects.get(ask.ref, ObjectAnswer(ask.ref))

    def _register(self, _slot: str, ask: RegisterAsk) -> RegisterAnswer:
        record = self.agent(ask.name, owner=ask.owner, purpose=ask.purpose)
        seq = self.record(record)
        return RegisterAnswer(seq, (record,))

    def _usage(self, _slot: str, ask: UsageAsk) -> UsageAnswer:
        return UsageAnswer(ask.key, total_requests=3, total_usd_nanos=1_500_000_000)

    def _rates(self, _slot: str, ask: RatesAsk) -> RatesAnswer:
        """`rate_share` of every limit for this node."""
        self.rate_asks.append(ask)
        return RatesAnswer(self.epoch, 1, {bucket: RateShare(self.rate_share) for bucket in ask.uses})
