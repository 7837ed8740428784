"""Ends of requests on their way into a log: in company, in order, and into the next log where one is cut off."""

import asyncio

from support.governor_rig import DAY, LOST, Rig, until, virtual

from dataplane.journal import GROUP_EVENTS, PATIENCE_S
from events.log.faults import PublishFate
from events.types import Heartbeat, RequestAdmitted, RequestReleased, RequestSettled
from schemas.accounts import Cap


def messages(rig: Rig) -> list[list[str]]:
    """The node log, message by message, without heartbeats."""
    from events.codec import decode_batch
    from events.subjects import parse_node_log

    stream = rig.control.stream
    found = []
    for stored in stream.between(0, stream.state().last_sequence):
        if parse_node_log(stored.subject) is not None:
            events = decode_batch(stored.payload).events
            found.append([type(event).__name__ for event in events if not isinstance(event, Heartbeat)])
    return [names for names in found if names]


@virtual
async def test_an_end_shares_the_message_of_the_next_intent_and_goes_before_it() -> None:
    rig = Rig()
    await rig.start(Cap("usd", "day", 10**9))
    rig.settle(await rig.dispatched(10), 10)
    await rig.dispatched(10)
    assert messages(rig)[-1] == ["RequestSettled", "RequestAdmitted"]
    await rig.stop()


@virtual
async def test_an_end_without_company_goes_alone_after_a_moment() -> None:
    rig = Rig()
    await rig.start()
    admission = await rig.dispatched()
    rig.settle(admission, 0)
    await asyncio.sleep(PATIENCE_S / 2)
    assert not rig.control.of(RequestSettled)
    await asyncio.sleep(PATIENCE_S)
    assert len(rig.control.of(RequestSettled)) == 1
    await rig.stop()


@virtual
async def test_many_ends_do_not_wait() -> None:
    rig = Rig()
    await rig.start()
    admissions = [await rig.dispatched() for _ in range(GROUP_EVENTS)]
    for admission in admissions:
        rig.settle(admission, 0)
    await asyncio.sleep(PATIENCE_S / 2)
    assert len(rig.control.of(RequestSettled)) == GROUP_EVENTS
    await rig.stop()


@virtual
async def test_what_ended_goes_into_the_log_before_the_ledger_is_asked() -> None:
    rig = Rig()
    await rig.start(Cap("usd", "day", 10**9))
    rig.control.grant_factor = 1
    rig.governor.release(await rig.admitted(10), "client_gone")
    asked: list[int] = []

    def ask(_slot: str, question: object) -> object:
        asked.append(len(rig.control.of(RequestReleased)))
        return rig.control.lend(question)  # type: ignore[arg-type]  # the rig decodes asks by their method

    rig.control.answer["ask"] = ask
    await rig.admitted(500)
    assert asked == [1]
    await rig.stop()


@virtual
async def test_ends_that_wait_for_company_outlive_a_fence() -> None:
    rig = Rig()
    await rig.start()
    admission = await rig.dispatched()
    rig.faults.rest = LOST
    rig.settle(admission, 7)
    await rig.control.fence("n1-1")
    rig.faults.rest = PublishFate()
    await rig.rejoined(2)
    await until(lambda: len(rig.control.of(RequestSettled, "n1-2")) == 1)
    assert len(rig.control.of(RequestAdmitted)) == 1
    await rig.stop()


@virtual
async def test_a_drain_leaves_no_end_behind() -> None:
    rig = Rig()
    await rig.start(Cap("usd", "day", 10**9))
    admission = await rig.dispatched(10)
    rig.settle(admission, 4)
    await rig.governor.drain()
    kinds = [name for names in messages(rig) for name in names]
    assert kinds[-3:] == ["RequestSettled", "LeaseReturned", "NodeStopped"]
    assert rig.control.granted["n1-1", DAY] == 40
    await rig.stop()
