"""An answer that goes on piece by piece, and everything that can end it early.

| what happens | the client gets | the vendor | the books |
|---|---|---|---|
| the answer ends | the end | | what the meter read |
| the answer breaks off | the error event, or no proper end | | what the meter read, or unknown |
| the client goes away | | is read on for a while | what the meter read |
| the proof is old, or the incarnation over (A4, F3) | the error event | is read on for a while | what the meter read |
| the key is revoked, the agent suspended (B1) | the error event | is closed | what the meter read, or unknown |

A cut that comes before the head has gone to the client is an ordinary refusal.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from dataplane.adapters.port import Meter, Outcome
from dataplane.answer import Answer, client_keeps_up, lags
from dataplane.core.scrub import Scrubber, mask
from dataplane.dispatch import Ended, lost_outcome
from dataplane.exchange import Carriage, Phase
from dataplane.governor import Governor
from dataplane.heads import LAST_CHUNK, REQUEST_ID, Header, chunk, head, keeps_alive, write
from dataplane.upstream.errors import UpstreamError
from dataplane.upstream.response import UpstreamResponse
from events.clock import Clock
from schemas.refusals import Refusal, refuse

DRAIN_S = 120.0
"""After its client has gone an answer is read for so long, for the books; most LLM answers end within a minute."""

GATEWAY_CUTS: Final = frozenset({"stream_cut", "draining"})
"""Cuts that are no verdict on the request: the vendor's answer is still read for the books."""


_LOST: Final = refuse("upstream_lost", "the connection to the vendor was lost in the middle of the stream")

Settle = Callable[[Carriage, Outcome], Awaitable[None]]


class Streaming:
    """One such answer. `events`: it is a stream of events, which rule A4 applies to. `run` it once."""

    def __init__(
        self,
        settle: Settle,
        governor: Governor,
        clock: Clock,
        carriage: Carriage,
        response: UpstreamResponse,
        meter: Meter,
        *,
        events: bool,
    ) -> None:
        self._settle_with = settle
        self._governor = governor
        self._clock = clock
        self._carriage = carriage
        # Kept: it is asked for with every piece, and stays the same as long as the client is there.
        self._transport = carriage.request.transport
        self._response = response
        self._meter = meter
        self._events = events
        self._scrubber = Scrubber(carriage.secrets)
        self._begun = False
        self._chunked = False
        self._keep_alive = False
        self._complete = False
        self._failure = ""
        self._cut: Refusal | None = None

    async def run(self) -> Answer:
        """Relay, settle, end. Raises Ended for a cut before the beginning."""
        carriage = self._carriage
        if self._events:
            carriage.interruptible(Phase.STREAMING)
        try:
            await self._relay_pieces()
        except asyncio.CancelledError:
            if not carriage.taken_back():
                raise
        finally:
            carriage.phase = Phase.OTHER
        self._cut = self._cut or carriage.cut
        if self._cut is not None:
            return await self._end_cut(self._cut)
        if carriage.client_gone and not self._complete:
            await self._drain()
        return await self._end()

    # ------------------------------------------------------------------ relaying

    async def _relay_pieces(self) -> None:
        """Until the answer ends, breaks off, is cut, or the client goes."""
        carriage, request = self._carriage, self._carriage.request
        self._write(self._head())
        while self._cut is None and not carriage.client_gone:
            if lags(self._transport) and not await client_keeps_up(request):
                carriage.client_gone = True
                return
            try:
                self._complete = await self._response.hand_over(self._take)
            except UpstreamError as error:
                self._failure = error.code
                return
            if self._complete:
                return

    def _take(self, piece: bytes) -> bool:
        """Relay a piece as it arrives. False: the next one must wait, or there is none."""
        out = self._scrubber.feed(self._meter.feed(piece))
        return self._write(self._framed(out)) if out else True

    def _head(self) -> bytes:
        """Length as announced where bytes go on as they come; else chunks; else the connection's end."""
        response, request = self._response, self._carriage.request
        headers = relayed_headers(self._carriage, response)
        length = response.content_length
        if length is not None and not self._events:
            framing = b"Content-Length: %d\r\n" % length
        elif request.version >= (1, 1):
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            framing = b""
        self._keep_alive = keeps_alive(request) and bool(framing)
        data = head(response.status, headers, framing, request, keep_alive=self._keep_alive)
        return mask(data, self._carriage.secrets)

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data

    def _write(self, data: bytes) -> bool:
        """Write in the step of the check (A4). False: cut, or the client has gone, or is slow."""
        if self._events and (refusal := self._governor.check_relay(self._carriage.admission)) is not None:
            self._cut = refusal
            return False
        if not write(self._transport, data):
            self._carriage.client_gone = True
            return False
        self._begun = True
        return not lags(self._transport)

    async def _drain(self) -> None:
        """Read on for the books."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self._complete and not self._failure:
                    try:
                        piece = await self._response.read_chunk()
                    except UpstreamError as error:
                        self._failure = error.code
                    else:
                        self._complete = not piece
                        self._meter.feed(piece)

    # ------------------------------------------------------------------ ends

    async def _end(self) -> Answer:
        """Settle, then let the client see the end: what it does next finds the books in order."""
        carriage = self._carriage
        rest = self._scrubber.feed(self._meter.flush()) + self._scrubber.flush()
        await self._settle()
        if carriage.client_gone:
            return self._answer(b"")
        if not self._complete:
            return self._answer(self._error_event(_LOST))
        if self._events and (refusal := self._governor.check_relay(carriage.admission)) is not None:
            return self._answer(self._error_event(refusal))
        data = self._framed(rest) if rest else b""
        data += LAST_CHUNK if self._chunked else b""
        return Answer(data, status=self._response.status, keep_alive=self._keep_alive)

    async def _end_cut(self, refusal: Refusal) -> Answer:
        """Tell the client at once; then the books."""
        self._carriage.cut = refusal
        if self._begun and not self._carriage.client_gone:
            write(self._transport, self._error_event(refusal))
            if self._transport is not None:
                self._transport.close()
        if refusal.code in GATEWAY_CUTS:
            await self._drain()
        await self._settle()
        if not self._begun:
            raise Ended(refusal)
        return self._answer(b"")

    def _answer(self, data: bytes) -> Answer:
        """The rest of an answer after which the connection is closed."""
        return Answer(data, status=self._response.status, keep_alive=False)

    def _error_event(self, refusal: Refusal) -> bytes:
        """For a stream of events: what makes the SDK raise. For anything else nothing: too early an end says it."""
        if not self._events:
            return b""
        carriage = self._carriage
        event = carriage.destination.adapter.stream_error(refusal, carriage.exchange.request_id)
        return (self._framed(event) if event else b"") + (LAST_CHUNK if self._chunked else b"")

    async def _settle(self) -> None:
        self._response.abort()  # does nothing after a complete answer
        carriage = self._carriage
        carriage.waited_ns = self._clock.elapsed_ns() - carriage.sent_ns
        if self._complete:
            outcome = self._meter.finish(complete=True)
        else:
            error = self._failure or (self._cut.code if self._cut is not None else "client_gone")
            outcome = incomplete(carriage, self._meter, error)
        await self._settle_with(carriage, outcome)


def relayed_headers(carriage: Carriage, response: UpstreamResponse) -> list[Header]:
    """The vendor's headers for the client (secrets are still in them), and the request's id."""
    headers = carriage.destination.adapter.relayed_headers(response.headers)
    headers.append((REQUEST_ID, carriage.exchange.request_id.encode("ascii")))
    return headers


def incomplete(carriage: Carriage, meter: Meter, error: str) -> Outcome:
    """What an answer that broke off proves: its meter knows, but what only reads has cost nothing."""
    if carriage.reading.reads_only:
        return lost_outcome(carriage, error)
    outcome = meter.finish(complete=False)
    return outcome if outcome.outcome == "settled" else outcome.with_error(error)
