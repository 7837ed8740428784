"""Workers of one machine: sockets that outlive their processes, and one process after another on them.

The processes are small scripts that do what a proxy does with its socket: listen, say that they are ready, answer with
their slot, and stop accepting at SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from controlplane.up.child import Child, ChildFailed
from controlplane.up.workers import Workers

SCRIPT = """
import pathlib, signal, socket, sys
slot, fd, mark, linger = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
leave = []
signal.signal(signal.SIGTERM, lambda *_: leave.append(1))
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
listener = socket.socket(fileno=fd)
listener.listen(64)
listener.settimeout(0.02)
draft = mark.with_suffix(".draft")
draft.write_text("{}")
draft.replace(mark)
while not leave:
    try:
        client, _ = listener.accept()
    except TimeoutError:
        continue
    client.sendall(slot.encode())
    client.close()
"""


class Floor:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.said: list[str] = []
        self.script = SCRIPT
        self.children: list[Child] = []
        self.workers = Workers("127.0.0.1", ("n1", "n2", "n3"), self.make, self.said.append)

    def make(self, slot: str, listen_fd: Callable[[], int], on_down: Callable[[int], None]) -> Child:
        mark, script = self.place / f"{slot}.ready", self.script

        def command() -> list[str]:
            return [sys.executable, "-c", script, slot, str(listen_fd()), str(mark), "0"]

        child = Child(
            slot,
            command,
            ready_mark=mark,
            log=self.place / f"{slot}.log",
            on_event=self.said.append,
            pass_fds=lambda: (listen_fd(),),
            on_down=on_down,
        )
        self.children.append(child)
        return child

    async def ask(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.workers.port)
        answer = await reader.read()
        writer.close()
        return answer.decode()


@pytest.fixture
async def floor(tmp_path: Path) -> AsyncIterator[Floor]:
    made = Floor(tmp_path)
    await made.workers.start(0, 30.0)
    yield made
    await made.workers.stop(10.0)
    assert all(child.pid is None for child in made.children)


async def test_one_after_another_is_replaced_and_no_connection_is_refused(floor: Floor) -> None:
    answers: list[str] = []
    rolled = asyncio.Event()

    async def client() -> None:
        while not rolled.is_set():
            answers.append(await floor.ask())

    clients = [asyncio.create_task(client()) for _ in range(4)]
    before = {slot: child.pid for slot, child in floor.workers.running.items()}
    await floor.workers.roll(30.0, 10.0)
    rolled.set()
    await asyncio.gather(*clients)
    assert sorted(before) == ["n1", "n2"]
    assert sorted(floor.workers.running) == ["n1", "n3"]
    assert not set(before.values()) & {child.pid for child in floor.workers.running.values()}
    assert set(answers) <= {"n1", "n2", "n3"}
    assert len(answers) > 10
    # The slot that came free is the next one's.
    await floor.workers.roll(30.0, 10.0)
    assert sorted(floor.workers.running) == ["n2", "n3"]


async def test_a_successor_that_fails_leaves_what_runs(floor: Floor) -> None:
    before = {slot: child.pid for slot, child in floor.workers.running.items()}
    floor.script = "import sys; sys.exit('no such thing')"
    with pytest.raises(ChildFailed, match="no such thing"):
        await floor.workers.roll(30.0, 10.0)
    assert {slot: child.pid for slot, child in floor.workers.running.items()} == before
    assert {await floor.ask() for _ in range(30)} <= {"n1", "n2"}
    floor.script = SCRIPT
    await floor.workers.roll(30.0, 10.0)
    assert "n3" in floor.workers.running


async def test_what_connects_while_a_worker_is_dead_waits_for_the_next(floor: Floor) -> None:
    for child in floor.workers.running.values():
        child.signal(signal.SIGKILL)
    answers = await asyncio.gather(*(floor.ask() for _ in range(10)))
    assert set(answers) <= {"n1", "n2"}


async def test_nobody_waits_for_a_worker_that_dies_again_and_again(floor: Floor) -> None:
    """Its socket is renewed, so the kernel offers it nothing until it listens."""
    victim = floor.workers.running["n1"]
    number = floor.workers._workers[0].listener._socket
    for _ in range(3):
        before = victim.restarts
        victim.signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            while victim.restarts == before or victim.pid is None:
                await asyncio.sleep(0.02)
    assert number is not floor.workers._workers[0].listener._socket
    assert {await floor.ask() for _ in range(20)} <= {"n1", "n2"}
