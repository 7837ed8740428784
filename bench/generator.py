"""An open-loop generator: requests fall due at a constant rate, whether or not earlier ones are answered.

A request's latency counts from the instant when it was due, so a proxy that stalls pays for every request that it kept
from being sent (no coordinated omission). Raw sockets and epoll: some 10 us a request, a few of them in Python.

Run as a program it reads a `Plan` from its standard input as JSON and writes a list of `Sample` to its standard output.
"""

import gc
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from bench.machine import at_once

REPLY_BYTES = 65_536
LAST_ANSWERS_S = 5.0
"""After the last request was due, answers are waited for so long."""

TIMER_SLACK_S = 0.000_05
"""The kernel wakes this much late; the last stretch is spun."""


class Flow(msgspec.Struct, frozen=True):
    """Requests of one caller. `phases`: (seconds, requests a second), one after another."""

    name: str
    port: int
    request: str
    phases: tuple[tuple[float, float], ...]
    connections: int = 32


class Plan(msgspec.Struct, frozen=True):
    flows: tuple[Flow, ...]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One request: when it was due, how long its answer took from then, and the answer's status (0: none came)."""

    flow: str
    due_s: float
    took_us: float
    status: int


def generate(flows: Sequence[Flow], core: int, *, punctual: bool = False) -> list[Sample]:
    """Run a plan in a process of its own on `core`. `punctual`: before all other work there, for rates that leave it
    idle now and then. Raises CalledProcessError.
    """
    command = ["taskset", "-c", str(core), sys.executable, "-m", "bench.generator", *(["punctual"] if punctual else [])]
    longest_s = max(sum(seconds for seconds, _ in flow.phases) for flow in flows)
    done = subprocess.run(
        command,
        input=msgspec.json.encode(Plan(tuple(flows))),
        stdout=subprocess.PIPE,
        check=True,
        timeout=longest_s + 60,
    )
    return msgspec.json.decode(done.stdout, type=list[Sample])


class _Connection:
    """`due_s`: of the request that is out."""

    __slots__ = ("due_s", "held", "socket", "source")

    def __init__(self, source: "_Source") -> None:
        self.source = source
        self.socket = socket.create_connection(("127.0.0.1", source.flow.port), 10.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due_s = 0.0
        self.held = b""


class _Source:
    """One flow under way."""

    def __init__(self, flow: Flow, poller: "select.epoll", connections: dict[int, _Connection]) -> None:
        self.flow = flow
        self.request = flow.request.encode("latin-1")
        self.idle = []
        for _ in range(flow.connections):
            connection = _Connection(self)
            connections[connection.socket.fileno()] = connection
            poller.register(connection.socket, select.EPOLLIN)
            self.idle.append(connection)
        self.backlog: deque[float] = deque()
        self._times = self._schedule()
        self.next_s: float = next(self._times)

    def _schedule(self) -> Iterator[float]:
        """When requests are due, in seconds from the beginning; infinity for ever after."""
        start_s = 0.0
        for seconds, rate in self.flow.phases:
            count = int(seconds * rate)
            for n in range(count):
                yield start_s + n / rate
            start_s += seconds
        while True:
            yield math.inf

    def advance(self) -> float:
        due_s, self.next_s = self.next_s, next(self._times)
        return due_s


def run(plan: Plan) -> list[Sample]:
    """Send everything when it is due; return what came of it."""
    poller = select.epoll()
    connections: dict[int, _Connection] = {}
    sources = [_Source(flow, poller, connections) for flow in plan.flows]
    samples: list[Sample] = []
    began_s = time.perf_counter() + 0.05
    last_s = max(sum(seconds for seconds, _ in flow.phases) for flow in plan.flows) + LAST_ANSWERS_S
    out = 0
    while (now_s := time.perf_counter() - began_s) < last_s:
        for source in sources:
            while source.next_s <= now_s:
                due_s = source.advance()
                out += 1
                if source.idle:
                    _send(source.idle.pop(), due_s)
                else:
                    source.backlog.append(due_s)
        next_s = min(source.next_s for source in sources)
        if not out and next_s == math.inf:
            break
        wait_s = max(0.0, min(next_s, last_s) - now_s - TIMER_SLACK_S)
        if wait_s:
            select.select([poller], (), (), wait_s)  # to the microsecond; epoll's own wait knows milliseconds only
        for descriptor, _ in poller.poll(0):
            sample = _receive(connections[descriptor], began_s)
            if sample is not None:
                samples.append(sample)
                out -= 1
    unanswered = [(connection.source.flow.name, connection.due_s) for connection in connections.values()]
    unanswered += [(source.flow.name, due_s) for source in sources for due_s in source.backlog]
    return samples + [Sample(flow, due_s, LAST_ANSWERS_S * 1e6, 0) for flow, due_s in unanswered if due_s]


def _send(connection: _Connection, due_s: float) -> None:
    connection.due_s = due_s or 1e-9
    connection.socket.send(connection.source.request)


def _receive(connection: _Connection, began_s: float) -> Sample | None:
    data = connection.held + connection.socket.recv(REPLY_BYTES)
    if not data:
        raise ConnectionError("the proxy closed a connection")
    end = data.find(b"\r\n\r\n")
    if end < 0 or len(data) < end + 4 + _length(data[:end]):
        connection.held = data
        return None
    connection.held = b""
    took_us = (time.perf_counter() - began_s - connection.due_s) * 1e6
    sample = Sample(connection.source.flow.name, connection.due_s, took_us, int(data[9:12]))
    connection.due_s = 0.0
    source = connection.source
    if source.backlog:
        _send(connection, source.backlog.popleft())
    else:
        source.idle.append(connection)
    return sample


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError("an answer without a length")
    return int(lowered[at + 17 :].split(b"\r\n", 1)[0])


if __name__ == "__main__":
    if sys.argv[1:] == ["punctual"]:
        at_once(os.getpid())
    gc.disable()  # nothing here is cyclic, and a pause would be taken for the proxy's
    sys.stdout.buffer.write(msgspec.json.encode(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))))
