"""Parts of the control plane by themselves: projector, fullness of the logs."""

import asyncio

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, START_WALL_NS, RigClock

from controlplane.following import Logs
from controlplane.log_watch import (
    EVERY_S,
    MAX_RESERVE_SHARE,
    NODE_BYTES,
    RESUME_SHARE,
    STOP_SHARE,
    LogWatch,
    stop_share,
)
from controlplane.projector import changed_ids, record_of
from controlplane.suspender import wants_suspension
from events.log.memory import MemoryStream
from events.state.control import ControlState
from events.subjects import CONTROL_STREAM, NODES_STREAM, node_fence, node_log
from events.types import (
    AgentRegistered,
    AgentRemoved,
    AgentSuspended,
    BudgetSet,
    ControlEvent,
    KeyIssued,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
    LeaseGranted,
    Marked,
    NodeFenced,
    NodeJoined,
    OperatorTokenIssued,
)
from schemas.accounts import AccountCaps, Cap, Line
from schemas.policy import AgentPolicy, BudgetPolicy, ClusterPolicy, KeyPolicy

HOUR_NS = 3_600 * 10**9
CAPS = AccountCaps("key", "vk_1", (Cap("usd", "day", 5),))


def key(key_id: str = "vk_1", expires_ns: int = START_WALL_NS + HOUR_NS, **fields: object) -> KeyIssued:
    metadata = {"run_id": "r", "user": "u", "feature": "f", "other": "x"}
    return KeyIssued(
        key_id, BY, f"sha-{key_id}", "bot", START_WALL_NS, expires_ns, metadata=metadata, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def state_of(*events: ControlEvent) -> ControlState:
    state = ControlState()
    for seq, event in enumerate(events, start=1):
        state.apply(seq, event)
    return state


@pytest.mark.parametrize(
    ("event", "ids"),
    [
        (key(), ["key:vk_1"]),
        (key(caps=CAPS), ["key:vk_1", "budget:key:vk_1"]),
        (KeySuspended("vk_1", BY), ["key:vk_1"]),
        (KeyTokenRevoked("vk_1", "sha", BY), ["key:vk_1"]),
        (AgentRegistered("bot", BY), ["agent:bot"]),
        (AgentRemoved("bot", BY), ["agent:bot"]),
        (BudgetSet(AccountCaps("team", "t"), BY), ["budget:team:t"]),
        (NodeJoined("n1", "n1-x", 1, 0), ["cluster"]),
        (NodeFenced("n1", "n1-x", "silent", 2), ["cluster"]),
        (LeaseGranted("n1-x", {"l": 1}), []),
        (Marked(), []),
        (OperatorTokenIssued("op", "o", "admin", "sha", BY, 0), []),
    ],
)
def test_which_records_an_event_changes(event: ControlEvent, ids: list[str]) -> None:
    assert changed_ids([event, event]) == ids


def test_records_are_the_folds() -> None:
    state = state_of(
        AgentRegistered("bot", BY, owner="team", rpm=5),
        key(caps=CAPS, endpoints=("POST /v1/x",), tpm=7),
        NodeJoined("n1", "n1-x", 1, 0),
        NodeJoined("n2", "n2-x", 1, 0),
        NodeFenced("n1", "n1-x", "silent", 2),
        KeyRevoked("vk_1", BY),
        AgentSuspended("bot", BY),
    )
    record = record_of(state, "key:vk_1")
    assert isinstance(record, KeyPolicy)
    assert (record.state, record.seq, record.run, record.user, record.feature) == ("revoked", 6, "r", "u", "f")
    assert (record.tokens, record.endpoints, record.tpm) == (("sha-vk_1",), ("POST /v1/x",), 7)
    agent = record_of(state, "agent:bot")
    assert isinstance(agent, AgentPolicy)
    assert (agent.state, agent.seq, agent.owner, agent.rpm) == ("suspended", 7, "team", 5)
    budget = record_of(state, "budget:key:vk_1")
    assert isinstance(budget, BudgetPolicy)
    assert (budget.seq, budget.account) == (2, CAPS)
    assert record_of(state, "cluster") == ClusterPolicy(5, 1)
    assert record_of(state, "key:vk_unknown") is None


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (Line("key", "vk_s", "usd", "day", 0), True),
        (Line("key", "vk_s", "requests", "hour", 0), True),
        (Line("key", "vk_s", "requests", "total", 0), False),  # spent, not exhausted
        (Line("key", "vk_r", "usd", "day", 0), False),
        (Line("key", "vk_none", "usd", "day", 0), False),
        (Line("agent", "bot", "usd", "day", 0), True),
        (Line("agent", "other", "usd", "day", 0), False),
        (Line("team", "bot", "usd", "day", 0), False),
    ],
)
def test_who_wants_to_be_suspended(line: Line, wanted: bool) -> None:
    state = state_of(
        key("vk_s", on_exhausted="suspend"), key("vk_r"), AgentRegistered("bot", BY, on_exhausted="suspend")
    )
    assert wants_suspension(state, line) is wanted


# ---------------------------------------------------------------- how full the logs are (L6)


class Checkpointed:
    def __init__(self) -> None:
        self.saves = 0
        self.through = 0

    async def save(self) -> None:
        self.saves += 1

    def saved_through(self, stream: str) -> int:
        return self.through if stream == NODES_STREAM else 0


class Filling:
    """A node stream of 10,000 bytes, and a watch over it."""

    def __init__(self) -> None:
        clock = RigClock()
        self.control = MemoryStream(CONTROL_STREAM, now_ns=clock.wall_ns)
        self.nodes = MemoryStream(NODES_STREAM, now_ns=clock.wall_ns, max_bytes=10_000)
        self.checkpoints = Checkpointed()
        self.audited: dict[str, int] | None = None
        self.full: list[bool] = []
        logs = Logs(self.control.port(), self.nodes.port())
        self.watch = LogWatch(logs, self.checkpoints, self._audited, self.full.append)
        self.nodes.store(node_fence("n1", "n1-x"), b"opened", None, None)

    async def _audited(self) -> dict[str, int] | None:
        return self.audited

    def fill(self, share: float) -> None:
        while self.nodes.state().full_share < share:
            self.nodes.store(node_log("n1", "n1-x"), b"x" * 100, None, None)

    async def looks(self, count: int) -> None:
        task = asyncio.create_task(self.watch.run())
        await asyncio.sleep(EVERY_S * count - EVERY_S / 2)
        task.cancel()


@pytest.mark.parametrize(
    ("share", "checkpoint", "audit", "removed"),
    [
        (0.5, 30, 30, 0),  # not yet
        (0.8, 30, 20, 18),  # the audit is behind
        (0.8, 20, 30, 18),  # the checkpoint is behind
        (0.8, 30, None, 0),  # the audit does not answer
    ],
)
def test_trimming_goes_below_checkpoint_and_audit_and_never_to_fences(
    share: float, checkpoint: int, audit: int | None, removed: int
) -> None:
    async def main() -> None:
        world = Filling()
        world.fill(share)
        before = world.nodes.state().messages
        world.checkpoints.through = checkpoint
        world.audited = {NODES_STREAM: audit} if audit is not None else None
        await world.looks(1)
        assert before - world.nodes.state().messages == removed  # 2 to 19; 1 is the fence, 20 is named
        assert world.nodes.last_on_subject(node_fence("n1", "n1-x")) is not None
        assert not any(world.full)

    run_virtual(main())


def test_above_90_percent_nothing_more_is_admitted() -> None:
    async def main() -> None:
        world = Filling()
        world.fill(0.95)
        await world.looks(2)
        assert world.full
        assert all(world.full)
        assert world.checkpoints.saves == 1  # not at every look
        world.nodes.trim("rf.node.log.>", 60)
        await world.looks(1)
        assert world.full[-1] is False

    run_virtual(main())


def test_a_log_at_its_mark_does_not_open_and_close_the_gate() -> None:
    async def main() -> None:
        world = Filling()
        world.fill(0.91)
        await world.watch.look()
        world.nodes.trim("rf.node.log.>", 5)
        assert RESUME_SHARE < world.nodes.state().full_share < STOP_SHARE
        await world.watch.look()
        assert world.full[-1] is True
        world.nodes.trim("rf.node.log.>", 20)
        await world.watch.look()
        assert world.full[-1] is False
        world.fill(0.88)
        await world.watch.look()
        assert world.full[-1] is False

    run_virtual(main())


def test_the_reserve_holds_the_ends_of_all_nodes_requests() -> None:
    assert stop_share(-1, 4) == STOP_SHARE
    assert stop_share(32 << 30, 4) == STOP_SHARE
    assert stop_share(256 << 20, 4) == 1 - 4 * NODE_BYTES / (256 << 20)
    assert stop_share(32 << 20, 4) == 1 - MAX_RESERVE_SHARE
