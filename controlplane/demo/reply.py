"""Writing an answer, whole or in pieces, on time or not, to the end or not."""

import asyncio
from collections.abc import Iterable, Iterator

from aiohttp import web
from multidict import CIMultiDict

from controlplane.demo.books import Entry
from controlplane.demo.faults import MAX_WAIT_MS, Fault
from controlplane.demo.wire import Answer

_LOOK_MS = 100  # how soon a hanging answer notices that its client has gone
_HTML = b"<!DOCTYPE html><html><head><title>Service</title></head><body><h1>It works!</h1></body></html>\n"


async def send(
    request: web.BaseRequest, answer: Answer, fault: Fault, entry: Entry, closing: asyncio.Event
) -> web.StreamResponse:
    """Send `answer` as `fault` has it, and note in `entry` how far it got. Returns the finished response."""
    headers = CIMultiDict(answer.headers)
    headers["Content-Type"] = answer.content_type
    in_pieces = answer.chunks is not None or fault.chunk_bytes
    if not in_pieces and fault.stall_after_chunks is None and fault.drop_after_chunks is None:
        response = web.Response(body=answer.body, status=answer.status, headers=headers)
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            entry.client_gone = True
        return response
    return await _in_pieces(request, answer, headers, fault, entry, closing)


async def _in_pieces(
    request: web.BaseRequest,
    answer: Answer,
    headers: CIMultiDict[str],
    fault: Fault,
    entry: Entry,
    closing: asyncio.Event,
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=headers)
    source: Iterable[bytes] = (answer.body,) if answer.chunks is None else answer.chunks
    if answer.chunks is None:
        response.content_length = len(answer.body)
    try:
        await response.prepare(request)
        for piece in _split(source, fault.chunk_bytes):
            if entry.chunks_sent and fault.chunk_ms:
                await wait(fault.chunk_ms, closing)
            if await _cut(request, fault, entry, closing):
                return response
            await response.write(piece)
            entry.chunks_sent += 1
        if not await _cut(request, fault, entry, closing):
            await response.write_eof()
    except ConnectionError:
        entry.client_gone = True
    return response


async def _cut(request: web.BaseRequest, fault: Fault, entry: Entry, closing: asyncio.Event) -> bool:
    """Whether the answer ends here, by a fault or because nobody reads it any more."""
    if gone(request):
        entry.client_gone = True
        return True
    if closing.is_set() or entry.chunks_sent == fault.drop_after_chunks:
        drop(request)
        return True
    if entry.chunks_sent == fault.stall_after_chunks:
        entry.client_gone = await hang(request, closing)
        return True
    return False


def _split(source: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """The pieces as they are (`size_bytes` 0), or cut again without regard to events or characters."""
    for piece in source:
        if not size_bytes:
            yield piece
        else:
            for start in range(0, len(piece), size_bytes):
                yield piece[start : start + size_bytes]


async def wait(wait_ms: int, closing: asyncio.Event) -> None:
    """Let time pass; ends early when the demo closes."""
    if wait_ms <= 0:
        return
    try:
        async with asyncio.timeout(wait_ms / 1000):
            await closing.wait()
    except TimeoutError:
        return


async def hang(request: web.BaseRequest, closing: asyncio.Event) -> bool:
    """Never answer: until the client goes, the demo closes, or ten minutes have passed. Whether the client went."""
    loop = asyncio.get_running_loop()
    end = loop.time() + MAX_WAIT_MS / 1000
    while not gone(request) and not closing.is_set() and loop.time() < end:
        await wait(_LOOK_MS, closing)
    client_gone = gone(request)
    drop(request)
    return client_gone


def gone(request: web.BaseRequest) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


def drop(request: web.BaseRequest) -> web.Response:
    """Close the connection; what has not been sent is lost. Returns a response that goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def spoil(answer: Answer, fault: Fault) -> Answer:
    """The answer under the fault `body`."""
    match fault.body:
        case "malformed":
            body = answer.body if answer.chunks is None else b"".join(answer.chunks)
            return Answer(answer.status, body[: len(body) // 2] + b'"', answer.headers)
        case "html":
            return Answer(answer.status, _HTML, content_type="text/html; charset=utf-8")
        case "empty":
            return Answer(answer.status, b"", answer.headers)
        case None:
            return answer
