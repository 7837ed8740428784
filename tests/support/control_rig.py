"""A real leader over logs and bus in memory, on a virtual-time loop, with nodes that do what a test says.

A `FakeNode` joins, heartbeats, follows the feed and obeys recalls by itself; each of these can be switched off, and
everything else is said by the test. It shares no code with the real node but the writer of its log.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec
from sim.loop import Process, VirtualLoop, run_virtual

from controlplane.checkpoints import MemoryCheckpoints, restore
from controlplane.commands.base import CommandRefusal, Decision, Figures, Moment
from controlplane.following import Following, Logs
from controlplane.leader import Leader, lead
from events import subjects
from events.codec import decode_batch, encode_batch
from events.log.faults import PublishFate, StreamFaults
from events.log.memory import MemoryStream
from events.log.port import FenceExpectation
from events.log.writer import Fenced as WriterFenced
from events.log.writer import LogClosed, SoleWriterLog
from events.messaging.memory import MemoryBus
from events.messaging.port import Message
from events.state.control import ControlState
from events.types import (
    Applied,
    BudgetSet,
    By,
    ControlEvent,
    Heartbeat,
    KeyIssued,
    KeyRevoked,
    LeaseReturned,
    NodeEvent,
    NodeStarted,
    RequestAdmitted,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import AccountCaps, Cap, line_key, window_start_s
from schemas.amounts import Amounts
from schemas.packed import unpack
from schemas.policy import FeedDelta, Record, Who, record_id
from schemas.rpc import (
    CatchupAsk,
    JoinAnswer,
    JoinAsk,
    LeaseAnswer,
    LeaseAsk,
    Push,
    Recall,
    RpcError,
    SnapshotAsk,
    SnapshotChunk,
)
from schemas.settings import Timing

T = TypeVar("T")

START_WALL_NS = 1_763_640_000 * 1_000_000_000
BY = By("op_1", "tester")


class RigClock:
    def elapsed_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def wall_ns(self) -> int:
        return START_WALL_NS + self.elapsed_ns()


class Gate:
    """A client's way to a stream that a test can close: publishes wait, followers see nothing new, or see it late.

    `on_fence` is called when this client is about to fence the control log.
    """

    def __init__(self) -> None:
        self.open = True
        self.blind = False
        self.delay_s = 0.0
        self.on_fence: Callable[[], None] | None = None
        self.fates: list[PublishFate] = []
        self._opened = asyncio.Event()
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    def reopen(self) -> None:
        self._opened.set()

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        await self._opened.wait()
        if self.on_fence is not None and subject == subjects.CONTROL_FENCE:
            self.on_fence()
        return self.fates.pop(0) if self.fates else PublishFate()

    def delivery_delay_s(self, sequence: int) -> float:
        return float("inf") if self.blind else self.delay_s


class Rig:
    """The world: two streams, a bus, leaders and nodes. `deaf`: bus receivers that get nothing."""

    def __init__(self, timing: Timing | None = None, seed: int = 1) -> None:
        self.timing = timing or Timing()
        self.clock = RigClock()
        self.random = Random(seed)
        self.control = MemoryStream(subjects.CONTROL_STREAM, now_ns=self.clock.wall_ns)
        self.nodes = MemoryStream(subjects.NODES_STREAM, now_ns=self.clock.wall_ns)
        self.deaf: set[str] = set()
        self.feed: list[FeedDelta] = []
        self.bus = MemoryBus(self)
        self.checkpoints = MemoryCheckpoints()
        self.leaders: list[Leader] = []
        self.fakes: dict[str, FakeNode] = {}

    def deliveries_s(self, sender: str, receiver: str, subject: str) -> tuple[float, ...]:
        return () if receiver in self.deaf or sender in self.deaf else (0.0,)

    async def lead(
        self, name: str = "cp", control: StreamFaults | None = None, nodes: StreamFaults | None = None
    ) -> Leader:
        logs = Logs(self.control.port(control), self.nodes.port(nodes))
        following = Following(logs, await restore(self.checkpoints, *logs), self.checkpoints, self.clock)
        leader = await lead(logs, following, self.bus.client(name), self.clock, self.random.randbytes, self.timing)
        self.leaders.append(leader)
        return leader

    async def watch_feed(self) -> None:
        async def keep(message: Message) -> None:
            self.feed.append(msgspec.json.decode(message.payload, type=FeedDelta))

        await self.bus.client("observer").subscribe(subjects.FEED, keep)

    async def node(self, slot: str, **switches: bool) -> "FakeNode":
        fake = FakeNode(self, slot, **switches)
        self.fakes[slot] = fake
        await fake.join()
        await settle()
        return fake

    async def close(self) -> None:
        for fake in self.fakes.values():
            await fake.stop()
        for leader in self.leaders:
            await leader.close()

    def now_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1_000)

    def events(self, stream: MemoryStream, kind: type[T]) -> list[T]:
        batches = (decode_batch(stored.payload) for stored in stream.between(0, stream.state().last_sequence))
        return [event for batch in batches for event in batch.events if isinstance(event, kind)]


class FakeNode:
    """`applies`: says Applied for what the feed brings; `returns`: obeys recalls; `beats`: heartbeats."""

    def __init__(self, rig: Rig, slot: str, *, applies: bool = True, returns: bool = True, beats: bool = True) -> None:
        self.rig = rig
        self.slot = slot
        self.applies = applies
        self.returns = returns
        self.beats = beats
        self.gate = Gate()
        self.bus = rig.bus.client(slot)
        self.incarnation = ""
        self.joined: JoinAnswer | None = None
        self.position = 0
        self.records: dict[str, Record] = {}
        self.granted: dict[str, int] = {}
        self.returned: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.recalls: list[Recall] = []
        self.log: SoleWriterLog[NodeEvent] | None = None

    async def join(self, nonce: str = "") -> JoinAnswer:
        """Ask for an incarnation and begin its log."""
        nonce = nonce or self.rig.random.randbytes(8).hex()
        answer = await self.call("join", JoinAsk(nonce, 1, "test"), JoinAnswer)
        self.begin(answer)
        await self.bus.subscribe(subjects.FEED, self._on_feed)
        await self.bus.subscribe(subjects.push(self.slot), self._on_push)
        await self.load()
        return answer

    def begin(self, answer: JoinAnswer) -> None:
        self.joined = answer
        self.incarnation = answer.incarnation
        self.granted, self.returned, self.taken = {}, {}, {}

        def encode(n: int, events: Sequence[NodeEvent]) -> bytes:
            return encode_batch(answer.incarnation, n, self.rig.clock.wall_ns(), events)

        self.log = SoleWriterLog[NodeEvent](
            self.rig.nodes.port(self.gate),
            subject=answer.log_subject,
            fence=FenceExpectation(answer.fence_subject, answer.fence_seq),
            incarnation=answer.incarnation,
            encode=encode,
            clock_ns=self.rig.clock.elapsed_ns,
        )
        self.log.append((NodeStarted(self.slot, self.rig.clock.wall_ns()),))
        self.log.start()
        if self.beats:
            self.log.heartbeat(self.rig.timing.heartbeat_ms / 1000, Heartbeat)

    async def load(self) -> None:
        """Load the snapshot, which may be some seconds old, and what came after it; say so."""
        cursor, position = "", 2**62
        while True:
            chunk = await self.call("snapshot", SnapshotAsk(cursor), SnapshotChunk)
            self._put(unpack(chunk.packed))
            position = min(position, chunk.as_of_seq)
            cursor = chunk.next_cursor
            if not cursor:
                break
        delta = await self.call("catchup", CatchupAsk(position), FeedDelta)
        self._put(delta.records)
        self.position = max(self.position, delta.to_seq)
        self.apply()

    def apply(self, through: int | None = None) -> None:
        """Say that the position (or something else) is applied."""
        if self.applies or through is not None:
            self.write(Applied(self.position if through is None else through))

    def write(self, *events: NodeEvent) -> None:
        assert self.log is not None
        try:
            self.log.append(events, essential=True)
        except (WriterFenced, LogClosed):
            return

    async def call(self, method: str, ask: msgspec.Struct, kind: type[T], timeout_s: float = 5.0) -> T:
        raw = await self.bus.request(subjects.rpc(self.slot, method), msgspec.json.encode(ask), timeout_s)
        if raw.startswith(b'{"error":"rpc_error"'):
            raise Refused(msgspec.json.decode(raw, type=RpcError))
        return msgspec.json.decode(raw, type=kind)

    async def ask(self, ask_id: str, lines: Mapping[str, int], *, ahead: bool = False) -> LeaseAnswer:
        answer = await self.call("ask", LeaseAsk(ask_id, self.incarnation, dict(lines), ahead), LeaseAnswer)
        self._credit(answer.granted)
        return answer

    def free(self, line: str) -> int:
        return self.granted.get(line, 0) - self.returned.get(line, 0) - self.taken.get(line, 0)

    def admit(self, request_id: str, amount: int, *lines: str, key: str = "vk_1", idempotency: str = "") -> None:
        """Reserve on lines, and say so in the log."""
        for line in lines:
            self.taken[line] = self.taken.get(line, 0) + amount
        who = Who(key=key, agent="bot")
        at_ns = self.rig.clock.wall_ns()
        bound = Amounts(usd=amount, requests=1)
        call = ("stripe", "x", "POST", "/")
        self.write(RequestAdmitted(request_id, at_ns, who, *call, bound, lines, idempotency=idempotency))

    def settle(self, request_id: str, amount: int) -> None:
        self.write(RequestSettled(request_id, "settled", self.rig.clock.wall_ns(), Amounts(usd=amount, requests=1)))

    def release(self, request_id: str, amount: int, *lines: str) -> None:
        for line in lines:
            self.taken[line] -= amount
        self.write(RequestReleased(request_id, "test"))

    def give_back(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.returned[line] = self.returned.get(line, 0) + max(0, self.free(line))
        self.write(LeaseReturned({line: self.returned[line] for line in lines}))

    async def stop(self) -> None:
        """Die: nothing is said."""
        if self.log is not None:
            await self.log.close(timeout_s=0.0)

    def _credit(self, granted: Mapping[str, int]) -> None:
        for line, amount in granted.items():
            self.granted[line] = max(amount, self.granted.get(line, 0))

    def _put(self, records: Sequence[Record]) -> None:
        for record in records:
            known = self.records.get(record_id(record))
            if known is None or known.seq < record.seq:
                self.records[record_id(record)] = record

    async def _on_feed(self, message: Message) -> None:
        delta = msgspec.json.decode(message.payload, type=FeedDelta)
        if delta.from_seq > self.position or not self.applies:
            return
        self._put(delta.records)
        self.position = max(self.position, delta.to_seq)
        if delta.records:
            self.apply()

    async def _on_push(self, message: Message) -> None:
        push = msgspec.json.decode(message.payload, type=Push)
        if isinstance(push, Recall) and push.incarnation == self.incarnation:
            self.recalls.append(push)
            self._credit(push.granted)
            if self.returns:
                self.give_back(list(push.granted))


class Refused(Exception):
    """The leader answered with an error."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(error.code, error.message)
        self.error = error


# ---------------------------------------------------------------- commands and lines


def day(account: str = "key:vk_1", at_ns: int = START_WALL_NS) -> str:
    kind, _, name = account.partition(":")
    return line_key(kind, name, "usd", "day", window_start_s("day", at_ns))


def record(*events: ControlEvent, barrier_seq: int = 0) -> Callable[[ControlState, Figures, Moment], Decision[None]]:
    """A command that records these events, whatever the state."""

    def decide(_: ControlState, __: Figures, ___: Moment) -> Decision[None]:
        return Decision(events, None, barrier_seq)

    return decide


def issue(key: str = "vk_1", cap: int | None = None, **fields: Any) -> Callable[..., Decision[None] | CommandRefusal]:
    caps = AccountCaps("key", key, (Cap("usd", "day", cap),)) if cap is not None else None
    at_ns = START_WALL_NS
    event = KeyIssued(
        key, BY, f"sha-{key}", fields.pop("agent", "bot"), at_ns, at_ns + 86_400 * 10**9 * 20, caps=caps, **fields
    )
    return record(event)


def revoke(key: str = "vk_1") -> Callable[[ControlState, Figures, Moment], Decision[None]]:
    """As DELETE does it: the second time there is nothing to record, but the barrier may still be open."""

    def decide(state: ControlState, _: Figures, __: Moment) -> Decision[None]:
        known = state.keys[key]
        if known.state == "revoked":
            return Decision((), None, known.changed_seq)
        return Decision((KeyRevoked(key, BY),), None)

    return decide


def set_cap(account: str, cap: int, zone: str = "UTC") -> Callable[..., Decision[None]]:
    kind, _, name = account.partition(":")
    return record(BudgetSet(AccountCaps(kind, name, (Cap("usd", "day", cap),), zone), BY))  # type: ignore[arg-type]


async def settle() -> None:
    """Let everything that is due now happen."""
    await asyncio.sleep(0.001)


def scenario(test: Callable[["Rig"], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs in virtual time, with a rig of its own."""

    async def main() -> None:
        rig = Rig()
        await test(rig)
        await rig.close()

    def run() -> None:
        run_virtual(main())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def process(name: str) -> Process:
    """A process of the simulation: what runs in it can be paused and killed."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return Process(name, loop)
