"""Step 10: the request goes out, at most once, and only under rule A3 (docs/PROTOCOL.md).

| `check_dispatch`, just before the first byte | what follows |
|---|---|
| it may go out | the write, in the same step |
| the proof is too old | a fresh append, then the check again, a few times |
| its admission was released through no fault of its own | it is admitted again, under a new id |
| anything else | refused; it has been released |

| the client of the upstream says | outcome |
|---|---|
| nothing was sent | released |
| it may have been sent | unknown: the bound stays held. A call that only reads cannot have cost anything: settled |
"""

import asyncio
from typing import Final

from dataplane.adapters.port import Outcome
from dataplane.exchange import Carriage, Phase
from dataplane.governor import STALE, Admission, Governor, again
from dataplane.inflight import State
from dataplane.upstream.connection import SLICE_BYTES
from dataplane.upstream.errors import (
    ClientClosed,
    FirstByteTimeout,
    HeaderTooLarge,
    IdleTimeout,
    PoolFull,
    ProtocolViolation,
    RequestInvalid,
    TotalTimeout,
    UpstreamError,
)
from dataplane.upstream.response import UpstreamResponse
from events.clock import Clock
from schemas import ids
from schemas.amounts import Amounts
from schemas.refusals import Refusal, refuse

MAX_CHECKS: Final = 4
"""Checks of one request that may find something to be done first; each takes an append or an admission."""

_GAVE_UP: Final = refuse("log_unavailable", "this node could not prove its right to send the request; nothing was sent")


class Forbidden(Exception):
    """Raised out of `before_send`: not a byte of this sending has left."""


class Ended(Exception):
    """The exchange is over without an answer of the vendor: the request was released, or settled as unknown."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class Dispatcher:
    """Sends admitted requests."""

    def __init__(self, governor: Governor, clock: Clock) -> None:
        self._governor = governor
        self._clock = clock

    async def send(self, carriage: Carriage) -> UpstreamResponse:
        """The vendor's answer, once its head is there. Raises Ended; the admission has then ended."""
        for _ in range(MAX_CHECKS):
            answer = await self._try(carriage)
            if isinstance(answer, UpstreamResponse):
                return answer
            verdict: Refusal | None = answer
            if verdict is STALE:
                verdict = await self._governor.revalidate(carriage.admission)
            if verdict is not None and again(verdict):
                await self._admit_again(carriage)
            elif verdict is not None:
                raise Ended(verdict)
        self._governor.release(carriage.admission, "log_unavailable")
        raise Ended(_GAVE_UP)

    async def _try(self, carriage: Carriage) -> UpstreamResponse | Refusal:
        """One sending: the answer, or what `check_dispatch` said against it. Raises Ended."""
        governor, outgoing, destination = self._governor, carriage.outgoing, carriage.destination
        verdict: Refusal | None = None

        def before_send() -> None:
            nonlocal verdict
            verdict = governor.check_dispatch(carriage.admission)
            if verdict is not None:
                raise Forbidden
            if not carriage.sent_ns:
                carriage.sent_ns = carriage.admission.sent_ns

        if len(outgoing.body) > SLICE_BYTES:
            carriage.interruptible(Phase.SENDING_LARGE)
        try:
            response = await destination.client.send(
                destination.origin,
                outgoing.method,
                outgoing.target,
                outgoing.headers,
                outgoing.body,
                before_send=before_send,
            )
        except Forbidden:
            if carriage.admission.state is State.SENT:
                self._unknown(carriage, "connection_lost")
                raise Ended(_lost()) from None
            assert verdict is not None  # noqa: S101 - Forbidden says so; for the type checker
            return verdict
        except UpstreamError as error:
            self._fail(carriage, error)
            raise Ended(_refusal(error)) from None
        except asyncio.CancelledError:
            self._stopped(carriage)
            if carriage.taken_back() and carriage.cut is not None:
                raise Ended(carriage.cut) from None
            raise
        finally:
            carriage.phase = Phase.OTHER
        return response

    async def _admit_again(self, carriage: Carriage) -> None:
        name = ids.request_id(self._governor.node.draw(ids.ID_BYTES))
        carriage.exchange.request_id = name
        admission = await self._governor.admit(carriage.wanted, name)
        if not isinstance(admission, Admission):
            raise Ended(admission)
        carriage.readmitted(admission)

    def _fail(self, carriage: Carriage, error: UpstreamError) -> None:
        if error.sent:
            self._unknown(carriage, error.code)
        else:
            self._governor.release(carriage.admission, error.code)

    def _stopped(self, carriage: Carriage) -> None:
        """Cancelled while sending: by `stop`, or because the process ends."""
        if carriage.admission.state is State.SENT:
            self._unknown(carriage, carriage.cut.code if carriage.cut is not None else "cancelled")
        else:
            self._governor.release(carriage.admission, "cancelled")

    def _unknown(self, carriage: Carriage, error: str) -> None:
        """It may have been sent, and there is no answer."""
        self._governor.settle(
            carriage.admission,
            lost_outcome(carriage, error),
            latency_us=(self._clock.elapsed_ns() - carriage.exchange.began_ns) // 1000,
            client_gone=carriage.exchange.deserted,
        )


def lost_outcome(carriage: Carriage, error: str) -> Outcome:
    """The outcome of a request whose answer was lost. What only reads has cost nothing, whatever became of it."""
    if carriage.reading.reads_only:
        return Outcome("settled", Amounts(requests=1), model=carriage.reading.model, error=error)
    return Outcome("unknown", model=carriage.reading.model, error=error)


def _refusal(error: UpstreamError) -> Refusal:
    match error:
        case PoolFull():
            return refuse("overloaded", "no connection to the vendor became free in time; nothing was sent")
        case ClientClosed():
            return refuse("draining", "this node is shutting down; nothing was sent")
        case RequestInvalid():
            return refuse("request_malformed", error.detail)
        case _ if not error.sent:
            return refuse("upstream_unreachable", "the vendor could not be reached; nothing was sent")
    return answer_refusal(error)


def answer_refusal(error: UpstreamError) -> Refusal:
    """What the client is told when the vendor's answer did not come, or not whole."""
    match error:
        case FirstByteTimeout() | IdleTimeout() | TotalTimeout():
            return refuse("upstream_timeout", "the vendor did not answer in time")
        case ProtocolViolation() | HeaderTooLarge():
            return refuse("upstream_protocol", "the vendor's answer could not be read")
    return _lost()


def _lost() -> Refusal:
    return refuse("upstream_lost", "the connection to the vendor was lost before the answer was complete")
