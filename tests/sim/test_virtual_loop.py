"""The simulation's own ground: virtual time, pauses and kills are what they say."""

import asyncio
from typing import Any

import pytest
from sim.loop import Deadlock, Process, VirtualLoop, run_virtual


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> int:
        await asyncio.sleep(3600)
        return loop().time_ns()

    assert run_virtual(main()) == 3600 * 10**9


def test_a_paused_process_does_nothing_while_time_goes_on() -> None:
    seen: list[tuple[str, float]] = []

    async def ticker(name: str) -> None:
        while True:
            await asyncio.sleep(1)
            seen.append((name, loop().time()))

    async def main() -> None:
        a, b = Process("a", loop()), Process("b", loop())
        a.run(ticker("a"))
        b.run(ticker("b"))
        await asyncio.sleep(2.5)
        a.pause()
        await asyncio.sleep(3)
        a.resume()
        await asyncio.sleep(1.2)

    run_virtual(main())
    assert [at for name, at in seen if name == "b"] == [1, 2, 3, 4, 5, 6]
    assert [at for name, at in seen if name == "a"] == [1, 2, 5.5, 6.5]


def test_a_killed_process_runs_no_finally() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
            seen.append("done")
        finally:
            seen.append("finally")

    async def main() -> None:
        process = Process("p", loop())
        process.run(work())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(100)
        assert seen == []

    run_virtual(main())


def test_what_a_paused_process_cancels_after_all_does_not_happen() -> None:
    seen: list[str] = []

    async def work(answer: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.timeout(2):
                await answer
            seen.append("in time")
        except TimeoutError:
            seen.append("late")

    async def main() -> None:
        process = Process("p", loop())
        answer: asyncio.Future[None] = loop().create_future()
        process.run(work(answer))
        await asyncio.sleep(0.5)
        process.pause()
        answer.set_result(None)
        await asyncio.sleep(5)
        process.resume()
        await asyncio.sleep(1)
        # The answer came first, and takes the timer back that is due as well.
        assert seen == ["in time"]
        assert not process.crashes

    run_virtual(main())


def test_a_fuse_stops_a_process_between_two_of_its_steps() -> None:
    seen: list[tuple[str, int]] = []

    async def work(name: str) -> None:
        for number in range(10):
            seen.append((name, number))
            await asyncio.sleep(0)

    async def main() -> None:
        killed, paused = Process("killed", loop()), Process("paused", loop())
        killed.fuse(4, killed.kill)
        paused.fuse(3, paused.pause)
        killed.run(work("killed"))
        paused.run(work("paused"))
        await asyncio.sleep(1)
        assert [number for name, number in seen if name == "killed"] == [0, 1, 2]
        assert [number for name, number in seen if name == "paused"] == [0, 1]
        paused.resume()
        await asyncio.sleep(1)
        assert [number for name, number in seen if name == "paused"] == list(range(10))

    run_virtual(main())


def test_a_second_pause_keeps_what_the_first_has_gathered() -> None:
    seen: list[float] = []

    async def ticker() -> None:
        while True:
            await asyncio.sleep(1)
            seen.append(loop().time())

    async def main() -> None:
        process = Process("p", loop())
        process.run(ticker())
        await asyncio.sleep(0.5)
        process.pause()
        await asyncio.sleep(1)
        process.resume()
        process.pause()
        await asyncio.sleep(1)
        assert seen == []
        process.resume()
        await asyncio.sleep(0.1)
        assert seen == [2.5]

    run_virtual(main())


def test_futures_shared_between_processes_wake_only_the_living() -> None:
    woken: list[str] = []

    async def waiter(name: str, future: "asyncio.Future[int]") -> None:
        await future
        woken.append(name)

    async def main() -> None:
        future: asyncio.Future[int] = loop().create_future()
        processes = {name: Process(name, loop()) for name in ("live", "paused", "dead")}
        for name, process in processes.items():
            process.run(waiter(name, future))
        await asyncio.sleep(0)
        processes["paused"].pause()
        processes["dead"].kill()
        future.set_result(1)
        await asyncio.sleep(1)
        assert woken == ["live"]
        processes["paused"].resume()
        await asyncio.sleep(1)

    run_virtual(main())
    assert woken == ["live", "paused"]


def test_a_crash_is_recorded() -> None:
    async def main() -> list[BaseException]:
        process = Process("p", loop())

        async def fail() -> None:
            raise ValueError("boom")

        process.run(fail())
        await asyncio.sleep(1)
        return process.crashes

    assert [str(error) for error in run_virtual(main())] == ["boom"]


def test_the_same_run_twice_is_the_same() -> None:
    async def main() -> list[Any]:
        order: list[Any] = []

        async def step(name: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0.1 * (name % 3))
                order.append((name, loop().time_ns()))

        await asyncio.gather(*(step(name) for name in range(10)))
        return order

    assert run_virtual(main()) == run_virtual(main())


def test_nothing_left_to_do_is_an_error() -> None:
    async def main() -> None:
        await loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main())
