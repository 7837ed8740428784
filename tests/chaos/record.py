"""What the two logs hold, read from NATS itself while a storm goes on: messages, a fold of them, and who did what."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from events.log.port import LogError, Stored
from events.messaging.connection import NatsConnection, connect
from events.messaging.credentials import NatsCredentials
from events.messaging.port import BusUnavailable
from events.state.replica import Replica
from events.subjects import CONTROL_STREAM, NODES_STREAM

SILENT = ("Heartbeat", "LogMarked", "Marked")
READ_S = 90.0


class Fact(NamedTuple):
    """One event: where it stands in its log, when the server stored it, and what it says."""

    log: str
    seq: int
    time_ns: int
    actor: str
    kind: str
    event: dict[str, Any]

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time_ns / 1e9, UTC).strftime("%H:%M:%S.%f")
        shown = {name: value for name, value in self.event.items() if name not in {"t", "who", "client", "path"}}
        return f"{when} {self.log}#{self.seq} {self.actor} {self.kind} {json.dumps(shown)}"


class Record:
    """Both logs, kept. `read` takes in what has come since; the fold (`replica`) is the product's own."""

    def __init__(self, credentials: NatsCredentials) -> None:
        self._credentials = credentials
        self.control: list[Stored] = []
        self.nodes: list[Stored] = []
        self.replica = Replica()
        self.facts: list[Fact] = []

    async def read(self) -> None:
        """Everything that the streams hold by now. Tries again while NATS is away."""
        deadline = time.monotonic() + READ_S
        while True:
            try:
                connection = await connect(self._credentials, name="chaos record", timeout_s=5.0)
                try:
                    await self._read(connection)
                finally:
                    await connection.close()
            except (BusUnavailable, LogError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    async def _read(self, connection: NatsConnection) -> None:
        for name, kept in ((CONTROL_STREAM, self.control), (NODES_STREAM, self.nodes)):
            port = connection.stream(name)
            last = (await port.state()).last_sequence
            follower = port.read(after=kept[-1].sequence if kept else 0)
            try:
                while follower.position < last:
                    for message in await follower.next_batch(5_000, 5.0):
                        kept.append(message)
                        self._fold(name, message)
            finally:
                await follower.aclose()

    def _fold(self, stream: str, message: Stored) -> None:
        if stream == CONTROL_STREAM:
            self.replica.apply_control(message)
        else:
            self.replica.apply_node(message)
        self.facts.extend(_facts("control" if stream == CONTROL_STREAM else "nodes", message))

    # ------------------------------------------------------------ looking things up

    def told(self) -> dict[str, int]:
        """By log, the newest sequence of which the audit has something to say."""
        newest: dict[str, int] = defaultdict(int)
        for fact in self.facts:
            if fact.kind not in SILENT:
                newest[fact.log] = max(newest[fact.log], fact.seq)
        return newest

    def still_open(self) -> list[str]:
        """Requests that hold money, and whose incarnation lives: they have not ended yet."""
        return [name for name, request in self.replica.budget.open.items() if not request.unknown]

    def living(self) -> dict[str, list[str]]:
        """Incarnations by slot that are neither fenced nor gone."""
        slots: dict[str, list[str]] = defaultdict(list)
        for name, log in self.replica.nodes.living.items():
            slots[log.slot].append(name)
        return slots


def about(facts: Sequence[Fact], names: set[str]) -> list[Fact]:
    """All that the logs say about these requests, and about the lives of the incarnations concerned."""
    told = [fact for fact in facts if fact.event.get("request_id") in names]
    actors = {fact.actor for fact in told}
    lives = [
        fact
        for fact in facts
        if (fact.kind in {"FenceOpened", "Fenced"} and fact.event["actor"] in actors)
        or (fact.kind in {"NodeJoined", "NodeFenced"} and fact.event["incarnation"] in actors)
        or (fact.kind in {"NodeStarted", "NodeStopped"} and fact.actor in actors)
    ]
    return sorted(told + lives, key=lambda fact: fact.time_ns)


def _facts(log: str, message: Stored) -> Iterator[Fact]:
    batch = json.loads(message.payload)
    for event in batch["events"]:
        kind = event["t"].split("/")[0]
        yield Fact(log, message.sequence, message.time_ns, batch["actor"], kind, event)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a part of the reckoning took: it shows with the findings."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s")  # noqa: T201 - pytest shows it when the run fails
