"""Alerts of a real leader: recorded once, over failovers, and never when the log cannot take them."""

import asyncio

from sim.loop import run_virtual
from support.control_rig import BY, Gate, Rig, day, issue, revoke, set_cap
from support.full_log import until
from support.registries import presided

from controlplane.alerts.kinds import CALM_S
from controlplane.checkpoints import MemoryCheckpoints
from controlplane.leader import Leader
from events.state.alerts import Alert
from events.types import AlertCleared, AlertRaised

CAP = 1_000


def shown(leader: Leader, *, open_only: bool = True) -> list[tuple[str, str]]:
    """(kind, subject) of what matters here: nobody runs an audit."""
    found: list[Alert] = list(leader.state.alerts.records.values())
    return [(a.kind, a.subject) for a in found if (a.open or not open_only) and not a.kind.startswith("audit")]


def test_a_cap_that_is_neared_and_reached() -> None:
    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        fake = await rig.node("n1")
        await leader.execute(issue("vk_1", CAP), BY)
        async with presided(rig, leader):
            await fake.ask("a", {day(): 100})
            await asyncio.sleep(3)
            assert shown(leader) == []
            await fake.ask("b", {day(): 850})
            fake.admit("req_1", 850, day())
            await until(lambda: shown(leader) == [("cap_nearing", "key:vk_1:usd:day")])
            refused = await fake.ask("c", {day(): 200})
            assert refused.outcome == "refused"
            await until(lambda: ("cap_reached", "key:vk_1:usd:day") in shown(leader))
            alert = next(a for a in leader.state.alerts.records.values() if a.kind == "cap_reached")
            assert alert.details == {"cap": "0.000001", "settled": "0.00", "held": "0.00000085"}
            assert "a request did not fit the day cap" in alert.message
            await leader.execute(set_cap("key:vk_1", 100 * CAP), BY)
            await asyncio.sleep(CALM_S + 3)
            assert shown(leader) == []
            assert len(rig.events(rig.control, AlertCleared)) >= 2
        await rig.close()

    run_virtual(main())


def test_an_ended_keys_cap_is_nobodys_alert() -> None:
    """Most keys end at their caps; their alerts would stand until the keys are forgotten, and hide others'."""

    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        fake = await rig.node("n1")
        await leader.execute(issue("vk_1", CAP), BY)
        async with presided(rig, leader) as operations:
            assert operations.desk is not None
            await fake.ask("a", {day(): CAP})
            fake.admit("req_1", CAP, day())
            fake.settle("req_1", CAP)
            await until(lambda: ("cap_reached", "key:vk_1:usd:day") in shown(leader))
            assert [figure.id for figure in operations.desk.caps.top] == ["vk_1"]
            await leader.execute(revoke("vk_1"), BY)
            await asyncio.sleep(CALM_S + 3)
            assert shown(leader) == []
            assert operations.desk.caps.top == []
        await rig.close()

    run_virtual(main())


def test_an_overrun_and_a_fence_are_told_once_whoever_leads() -> None:
    async def main() -> None:
        rig = Rig()
        first = await rig.lead("cp1")
        fake = await rig.node("n1")
        await first.execute(issue("vk_1", CAP), BY)
        await fake.ask("a", {day(): 10})
        async with presided(rig, first):
            fake.admit("req_1", 10, day())
            fake.settle("req_1", 30)
            await until(lambda: ("overrun", "") in shown(first))
            await asyncio.sleep(5)
        second = await rig.lead("cp2")
        async with presided(rig, second):
            await asyncio.sleep(5)
            assert shown(second) == [("overrun", "")]
            await fake.stop()
            await until(lambda: ("node_fenced", "n1") in shown(second))
            await asyncio.sleep(CALM_S + 5)
            assert shown(second) == []
        third = await rig.lead("cp3")
        async with presided(rig, third):
            await asyncio.sleep(5)
            assert shown(third) == []
        kinds = [event.kind for event in rig.events(rig.control, AlertRaised) if not event.kind.startswith("audit")]
        assert sorted(kinds) == ["node_fenced", "overrun"]
        assert third.replica.load(third.replica.dump()).dump() == third.replica.dump()
        await rig.close()

    run_virtual(main())


def test_what_cannot_be_recorded_now_is_recorded_once_later() -> None:
    async def main() -> None:
        rig = Rig()
        gate = Gate()
        leader = await rig.lead(control=gate)
        async with presided(rig, leader) as operations:
            gate.close()
            for _ in range(30):
                operations.tries.failed("192.0.2.7", rig.clock.elapsed_ns())
            await asyncio.sleep(20)
            assert rig.events(rig.control, AlertRaised) == []
            gate.reopen()
            await until(lambda: ("authentication_failures", "192.0.2.7") in shown(leader))
            await asyncio.sleep(30)
        raised = [event.kind for event in rig.events(rig.control, AlertRaised)]
        assert raised.count("authentication_failures") == 1
        await rig.close()

    run_virtual(main())


class FailingCheckpoints(MemoryCheckpoints):
    """A disk that is full until it is `well`."""

    well = False

    async def save(self, data: bytes) -> None:
        if not self.well:
            raise OSError("no space left on device")
        await super().save(data)


def test_a_full_disk_a_full_log_and_a_slow_barrier() -> None:
    async def main() -> None:
        rig = Rig()
        rig.checkpoints = checkpoints = FailingCheckpoints()
        rig.nodes.max_bytes = 100_000
        leader = await rig.lead()
        async with presided(rig, leader) as operations:
            await leader.recorder.save()
            await until(lambda: ("checkpoint_failing", "") in shown(leader))
            leader.barrier.times.begun(99, rig.clock.elapsed_ns())
            await until(lambda: ("barrier_slow", "") in shown(leader))
            leader.barrier.times.ended(99, rig.clock.elapsed_ns())
            while rig.nodes.state().full_share < 0.95:
                rig.nodes.store(
                    "rf.node.mark", b'{"actor":"x","n":0,"at_ns":0,"events":[],"v":1}' + b" " * 500, None, None
                )
            await until(lambda: ("log_full", "") in shown(leader))
            assert ("log_nearly_full", "RF_NODES") in shown(leader)
            assert operations.watch.full
            checkpoints.well = True
            await leader.recorder.save()
            rig.nodes.trim("rf.node.mark", rig.nodes.state().last_sequence)
            await asyncio.sleep(3 * CALM_S)
            assert shown(leader) == []
        await rig.close()

    run_virtual(main())
