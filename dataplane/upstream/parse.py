"""Reads the answers of one connection from bytes as they come. No I/O: bytes in, calls on a sink out.

httptools (llhttp, in its strict mode) finds the parts; `framing` decides what they mean; this module keeps the
order of events and counts. One `ResponseParser` serves a connection for its whole life:

| state    | begin     | interim head | final head  | end of body | any other byte         |
|----------|-----------|--------------|-------------|-------------|------------------------|
| idle     | -> head   |              |             |             | (the connection's)     |
| head     |           | head         | -> body     |             |                        |
| body     |           |              |             | -> done     |                        |
| done     | -> head   |              |             |             | `reusable` turns False |

A body that ends with its head (204, HEAD, length 0) passes through `body` within one `feed`.

Bytes that come after the end never belong to an answer that anyone asked for. The answer that ended stands, but
the connection may not be used again.
"""

from __future__ import annotations

from typing import Final, NoReturn, Protocol

import httptools

from dataplane.upstream.errors import HeaderTooLarge, ProtocolViolation, UpstreamError
from dataplane.upstream.framing import Framing, read_framing

_END_OF_HEAD: Final = b"\r\n\r\n"


class Sink(Protocol):
    """Who takes the answer: its final head once, then body bytes."""

    def take_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], framing: Framing) -> None: ...

    def take_body(self, data: bytes) -> None: ...


class ResponseParser:
    """See the module's page. Public attributes are for reading only.

    `head_done`, `done`: how far the present answer is. `reusable`: the next request may use the connection (valid
    when `done`). `until_close`: the stream's end is the body's end. `keepalive_s`: the upstream's idle limit.
    """

    def __init__(self, max_header_bytes: int) -> None:
        self._max_header_bytes = max_header_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._sink: Sink | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._head_only = False
        self._held = b""
        self._failure: UpstreamError | None = None
        self._interim = False
        self._idle_bytes = 0
        self.head_done = False
        self.done = True
        self.reusable = True
        self.until_close = False
        self.keepalive_s: float | None = None

    def begin(self, sink: Sink, *, head_only: bool) -> None:
        """Expect the answer to a request that is about to be sent (`head_only`: to HEAD)."""
        self._sink = sink
        self._headers = []
        self._reason = b""
        self._head_only = head_only
        self._idle_bytes = 0
        self.head_done = self.done = self.until_close = False

    def feed(self, data: bytes) -> None:
        """Read on. Raises ProtocolViolation or HeaderTooLarge; what was read before that has been delivered."""
        self._idle_bytes += len(data)
        try:
            if self._head_only:
                self._feed_heads_only(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._explain(error)
        if self._idle_bytes > self._max_header_bytes and not self.done:
            if self.head_done:
                raise ProtocolViolation("too much framing without any body", sent=True)
            raise HeaderTooLarge(f"the answer's head exceeds {self._max_header_bytes} bytes", sent=True)

    def feed_end(self) -> bool:
        """The stream has ended properly. Returns whether the answer is thereby complete."""
        if self.head_done and self.until_close:
            self.done = True
        return self.done

    def _explain(self, error: httptools.HttpParserError) -> None:
        """Turn the parser's error into ours; an answer that is complete stands whatever came after it."""
        if self.done:
            self.reusable = False
            return
        if self._failure is not None:
            raise self._failure from None
        if isinstance(error, httptools.HttpParserCallbackError):
            raise error  # a fault of this module, not of the upstream's bytes
        raise ProtocolViolation(f"not a valid HTTP/1.1 answer: {error}", sent=True) from None

    def _feed_heads_only(self, data: bytes) -> None:
        """An answer to HEAD announces a body that never comes, which the parser cannot be told: give it heads
        alone, and a successor after the last one.
        """
        self._held += data
        while not self.done and (end := self._held.find(_END_OF_HEAD)) >= 0:
            head, self._held = self._held[: end + 4], self._held[end + 4 :]
            self._parser.feed_data(head)
        if self.done:
            self.reusable = self.reusable and not self._held
            self._held = b""
            self._parser = httptools.HttpResponseParser(self)

    # Calls from httptools, in the order of the bytes.

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason  # in pieces when reads split it

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:  # else a trailer: read past, never merged into the head
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.done:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"} or status < 100 or status == 101:
            self._refuse(f"status {status} in HTTP/{version} is no answer to a plain request")
        headers = self._headers
        framing = read_framing(status, version, headers, head_only=self._head_only)
        if isinstance(framing, str):
            self._refuse(framing)
        self._interim = status < 200
        if not self._interim:
            self._take_head(status, headers, framing)

    def _take_head(self, status: int, headers: list[tuple[bytes, bytes]], framing: Framing) -> None:
        size = sum([len(name) + len(value) + 4 for name, value in headers])
        if size > self._max_header_bytes:
            self._failure = HeaderTooLarge(f"the answer's head exceeds {self._max_header_bytes} bytes", sent=True)
            raise self._failure
        self._idle_bytes = 0
        self.head_done = True
        self.until_close = framing.until_close
        self.keepalive_s = framing.keepalive_s
        # Two opinions; but of a head alone the parser thinks that its body is still to come.
        self.reusable = framing.keep_alive and (self._head_only or self._parser.should_keep_alive())
        self.done = framing.bodiless
        assert self._sink is not None  # noqa: S101 - begin() came first; for the type checker
        self._sink.take_head(status, self._reason, headers, framing)

    def on_body(self, data: bytes) -> None:
        if self.done or self._interim or self._sink is None:
            self._refuse("a body where there must be none")
        self._idle_bytes = 0
        self._sink.take_body(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._headers = []
            self._reason = b""
        else:
            self.done = True

    def _refuse(self, why: str) -> NoReturn:
        self._failure = ProtocolViolation(why, sent=True)
        raise self._failure
