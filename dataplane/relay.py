"""Steps 11 and 12: the vendor's answer goes to the client while its meter reads along, and the request is settled.

| the answer | goes to the client |
|---|---|
| must not reach it (our credential refused, a redirect) | as a refusal, once it has been read for the books |
| small, or all here already | in one write, after it has been settled |
| larger | piece by piece as it comes, with back-pressure, its length announced if the vendor did |
| a stream of events | event by event; before each the proof must be young (rule A4) |

If the client goes away the vendor's answer is still read, up to a deadline, because what it says was spent. A stream
that must stop gets the dialect's error event; where the vendor is no longer to work for it (a revoked key) the vendor's
connection is closed too.
"""

import asyncio
from typing import Final

from dataplane.adapters.port import Meter, Outcome
from dataplane.answer import Answer
from dataplane.core.scrub import mask
from dataplane.dispatch import Ended, answer_refusal, lost_outcome
from dataplane.exchange import Carriage
from dataplane.governor import Governor
from dataplane.heads import BODILESS, head, keeps_alive
from dataplane.streaming import Streaming, incomplete, relayed_headers
from dataplane.upstream.errors import UpstreamError
from dataplane.upstream.response import UpstreamResponse
from events.clock import Clock
from schemas.rpc import ObjectAnswer

SMALL_ANSWER_BYTES: Final = 256 * 1024
"""Answers announced as no longer than this are read whole: one settlement, one write, and a clean refusal if they
break off. Beyond it memory and the client's patience count for more."""

REPLACED_ANSWER_BYTES: Final = 1024 * 1024
"""What is read of an answer that the client will not see."""


class Relay:
    """Relays answers and settles requests."""

    def __init__(self, governor: Governor, clock: Clock) -> None:
        self._governor = governor
        self._clock = clock

    async def answer(self, carriage: Carriage, response: UpstreamResponse) -> Answer:
        """Relay one answer. Raises Ended if a refusal must go instead; the admission has ended either way."""
        adapter, status = carriage.destination.adapter, response.status
        carriage.status = status
        try:
            replaced = adapter.replaces(status, response.headers)
            meter = adapter.meter(carriage.call, carriage.reading, status, response.headers)
            if replaced is not None:
                await self._read_aside(carriage, response, meter)
                raise Ended(replaced)
            events = _is_event_stream(response)
            length = response.content_length
            if not events and (response.complete or (length is not None and length <= SMALL_ANSWER_BYTES)):
                return await self._whole(carriage, response, meter)
            return await Streaming(
                self.settle, self._governor, self._clock, carriage, response, meter, events=events
            ).run()
        except asyncio.CancelledError:
            response.abort()
            await self.settle(carriage, lost_outcome(carriage, "cancelled"))
            raise

    async def _whole(self, carriage: Carriage, response: UpstreamResponse, meter: Meter) -> Answer:
        if response.complete:
            body = response.take_buffered()
        else:
            try:
                body = await response.read(SMALL_ANSWER_BYTES)
            except UpstreamError as error:
                await self.settle(carriage, incomplete(carriage, meter, error.code))
                raise Ended(answer_refusal(error)) from None
        now_ns = self._clock.elapsed_ns()
        carriage.waited_ns = now_ns - carriage.sent_ns
        out = meter.feed(body) + meter.flush() if body else meter.flush()
        outcome = meter.finish(complete=True)
        if outcome.replayed and outcome.object is not None:
            outcome = await self._as_of_now(carriage, outcome)
            now_ns = self._clock.elapsed_ns()
        self._book(carriage, outcome, now_ns)
        return _in_one(carriage, response, out)

    async def _read_aside(self, carriage: Carriage, response: UpstreamResponse, meter: Meter) -> None:
        """Read an answer for its meter alone, and settle."""
        complete = True
        try:
            meter.feed(await response.read(REPLACED_ANSWER_BYTES))
        except UpstreamError:
            complete = False
        await self.settle(carriage, meter.finish(complete=complete))

    async def settle(self, carriage: Carriage, outcome: Outcome) -> None:
        """Settle once; awaits only where a replayed answer's object must be looked up first."""
        if outcome.replayed and outcome.object is not None:
            outcome = await self._as_of_now(carriage, outcome)
        self._book(carriage, outcome, self._clock.elapsed_ns())

    def _book(self, carriage: Carriage, outcome: Outcome, now_ns: int) -> None:
        total_ns = now_ns - carriage.exchange.began_ns
        waited_ns = carriage.waited_ns or (now_ns - carriage.sent_ns if carriage.sent_ns else 0)
        carriage.overhead_us = max(0, total_ns - waited_ns) // 1000
        self._governor.settle(
            carriage.admission,
            outcome,
            status=carriage.status,
            latency_us=total_ns // 1000,
            overhead_us=carriage.overhead_us,
            client_gone=carriage.client_gone or (carriage.cut is None and carriage.exchange.deserted),
        )

    async def _as_of_now(self, carriage: Carriage, outcome: Outcome) -> Outcome:
        """A replayed answer shows its object as it was then. It counts only where the ledger knows less (rule S1)."""
        assert outcome.object is not None  # noqa: S101 - the caller has looked; for the type checker
        known = await self._governor.object(outcome.object.ref, carriage.admission)
        if not isinstance(known, ObjectAnswer):
            # Nobody can say now: the earlier attempt stays as it is, held if its outcome is unknown.
            return outcome.without_object(replayed=False)
        counted = known.counted_usd_nanos
        if counted is None or (known.earlier_unknown and outcome.object.exposure_nanos > counted):
            return outcome
        return outcome.without_object(replayed=True)


def _in_one(carriage: Carriage, response: UpstreamResponse, body: bytes) -> Answer:
    """A complete answer as one write. A HEAD answer announces the length that the vendor announced."""
    request, status = carriage.request, response.status
    if status in BODILESS:
        framing = body = b""
    elif carriage.exchange.method == "HEAD":
        framing, body = _announced_length(response), b""
    else:
        framing = b"Content-Length: %d\r\n" % len(body)
    keep_alive = keeps_alive(request)
    data = head(status, relayed_headers(carriage, response), framing, request, keep_alive=keep_alive) + body
    return Answer(mask(data, carriage.secrets), status=status, keep_alive=keep_alive)


def _is_event_stream(response: UpstreamResponse) -> bool:
    for name, value in response.headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return value.lstrip().lower().startswith(b"text/event-stream")
    return False


def _announced_length(response: UpstreamResponse) -> bytes:
    """The length that a HEAD answer announces, for its client to see."""
    for name, value in response.headers:
        if name.lower() == b"content-length":
            return b"Content-Length: %b\r\n" % value
    return b""
