"""One request on its way through a node: what is known of it while it is decided, and while it is carried out."""

import asyncio
from enum import IntEnum
from typing import Final

from dataplane.adapters.port import Call, Outgoing, Reading
from dataplane.incoming import Incoming
from dataplane.inflight import Admission, Wanted
from dataplane.upstreams import Destination
from schemas.amounts import NOTHING, Amounts
from schemas.policy import KeyPolicy, Who
from schemas.refusals import Refusal

NOBODY: Final = Who()


def holder(key: KeyPolicy) -> Who:
    """Who stands behind a key, before its agent is looked up."""
    return Who(key=key.id, label=key.label, agent=key.agent, run=key.run, user=key.user, feature=key.feature)


class Exchange:
    """A request that is being decided. What is not known yet is empty; a refusal records what is there.

    Times are elapsed nanoseconds. `token`: the vault key as it was sent, to keep it out of the answer.
    """

    __slots__ = (
        "_transport",
        "began_ns",
        "body",
        "bound",
        "client",
        "destination",
        "key",
        "method",
        "model",
        "path",
        "request",
        "request_id",
        "token",
        "who",
    )

    def __init__(self, request: Incoming, request_id: str, began_ns: int) -> None:
        self.request = request
        self.request_id = request_id
        self.began_ns = began_ns
        self.client = request.client
        self.method = request.method
        self._transport = request.transport
        self.path = ""
        self.destination: Destination | None = None
        self.key: KeyPolicy | None = None
        self.who: Who = NOBODY
        self.model = ""
        self.bound: Amounts = NOTHING
        self.token = b""
        self.body = b""

    def whoever(self) -> Who:
        """Who stands behind it, as far as that is known."""
        key = self.key
        if self.who is not NOBODY or key is None:
            return self.who
        return holder(key)

    @property
    def deserted(self) -> bool:
        """Whether the client has closed its connection."""
        transport = self._transport
        return transport is None or transport.is_closing()


class Phase(IntEnum):
    """What an interruption may interrupt."""

    OTHER = 0
    SENDING_LARGE = 1
    STREAMING = 2


class Carriage:
    """An admitted request on its way to the vendor and back.

    `cut` is the reason why it was stopped after it had been sent. Whoever stops it cancels `task` in the same step, and
    the way of the request takes that cancellation for its own (`taken_back`). 0 in a time: not reached.
    """

    __slots__ = (
        "admission",
        "call",
        "client_gone",
        "cut",
        "destination",
        "exchange",
        "outgoing",
        "overhead_us",
        "phase",
        "reading",
        "sent_ns",
        "status",
        "task",
        "waited_ns",
        "wanted",
    )

    def __init__(
        self,
        exchange: Exchange,
        destination: Destination,
        call: Call,
        reading: Reading,
        outgoing: Outgoing,
        wanted: Wanted,
        admission: Admission,
    ) -> None:
        self.exchange = exchange
        self.destination = destination
        self.call = call
        self.reading = reading
        self.outgoing = outgoing
        self.wanted = wanted
        self.admission = admission
        self.task: asyncio.Task[object] | None = None
        self.phase = Phase.OTHER
        self.cut: Refusal | None = None
        self.client_gone = False
        self.sent_ns = 0
        self.overhead_us = 0
        self.waited_ns = 0
        self.status = 0
        admission.on_cut = self.stop

    @property
    def request(self) -> Incoming:
        return self.exchange.request

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What must not be in the answer: the real credential, and the vault key."""
        return (*self.destination.secrets, self.exchange.token)

    def interruptible(self, phase: Phase) -> None:
        """From now on, in the task that calls this, `stop` may interrupt."""
        self.task = asyncio.current_task()
        self.phase = phase

    def readmitted(self, admission: Admission) -> None:
        """Another admission takes the place of one that was released before anything was sent."""
        self.admission = admission
        self.exchange.request_id = admission.request_id
        admission.on_cut = self.stop

    def stop(self, refusal: Refusal) -> None:
        """It was sent and must stop: a half-sent body is aborted, a stream is cut; anything else ends normally."""
        if self.phase is Phase.OTHER or self.cut is not None or self.task is None:
            return
        self.cut = refusal
        self.task.cancel()

    def taken_back(self) -> bool:
        """After a CancelledError: whether `stop` caused it. The task then goes on as if it had not been cancelled."""
        if self.cut is None or self.task is None:
            return False
        self.task.uncancel()
        return True
