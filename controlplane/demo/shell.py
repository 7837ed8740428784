"""The way of one request through a simulated vendor: receive, log, spoil, decide, log, answer.

The order is the point. An entry is in the log as soon as the request's head is there; the vendor executes in one
synchronous step; the entry's line is written straight after it and before the first byte of the answer. Faults
stand between these steps, never inside one. A client that goes away does not stop what it asked for.
"""

import asyncio
import hashlib
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from controlplane.demo import credentials, reply
from controlplane.demo.arrival import queued_ms
from controlplane.demo.books import Books, Entry, Outcome, RequestLog
from controlplane.demo.faults import NO_FAULT, BadFault, Fault, FaultTable, parse_header
from controlplane.demo.ids import Ids
from controlplane.demo.wire import Answer, Call, Clock, Vendor
from schemas.ids import OPERATOR_TOKEN_PREFIX, TOKEN_PREFIX

MAX_IN_FLIGHT = 4_096  # requests that wait or hang, per vendor; further ones are answered 503
_BODY_TIMEOUT_S = 60.0  # for a body that comes in pieces
_MAX_NAME_SETS = 512  # distinct orders of header names remembered; a client has one per kind of request
_MAX_NOTE_CHARS = 255  # of a marker or idempotency key kept in the log
_GATEWAY_TOKENS = (TOKEN_PREFIX.encode(), OPERATOR_TOKEN_PREFIX.encode())


@dataclass(slots=True)
class Shared:
    """What both vendors have in common. `forbidden` are texts that must never reach a vendor."""

    log: RequestLog
    books: Books
    faults: FaultTable
    clock: Clock
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    forbidden: tuple[bytes, ...] = ()


class VendorShell:
    """Serves one vendor; `handle` is the low-level handler of an `aiohttp.web.Server`."""

    def __init__(self, vendor: Vendor, secret: str, ids: Ids, shared: Shared) -> None:
        self._vendor = vendor
        self._secret = secret
        self._ids = ids
        self._shared = shared
        self._in_flight = 0
        self._names: dict[tuple[bytes, ...], tuple[str, ...]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        entry, token = self._receive(request, path, query)
        self._in_flight += 1
        try:
            return await self._serve(request, entry, query, token)
        finally:
            self._in_flight -= 1
            entry.finished_mono_ns = self._shared.clock.mono_ns()

    def _receive(self, request: web.BaseRequest, path: str, query: str) -> tuple[Entry, str]:
        """Put the request in the log. Its `Authorization` token goes back beside the entry, never into it."""
        headers, clock = request.headers, self._shared.clock
        seen, token = credentials.find(headers, query, self._secret)
        names = parse_qsl(query, keep_blank_values=True, errors="replace") if query else ()
        entry = Entry(
            seq=self._shared.log.next_seq(),
            vendor=self._vendor.name,
            request_id=self._ids.make("req_", 16),
            received_mono_ns=clock.mono_ns(),
            received_wall_ns=clock.wall_ns(),
            queued_ms=queued_ms(request),
            method=request.method,
            path=path,
            query_names=tuple(name for name, _ in names),
            header_names=self._header_names(request),
            credentials=seen,
            real_credential=len(seen) == 1 and seen[0].real,
            forbidden=self._forbidden(request.raw_path.encode(errors="surrogateescape"))
            or any(self._forbidden(value) for _, value in request.raw_headers),
            marker=headers.get("X-Demo-Marker", "")[:_MAX_NOTE_CHARS],
            idempotency_key=headers.get("Idempotency-Key", "")[:_MAX_NOTE_CHARS],
        )
        self._shared.log.open(entry)
        return entry, token

    def _header_names(self, request: web.BaseRequest) -> tuple[str, ...]:
        """Lower-case names in the order received; equal ones share one tuple, as the log holds many."""
        raw = tuple(name for name, _ in request.raw_headers)
        names = self._names.get(raw)
        if names is None:
            names = tuple(name.decode("latin-1").lower() for name in raw)
            if len(self._names) < _MAX_NAME_SETS:
                self._names[raw] = names
        return names

    def _forbidden(self, data: bytes) -> bool:
        return any(text in data for text in (*_GATEWAY_TOKENS, *self._shared.forbidden))

    async def _serve(self, request: web.BaseRequest, entry: Entry, query: str, token: str) -> web.StreamResponse:
        fault = self._fault(request, entry)
        body = await self._read(request)
        call = self._call(request, entry, query, token, body or b"", fault)
        if body is None:
            answer = self._vendor.failure(call, 413, "The request body is too large or never came.")
            self._decided(entry, answer, "incomplete")
            return await reply.send(request, answer, NO_FAULT, entry, self._shared.closing)
        entry.body_bytes, entry.body_sha256 = len(body), hashlib.sha256(body).hexdigest()
        entry.forbidden = entry.forbidden or self._forbidden(body)
        answered = await self._answer(request, call, entry, fault)
        if answered is None:
            return reply.drop(request)
        return await reply.send(
            request, answered, NO_FAULT if isinstance(fault, BadFault) else fault, entry, self._shared.closing
        )

    def _fault(self, request: web.BaseRequest, entry: Entry) -> Fault | BadFault:
        text = request.headers.get("X-Demo-Fault")
        if text is not None:
            entry.fault = text[:_MAX_NOTE_CHARS]
            return parse_header(text)
        fault = self._shared.faults.pick(entry.vendor, entry.method, entry.path)
        if fault is not NO_FAULT:
            entry.fault = msgspec.json.encode(fault).decode()
        return fault

    async def _read(self, request: web.BaseRequest) -> bytes | None:
        """The whole body; None if it is over the limit, or its sender went away or fell silent."""
        content, limit = request.content, self._vendor.body_limit_bytes
        if content.is_eof():
            data = content.read_nowait(-1)
            return data if len(data) <= limit else None
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces, size = [], 0
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                while piece := await content.readany():
                    size += len(piece)
                    if size > limit:
                        return None
                    pieces.append(piece)
        except (ConnectionError, web.RequestPayloadError, TimeoutError):
            return None
        return b"".join(pieces)

    def _call(
        self, request: web.BaseRequest, entry: Entry, query: str, token: str, body: bytes, fault: Fault | BadFault
    ) -> Call:
        known = NO_FAULT if isinstance(fault, BadFault) else fault
        return Call(
            request_id=entry.request_id,
            method=entry.method,
            path=entry.path,
            query=query,
            headers=request.headers,
            body=body,
            token=token,
            now_s=self._shared.clock.wall_ns() // 1_000_000_000,
            extra_output_tokens=known.extra_output_tokens,
            no_usage=known.no_usage,
        )

    async def _answer(
        self, request: web.BaseRequest, call: Call, entry: Entry, fault: Fault | BadFault
    ) -> Answer | None:
        """The answer to send, with the entry decided; None if the connection is to be closed without one."""
        closing = self._shared.closing
        early = self._before(call, fault)
        if isinstance(fault, BadFault) or early is not None:
            answer = early or self._vendor.failure(call, 400, "X-Demo-Fault is invalid.")
            self._decided(entry, answer, "faulted")
            return answer
        if fault.hang == "before" or fault.drop == "before":
            self._decided(entry, None, "faulted")
            if fault.hang:
                entry.client_gone = await reply.hang(request, closing)
            return None
        answer = self._vendor.begin(call) or await self._execute(call, fault.delay_ms)
        self._decided(entry, answer, _outcome(answer))
        return await self._after(request, call, answer, entry, fault)

    def _before(self, call: Call, fault: Fault | BadFault) -> Answer | None:
        """An answer that is given without asking the vendor."""
        failure = self._vendor.failure
        if isinstance(fault, BadFault):
            return failure(call, 400, fault.message)
        if self._in_flight > MAX_IN_FLIGHT:
            return failure(call, 503, f"More than {MAX_IN_FLIGHT} requests are in flight.")
        if self._shared.log.broken:
            return failure(call, 503, self._shared.log.broken)
        if call.header("Content-Encoding") not in {"", "identity"}:
            return failure(call, 400, "The demo takes no compressed bodies.")
        if fault.redirect is not None:
            return Answer(307, headers=(("Location", fault.redirect),), content_type="text/plain")
        if fault.status_before is not None:
            return _retry_after(failure(call, fault.status_before, "A fault was ordered."), fault)
        return None

    async def _execute(self, call: Call, delay_ms: int) -> Answer:
        """The point of no return: one synchronous step. A demo that closes executes nothing more."""
        try:
            if delay_ms:
                await reply.wait(delay_ms, self._shared.closing)
            if self._shared.closing.is_set():
                self._vendor.abandon(call)
                return self._vendor.failure(call, 503, "The demo is closing.")
            return self._vendor.execute(call)
        except BaseException:  # re-raised: an unfinished claim would answer 409 for ever
            self._vendor.abandon(call)
            raise

    async def _after(
        self, request: web.BaseRequest, call: Call, answer: Answer, entry: Entry, fault: Fault
    ) -> Answer | None:
        """What a fault leaves of the answer to something that has been executed."""
        if fault.status_after is not None:
            failure = self._vendor.failure(call, fault.status_after, "A fault was ordered.")
            answer = _retry_after(failure, fault)
        if fault.body is not None:
            answer = reply.spoil(answer, fault)
        await reply.wait(fault.first_byte_delay_ms, self._shared.closing)
        if fault.hang == "after":
            entry.client_gone = await reply.hang(request, self._shared.closing)
            return None
        return None if fault.drop == "after" else answer

    def _decided(self, entry: Entry, answer: Answer | None, outcome: Outcome) -> None:
        """Write down what was decided: the last thing before a byte of the answer may leave."""
        entry.outcome = outcome
        entry.decided_mono_ns = self._shared.clock.mono_ns()
        if answer is not None:
            entry.status, entry.moves, entry.usage = answer.status, answer.moves, answer.usage
            self._shared.books.post(answer.moves, answer.usage)
        self._shared.log.decided(entry)


def _outcome(answer: Answer) -> Outcome:
    if answer.replayed:
        return "replayed"
    return "executed" if answer.executed else "refused"


def _retry_after(answer: Answer, fault: Fault) -> Answer:
    if fault.retry_after_s is None:
        return answer
    return msgspec.structs.replace(answer, headers=(*answer.headers, ("Retry-After", str(fault.retry_after_s))))
