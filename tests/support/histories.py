"""Histories of both logs that nodes and a leader could have written, made from small integers, so that they shrink well."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from events.codec import encode_batch
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, CONTROL_LOG, NODE_MARK, node_fence, node_log
from events.types import (
    SYSTEM,
    BudgetSet,
    ControlEvent,
    Fenced,
    FenceOpened,
    KeyIssued,
    LeaseGranted,
    LeaseReturned,
    LogMarked,
    NodeEvent,
    NodeFenced,
    NodeJoined,
    ObjectExposure,
    RequestAdmitted,
    RequestReconciled,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import METERS, AccountCaps, Cap, line_key, window_start_s
from schemas.amounts import Amounts
from schemas.policy import Who

NANOS = 1_000_000_000
T0_NS = 1_763_596_800 * NANOS
KEYS_EXPIRE_NS = T0_NS + 90 * 86_400 * NANOS
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin")
KEYS = ("vk_a", "vk_b")
Script = list[tuple[int, int, int]]
"""Steps: what, and two small numbers that choose the details."""

WINDOWS = ("hour", "day", "month", "total")


@dataclass
class World:
    """Writes both logs, as a leader and nodes would."""

    control: list[Stored] = field(default_factory=list)
    nodes: list[Stored] = field(default_factory=list)
    now_ns: int = T0_NS
    leader_n: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    living: dict[str, str] = field(default_factory=dict)
    granted: dict[tuple[str, str], int] = field(default_factory=dict)
    returned: dict[tuple[str, str], int] = field(default_factory=dict)
    requests: list[RequestAdmitted] = field(default_factory=list)
    admitted_by: dict[str, str] = field(default_factory=dict)
    issued: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lead("cp-1")
        self.issue(KEYS[0])
        self.join(1)

    def issue(self, key: str) -> None:
        """Some keys are made late: folded nodes first, their use comes before them, and hours go by in between."""
        if key not in self.issued:
            self.issued.add(key)
            self.tell(KeyIssued(key, SYSTEM, f"sha-{key}", "bot", self.now_ns, KEYS_EXPIRE_NS))

    def lead(self, name: str) -> None:
        batch = encode_batch(name, 0, self.now_ns, [FenceOpened(name)])
        self.control.append(Stored(len(self.control) + 1, CONTROL_FENCE, batch, self.now_ns))
        self.leader, self.leader_n = name, 0

    def tell(self, *events: ControlEvent) -> None:
        self.leader_n += 1
        batch = encode_batch(self.leader, self.leader_n, self.now_ns, events)
        self.control.append(Stored(len(self.control) + 1, CONTROL_LOG, batch, self.now_ns))

    def on_nodes(self, subject: str, actor: str, n: int, *events: NodeEvent) -> None:
        batch = encode_batch(actor, n, self.now_ns, events)
        self.nodes.append(Stored(len(self.nodes) + 1, subject, batch, self.now_ns))

    def write(self, incarnation: str, *events: NodeEvent) -> None:
        self.counters[incarnation] += 1
        subject = node_log(incarnation.partition("-")[0], incarnation)
        self.on_nodes(subject, incarnation, self.counters[incarnation], *events)

    def join(self, slot_number: int) -> None:
        slot = f"n{slot_number}"
        incarnation = f"{slot}-{len(self.nodes)}"
        self.on_nodes(node_fence(slot, incarnation), "cp-1", 0, FenceOpened(incarnation))
        opened = len(self.nodes)
        self.counters[incarnation] = 0
        self.fence(slot)
        self.living[slot] = incarnation
        self.tell(NodeJoined(slot, incarnation, opened, self.now_ns))

    def fence(self, slot: str) -> None:
        old = self.living.pop(slot, None)
        if old is not None:
            self.on_nodes(node_fence(slot, old), "cp-1", 0, Fenced(old, "test"))
            self.tell(NodeFenced(slot, old, "test", len(self.nodes)))


def incarnation_of(world: World, pick: int) -> str | None:
    living = sorted(world.living.values())
    return living[pick % len(living)] if living else None


def line_for(world: World, pick: int) -> str:
    kind, account = (("key", KEYS[pick % 2]), ("agent", "bot"), ("org", "default"))[pick % 3]
    window = WINDOWS[pick % 4]
    return line_key(kind, account, METERS[pick % 4], window, window_start_s(window, world.now_ns))


def interpret(world: World, op: int, a: int, b: int) -> None:
    """One step of the history; a step that makes no sense now is skipped."""
    actor = incarnation_of(world, a)
    match op:
        case 0:
            world.now_ns += (60, 900, 3_600, 86_400, 33 * 86_400, 80 * 86_400)[a % 6] * NANOS
        case 1:
            world.join(1 + a % 3)
        case 2:
            world.fence(f"n{1 + a % 3}")
        case 3 if actor:
            line = line_for(world, b)
            world.granted[actor, line] = world.granted.get((actor, line), 0) + 1 + a
            world.tell(LeaseGranted(actor, {line: world.granted[actor, line]}))
        case 4 if actor:
            line = line_for(world, b)
            world.returned[actor, line] = world.returned.get((actor, line), 0) + b
            world.write(actor, LeaseReturned({line: world.returned[actor, line]}))
        case 5 if actor and world.now_ns < KEYS_EXPIRE_NS:  # nodes admit nothing with an expired key
            admit(world, actor, a, b)
        case 6 | 7 if actor and world.requests:
            settle(world, actor, a, b)
        case 8 if actor and world.requests:
            world.write(actor, RequestReleased(world.requests[b % len(world.requests)].request_id, "test"))
        case 9 if world.requests:
            request = world.requests[a % len(world.requests)].request_id
            world.tell(RequestReconciled(request, Amounts(b, 0, 1, b), SYSTEM))
        case 10:
            account = ("key", KEYS[a % 2]) if a % 3 else ("agent", "bot")
            caps = AccountCaps(account[0], account[1], (Cap("usd", "day", b),), ZONES[b % 4])  # type: ignore[arg-type]
            world.tell(BudgetSet(caps, SYSTEM))
        case 11:
            world.lead(f"cp-{len(world.control)}")
        case 12:
            world.on_nodes(NODE_MARK, "cp", 0, LogMarked(1, a))
        case _:
            pass


def admit(world: World, actor: str, a: int, b: int) -> None:
    request_id = f"req_{len(world.requests)}"
    world.issue(KEYS[b % 2])
    who = Who(key=KEYS[b % 2], agent="bot" if a % 3 else "declared", owner="team" if a % 2 else "")
    bound = Amounts(a, b if a % 5 == 0 else 0, 1, 3 * b)
    lines = tuple({line_for(world, b), line_for(world, a)})
    digest = ("", "d1", "d2")[(a + b) % 3]
    event = RequestAdmitted(request_id, world.now_ns, who, "stripe", "x", "POST", "/", bound, lines, idempotency=digest)
    world.requests.append(event)
    world.admitted_by[request_id] = actor
    world.write(actor, event)


def settle(world: World, actor: str, a: int, b: int) -> None:
    request = world.requests[a % len(world.requests)]
    outcome = "unknown" if b % 4 == 0 else "settled"
    thing = ObjectExposure(f"stripe/-/pi_{b % 2}", b, "usd") if b % 3 == 0 else None
    resolves = request.idempotency if b % 2 else ""  # a vendor replays for the key that the request came with
    actual = Amounts(0 if thing else b, 0, 1, b)
    settled = RequestSettled(
        request.request_id,
        outcome,  # type: ignore[arg-type]
        world.now_ns,
        actual,
        thing if outcome == "settled" else None,
        resolves=resolves,
    )
    world.write(actor, settled)


def fold(world: World, order: list[bool], checkpoints: frozenset[int] = frozenset()) -> Replica:
    """Fold both logs; `order` says which is next (True: control), the rest follows."""
    replica = Replica()
    control, nodes = iter(world.control), iter(world.nodes)
    steps = [*order, *([True] * len(world.control)), *([False] * len(world.nodes))]
    for step, control_next in enumerate(steps):
        message = next(control if control_next else nodes, None)
        if message is None:
            continue
        if control_next:
            replica.apply_control(message)
        else:
            replica.apply_node(message)
        if step in checkpoints:
            replica = Replica.load(replica.dump())
    return replica


scripts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30), st.integers(0, 30)), max_size=60)

repeating = st.lists(
    st.tuples(st.sampled_from((5, 5, 6, 6, 6, 1, 2)), st.integers(0, 3), st.sampled_from((1, 4, 5, 8))), max_size=25
)
"""Few requests and many ends: attempts of the same calls, their answers lost, replayed and told twice."""


def world_of(script: Script) -> World:
    world = World()
    for op, a, b in script:
        interpret(world, op, a, b)
    return world
