"""Sending an answer: whole, or block by block, packed as the client wants it."""

import asyncio
import secrets
import time
from typing import Final

from aiohttp import web

from controlplane.audit.endpoint_codecs import Packer
from controlplane.audit.endpoint_errors import QueryError
from controlplane.audit.endpoint_protocol import Asked, content_type, late_error, summary
from controlplane.audit.engine_session import Figures

SERVER_NAME: Final = "ringfence-embedded"

#: How long a client has to read a late error before the connection ends under it.
_READ_ERROR_S: Final = 1.0


class Answer:
    """One statement's answer: `whole`; or `begin`, `write` for each block, `end`; and `failed` at any time."""

    def __init__(self, request: web.Request, asked: Asked, version: str) -> None:
        self._request = request
        self._asked = asked
        self._version = version
        self._tag = secrets.token_hex(8)
        self._started_ns = time.monotonic_ns()
        self._stream: web.StreamResponse | None = None
        #: Packs the result. It may be used on another thread, by one at a time.
        self.packer = Packer(asked.answer_encoding)

    def whole(self, output_format: str, packed: list[bytes], figures: Figures) -> web.Response:
        """A result that is complete."""
        body = b"".join((*packed, self.packer.end())) if any(packed) else b""
        headers = self._headers(output_format, packed=bool(body))
        elapsed_ns = time.monotonic_ns() - self._started_ns
        headers["X-ClickHouse-Summary"] = summary(figures, result_bytes=len(body), elapsed_ns=elapsed_ns)
        return web.Response(body=body, headers=headers)

    async def begin(self, output_format: str, packed: list[bytes]) -> None:
        """Send what there is of a result that goes on; its figures are not known, so there is no summary."""
        self._stream = web.StreamResponse(headers=self._headers(output_format, packed=True))
        self._stream.enable_chunked_encoding()
        await self._stream.prepare(self._request)
        await self._stream.write(b"".join(packed))

    async def write(self, packed: bytes) -> None:
        """Send a block. Waits for a client that reads slowly; raises `ConnectionError` for one that is gone."""
        await self._begun().write(packed)

    async def end(self) -> web.StreamResponse:
        """The result is complete."""
        stream = self._begun()
        await stream.write_eof(self.packer.end())
        return stream

    async def failed(self, error: QueryError) -> web.StreamResponse:
        """Answer with an error.

        In the middle of a result it is told there, and the connection ends without the mark of a complete answer:
        clients that know the tag raise the error, all others see a broken transfer, and nobody a short result.
        """
        if self._stream is None:
            return error_answer(error, self._version, self._asked.query_id)
        transport = self._request.transport
        if transport is not None:
            told = self.packer.pack(late_error(error.text(self._version), self._tag)) + self.packer.end()
            # Not through `write`, which would wait for a client that has stopped reading.
            transport.write(b"%x\r\n%b\r\n" % (len(told), told))
            # A client built on aiohttp forgets what it has not read yet when the connection ends.
            await asyncio.sleep(_READ_ERROR_S)
            transport.close()
        return self._stream

    def _begun(self) -> web.StreamResponse:
        if self._stream is None:
            raise RuntimeError("the answer has not begun")
        return self._stream

    def _headers(self, output_format: str, *, packed: bool) -> dict[str, str]:
        headers = {
            "Content-Type": content_type(output_format),
            "X-ClickHouse-Exception-Tag": self._tag,
            "X-ClickHouse-Format": output_format,
            "X-ClickHouse-Query-Id": self._asked.query_id,
            "X-ClickHouse-Server-Display-Name": SERVER_NAME,
            "X-ClickHouse-Timezone": self._asked.settings.get("session_timezone") or "UTC",
        }
        if packed and self._asked.answer_encoding is not None:
            headers["Content-Encoding"] = self._asked.answer_encoding
        return headers


def error_answer(error: QueryError, version: str, query_id: str = "") -> web.Response:
    """An error instead of a result."""
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-ClickHouse-Exception-Code": str(int(error.code)),
        "X-ClickHouse-Server-Display-Name": SERVER_NAME,
    }
    if query_id:
        headers["X-ClickHouse-Query-Id"] = query_id
    return web.Response(status=error.status, body=f"{error.text(version)}\n".encode(), headers=headers)
