"""`/readyz` in faults of the network and of the control plane, of real nodes and real control planes in one world.

Each test holds what a process says against what a request or a command would find.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sim.loop import run_virtual
from support.control_rig import BY, Gate, issue
from support.control_rig import Rig as ControlRig
from support.governor_rig import DAY, Rig, code, virtual
from support.governor_rig import until as until_virtual
from support.registries import STORE
from support.seats import Chair, chairs, until

from controlplane.errors import BarrierOpen, LogUnavailable, NotLeading
from controlplane.operations import Operations
from dataplane.governor import Admission
from dataplane.ready import reasons_of
from events import subjects
from events.log.port import LogUnavailable as LogUnavailableHere
from events.log.port import StreamState
from schemas.accounts import Cap
from schemas.readiness import REASONS, Reason, render_reasons

CAP = Cap("usd", "day", 100)


def codes(reasons: list[Reason]) -> list[str]:
    return [reason.code for reason in reasons]


# ---------------------------------------------------------------- nodes


def of(rig: Rig) -> list[str]:
    node = rig.governor.node
    return codes(reasons_of(node, connected=node.control.connected))


def ready(rig: Rig) -> bool:
    node = rig.governor.node
    return render_reasons(reasons_of(node, connected=node.control.connected)).ready


@virtual
async def test_a_deaf_node_serves_and_says_that_it_is_deaf() -> None:
    """Its subscription is dead; it asks for what it misses, and appends."""
    rig = Rig()
    await rig.start()
    rig.bus_faults.lose = lambda _, receiver, subject: receiver == "n1" and subject == subjects.FEED
    await until_virtual(lambda: of(rig) == ["feed_deaf"])
    await asyncio.sleep(2 * rig.timing.feed_max_age_ms / 1000)
    assert of(rig) == ["feed_deaf"]
    assert ready(rig)
    assert isinstance(await rig.admit(), Admission)
    rig.bus_faults.lose = lambda *_: False
    await until_virtual(lambda: of(rig) == [])
    await rig.stop()


@virtual
async def test_a_node_that_hears_and_gets_no_answers_serves_from_what_it_holds() -> None:
    rig = Rig()
    await rig.start(CAP)
    assert isinstance(await rig.admit(usd=10), Admission)
    rig.bus_faults.lose = lambda _, receiver, subject: receiver == "n1" and subject.startswith("_INBOX")
    assert isinstance(await rig.admit(usd=1), Admission)  # of the lease that it has
    for _ in range(8):
        assert code(await rig.admit(usd=80)) == "budget_unavailable"
    assert of(rig) == ["asks_unanswered"]
    assert ready(rig)
    rig.bus_faults.lose = lambda *_: False
    assert isinstance(await rig.admit(usd=80), Admission)
    assert of(rig) == []
    await rig.stop()


@virtual
async def test_a_question_that_was_lost_once_is_no_news() -> None:
    rig = Rig()
    await rig.start(CAP)
    rig.control.silent = {"ask"}
    assert code(await rig.admit(usd=10)) == "budget_unavailable"
    rig.control.silent = set()
    assert isinstance(await rig.admit(usd=10), Admission)
    await asyncio.sleep(5)
    assert of(rig) == []
    assert rig.governor.node.incarnation is not None
    assert rig.governor.node.incarnation.desk.book.leases[DAY].granted >= 10
    await rig.stop()


@virtual
async def test_a_node_without_a_control_plane_is_ready_as_long_as_it_may_serve() -> None:
    rig = Rig()
    await rig.start(CAP)
    assert isinstance(await rig.admit(usd=10), Admission)
    rig.bus_faults.lose = lambda sender, receiver, _: "control" in {sender, receiver}
    await asyncio.sleep(5)
    assert of(rig) == ["feed_silent", "asks_unanswered"]
    assert ready(rig)
    assert isinstance(await rig.admit(usd=1), Admission)
    await asyncio.sleep(rig.timing.feed_max_age_ms / 1000)
    assert not ready(rig)
    assert of(rig)[0] == "feed_stale"
    assert code(await rig.admit(usd=1)) == "policy_unavailable"
    rig.bus_faults.lose = lambda *_: False
    await until_virtual(lambda: of(rig) == [])
    assert isinstance(await rig.admit(usd=1), Admission)
    await rig.stop()


@virtual
async def test_a_draining_node_says_so_from_the_signal_to_its_end() -> None:
    rig = Rig()
    await rig.start()
    held = await rig.dispatched()
    draining = asyncio.ensure_future(rig.governor.drain(10))
    await asyncio.sleep(0.1)
    assert not draining.done()
    assert of(rig) == ["draining"]
    assert code(await rig.admit()) == "draining"
    rig.settle(held, 0)
    await draining
    assert of(rig)[0] == "draining"
    await rig.stop()


# ---------------------------------------------------------------- control planes


def scenario(test: Callable[[ControlRig], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            rig = ControlRig()
            await test(rig)
            await rig.close()

        run_virtual(main())

    return run


class Post:
    """A control plane as an operator sees it."""

    def __init__(self, chair: Chair) -> None:
        self.chair = chair
        rig, seat = chair.rig, chair.seat
        logs = seat._logs
        self.logs = logs
        self.operations = Operations(
            logs, STORE, chair.client, rig.clock, rig.timing, replica=lambda: seat.replica, place=seat.readiness
        )

    @property
    def says(self) -> tuple[str, bool, list[str]]:
        """Role, readiness, and what hinders it."""
        reasons = list(self.operations.reasons())
        answer = render_reasons(reasons, self.chair.seat.role)
        hindered = [reason.code for reason in reasons if not REASONS[reason.code].warning]
        return str(answer.role), answer.ready, hindered


async def commanded(chair: Chair, key: str) -> bool:
    """Whether a command is carried out there."""
    try:
        await chair.process.run(chair.seat.execute(issue(key), BY))
    except (NotLeading, LogUnavailable, BarrierOpen):
        return False
    return True


@scenario
async def test_a_leader_and_a_standby_are_both_ready(rig: ControlRig) -> None:
    leader, other = await chairs(rig, 2)
    assert Post(leader).says == ("leader", True, [])
    assert Post(other).says == ("standby", True, [])
    assert await commanded(leader, "vk_1")
    assert not await commanded(other, "vk_2")
    for chair in (leader, other):
        await chair.end()


@scenario
async def test_a_standby_whose_leader_is_gone_is_not_ready_until_it_leads(rig: ControlRig) -> None:
    leader, other = await chairs(rig, 2)
    post = Post(other)
    leader.kill()
    await until(lambda: post.says == ("standby", False, ["not_ready"]))
    await until(lambda: post.says == ("leader", True, []))
    assert await commanded(other, "vk_1")
    await other.end()


@scenario
async def test_a_deposed_leader_never_says_that_it_leads_when_it_cannot(rig: ControlRig) -> None:
    leader, other = await chairs(rig, 2)
    post = Post(leader)
    leader.process.pause()
    await until(lambda: other.leads)
    leader.process.resume()
    await until(lambda: post.says[0] == "standby" or not post.says[1])
    await until(lambda: post.says == ("standby", True, []))
    assert not await commanded(leader, "vk_1")
    assert await commanded(other, "vk_2")
    for chair in (leader, other):
        await chair.end()


@scenario
async def test_what_a_leader_saw_last_is_not_what_it_says_as_a_standby(rig: ControlRig) -> None:
    """It lost its leadership while a log did not answer; afterwards it looks for itself."""
    leader, other = await chairs(rig, 2)
    post = Post(leader)
    found = leader.seat.leader
    assert found is not None
    duties = leader.process.run(post.operations.meanwhile(found))
    looking = leader.process.run(post.operations.run())
    answered, post.logs.nodes.state = post.logs.nodes.state, _silent  # type: ignore[method-assign]  # a fault
    await until(lambda: "stream_silent" in post.says[2])
    leader.process.pause()
    await until(lambda: other.leads)
    leader.process.resume()
    duties.cancel()
    await until(lambda: post.says[0] == "standby" and post.operations.leader is None)
    await until(lambda: post.says == ("standby", False, ["stream_silent"]))
    post.logs.nodes.state = answered  # type: ignore[method-assign]
    await until(lambda: post.says == ("standby", True, []))
    assert post.operations.watch.states
    looking.cancel()
    for chair in (leader, other):
        await chair.end()


async def _silent() -> StreamState:
    raise LogUnavailableHere("no quorum")


@scenario
async def test_a_leader_that_is_cut_off_from_the_logs_is_not_ready(rig: ControlRig) -> None:
    gate = Gate()
    chair = Chair(rig, "c1", gate)
    await until(lambda: chair.leads)
    post = Post(chair)
    post.operations.leader = chair.seat.leader
    assert post.says == ("leader", True, [])
    gate.close()
    doing = asyncio.ensure_future(commanded(chair, "vk_1"))
    await until(lambda: post.says == ("leader", False, ["log_stalled"]))
    gate.reopen()
    await doing
    await until(lambda: post.says == ("leader", True, []))
    await chair.end()
