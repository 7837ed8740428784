"""A glance at raw bytes never sees another message than the server's parser does."""

import asyncio
import base64

import pytest
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.glance import MAX_SKIPPED_BYTES, TOKEN_CHARS, Glance, glance, token_in

TOKEN = b"rfk_" + b"T" * (TOKEN_CHARS - 4)
PLAIN = b"POST /stripe/v1/charges?x=1 HTTP/1.1\r\nHost: gateway\r\nContent-Length: 3\r\n\r\na=1"


class Nobody:
    """Takes the parser's wish for a pause, as aiohttp's `BaseProtocol` does."""

    def pause_reading(self) -> None: ...

    def resume_reading(self, resume_parser: bool = True) -> None: ...  # aiohttp's signature


def test_a_plain_request_is_seen() -> None:
    assert glance(PLAIN) == Glance(b"/stripe/v1/charges?x=1", b"gateway", 0)
    assert glance(PLAIN[:-2]) == Glance(b"/stripe/v1/charges?x=1", b"gateway", 2)
    assert glance(b"GET /x/y HTTP/1.1\r\nhost:gateway:80\r\nConnection: keep-alive\r\n\r\n") == Glance(
        b"/x/y", b"gateway:80", 0
    )


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:-10],  # the head is not complete
        PLAIN + b"G",  # another one follows
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"POST", b"HEAD"),
        PLAIN.replace(b"POST", b"BREW"),
        PLAIN.replace(b" /stripe", b" http://x/stripe"),
        PLAIN.replace(b"Host", b"Hosts"),
        PLAIN.replace(b"Host: gateway\r\n", b"Host: gateway\r\nHost: other\r\n"),
        PLAIN.replace(b"Host: gateway\r\n", b"Host: gateway\r\nHost: two words\r\n"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\ncontent-length: 3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3, 3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: +3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length : 3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 9999999999"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: %d" % (MAX_SKIPPED_BYTES + 4)),
        PLAIN.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nConnection: close"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nConnection: keep-alive, upgrade"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nExpect: 100-continue"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nUpgrade: websocket"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\n folded: yes"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\nX: y"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nX: \x00"),
        b"\r\n" + PLAIN,
    ],
)
def test_anything_unusual_is_left_to_the_parser(data: bytes) -> None:
    assert glance(data) is None


_LINES = st.sampled_from(
    [
        b"Host: gateway",
        b"Host:",
        b"Content-Length: 3",
        b"Content-Length:3",
        b"content-length: 03",
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length:\t3 ",
        b"Transfer-Encoding: chunked",
        b"Connection: keep-alive",
        b"Connection: close",
        b"X-One: a b",
        b"X-One:",
        b" folded",
        b"no colon",
        b"X y: z",
        b"X\xff: z",
        b"X: \xff\x80",
        b"Expect: 100-continue",
    ]
)


@given(st.lists(_LINES, max_size=6), st.sampled_from([b"\r\n", b"\n"]), st.binary(max_size=6))
def test_what_the_glance_accepts_the_parser_reads_as_one_message_of_the_same_length(
    lines: list[bytes], end: bytes, body: bytes
) -> None:
    data = end.join([b"POST /stripe/v1/x HTTP/1.1", *lines, b"", b""]) + body
    seen = glance(data)
    if seen is None:
        return
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(Nobody(), loop, 2**16)  # type: ignore[arg-type]  # all that it asks of one
        messages, upgraded, tail = parser.feed_data(data + b"0" * seen.rest)
        ((message, payload),) = messages
        assert not upgraded
        assert tail == b""
        assert payload.is_eof()
        assert (message.path, message.headers["Host"]) == ("/stripe/v1/x", seen.host.decode())
        assert int(message.headers.get("Content-Length", "0")) == len(body) + seen.rest
        assert not message.should_close
    finally:
        loop.close()


def test_a_token_is_found_however_it_is_sent() -> None:
    basic = base64.b64encode(b"AC123:" + TOKEN)
    for line in (b"Authorization: Bearer " + TOKEN, b"x-api-key:" + TOKEN, b"AUTHORIZATION: Basic " + basic):
        assert token_in(b"GET /x HTTP/1.1\r\n" + line + b"\r\n\r\n") == TOKEN
    for line in (b"Authorization: Basic ===", b"Authorization: Basic YTpi", b"Authorization: Bearer sk_live_1"):
        assert token_in(b"GET /x HTTP/1.1\r\n" + line + b"\r\n\r\n") == b""
