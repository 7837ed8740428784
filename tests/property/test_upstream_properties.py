"""Reading does not depend on how bytes are cut; writing never makes more than the one request that was meant."""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.upstream import RESERVED_HEADERS, Origin, RequestInvalid, UpstreamError
from dataplane.upstream.framing import Framing
from dataplane.upstream.parse import ResponseParser
from dataplane.upstream.request import encode_request

TOKEN = st.text(alphabet="abcXYZ019-_", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b == 9 or 0x20 <= b != 0x7F).strip(b" \t"))
SAFE_NAME = TOKEN.filter(lambda name: name.lower() not in RESERVED_HEADERS | {b"keep-alive"})

UNHURRIED = settings(deadline=None)  # nothing here is about speed


class Taken:
    """What a parser hands over."""

    def __init__(self) -> None:
        self.head: tuple[int, bytes, tuple[tuple[bytes, bytes], ...], tuple[object, ...]] | None = None
        self.body = b""

    def take_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], framing: Framing) -> None:
        assert self.head is None, "one head for one answer"
        ends = (framing.length, framing.bodiless, framing.until_close, framing.keep_alive, framing.keepalive_s)
        self.head = (status, reason, tuple(headers), ends)

    def take_body(self, data: bytes) -> None:
        assert self.head is not None
        assert data
        self.body += data


@st.composite
def answers(draw: Callable[..., object]) -> tuple[bytes, int, bytes]:
    """(bytes on the wire, status, body) of a well-formed answer that keeps its connection."""
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 402, 429, 503]))
    assert isinstance(status, int)
    headers = draw(st.lists(st.tuples(SAFE_NAME, VALUE), max_size=4))
    assert isinstance(headers, list)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hint\r\nLink: x\r\n\r\n"]))
    assert isinstance(interim, bytes)
    head = interim + b"HTTP/1.1 %d Why\r\n" % status + b"".join(b"%b: %b\r\n" % pair for pair in headers)
    if status in {204, 304}:
        return head + b"\r\n", status, b""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    assert isinstance(chunks, list)
    body = b"".join(chunks)
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), status, body
    extension = draw(st.sampled_from([b"", b";e=1"]))
    assert isinstance(extension, bytes)
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"X-T: 1\r\n"]))
    assert isinstance(trailer, bytes)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n" + trailer + b"\r\n", status, body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


@UNHURRIED
@given(st.lists(st.tuples(answers(), st.lists(st.integers(0, 10_000), max_size=8)), min_size=1, max_size=4))
def test_any_answers_in_any_pieces(exchanges: list[tuple[tuple[bytes, int, bytes], list[int]]]) -> None:
    parser = ResponseParser(64 * 1024)
    for (wire, status, body), places in exchanges:
        taken = Taken()
        parser.begin(taken, head_only=False)
        for piece in cut(wire, places):
            assert not parser.done, "complete with the last byte, not before"
            parser.feed(piece)
        assert parser.done
        assert parser.reusable
        assert taken.head is not None
        assert (taken.head[0], taken.body) == (status, body)
        whole = Taken()
        once = ResponseParser(64 * 1024)
        once.begin(whole, head_only=False)
        once.feed(wire)
        assert (whole.head, whole.body) == (taken.head, taken.body)


@UNHURRIED
@given(st.lists(st.tuples(answers(), st.lists(st.integers(0, 10_000), max_size=8)), min_size=1, max_size=3))
def test_heads_alone_in_any_pieces(exchanges: list[tuple[tuple[bytes, int, bytes], list[int]]]) -> None:
    parser = ResponseParser(64 * 1024)
    for (wire, status, _), places in exchanges:
        final = wire.index(b"HTTP/1.1 %d Why" % status)
        head = wire[: wire.index(b"\r\n\r\n", final) + 4]
        taken = Taken()
        parser.begin(taken, head_only=True)
        for piece in cut(head, places):
            parser.feed(piece)
        assert parser.done
        assert parser.reusable
        assert taken.head is not None
        assert (taken.head[0], taken.body) == (status, b"")


@UNHURRIED
@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=4), st.booleans(), st.booleans())
def test_noise_is_refused_or_waited_for(noise: bytes, places: list[int], prefixed: bool, head_only: bool) -> None:
    """Whatever comes, the only exceptions are ours, and what is delivered was on the wire."""
    wire = b"HTTP/1.1 200 OK\r\n" + noise if prefixed else noise
    parser, taken = ResponseParser(4096), Taken()
    parser.begin(taken, head_only=head_only)
    with suppress(UpstreamError):
        for piece in cut(wire, places):
            parser.feed(piece)
    assert len(taken.body) <= len(wire)


@UNHURRIED
@given(answers(), st.binary(min_size=1, max_size=30).filter(lambda raw: raw.strip(b"\r\n")))
def test_bytes_after_the_end_never_reach_anybody(answer: tuple[bytes, int, bytes], stray: bytes) -> None:
    wire, status, body = answer
    parser, taken = ResponseParser(64 * 1024), Taken()
    parser.begin(taken, head_only=False)
    parser.feed(wire + stray)
    assert parser.done
    assert not parser.reusable
    assert taken.head is not None
    assert (taken.head[0], taken.body) == (status, body)


class Server:
    """What a strict server makes of the bytes."""

    def __init__(self) -> None:
        self.requests = 0
        self.complete = 0
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_message_begin(self) -> None:
        self.requests += 1

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


HOSTILE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"a\r\nHost: evil",
            b"x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\n",
            b"a: b",
            b"a\x00",
            b"Content-Length",
            b"TE",
            b" x",
        ]
    ),
)


@UNHURRIED
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    target=st.one_of(HOSTILE, HOSTILE.map(lambda raw: b"/" + raw), st.just(b"/v1/x?y=z")),
    headers=st.lists(st.tuples(st.one_of(TOKEN, HOSTILE), st.one_of(VALUE, HOSTILE)), max_size=4),
    body=st.binary(max_size=30),
)
def test_a_request_is_refused_or_is_exactly_the_one_meant(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    try:
        request = encode_request(method, b"vendor.test", target, headers, body)
    except RequestInvalid:
        return
    server = Server()
    parser = httptools.HttpRequestParser(server)
    parser.feed_data(request.head + request.body)
    assert (server.requests, server.complete) == (1, 1)
    assert (parser.get_method(), server.target, server.body) == (method.encode(), target, body)
    own = [(b"Content-Length", b"%d" % len(body))] if body or method in {"POST", "PUT", "PATCH"} else []
    seen = [(name, value.strip(b" \t")) for name, value in server.headers]
    assert seen == [(b"Host", b"vendor.test"), *((name, value.strip(b" \t")) for name, value in headers), *own]


@UNHURRIED
@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["api.stripe.com", "localhost", "127.0.0.1", "[::1]", "a-b_c.internal"]),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.sampled_from(["", "/", "/v1", "/v1/", "/a/b%20c"]),
)
def test_origins(scheme: str, host: str, port: int | None, path: str) -> None:
    origin, prefix = Origin.parse(f"{scheme}://{host}{'' if port is None else f':{port}'}{path}")
    default = 80 if scheme == "http" else 443
    assert origin == (scheme, host.strip("[]"), port or default)
    assert prefix == path.rstrip("/")
    shown = host if origin.port == default else f"{host}:{origin.port}"
    assert origin.authority == shown.encode()
    assert Origin.parse(str(origin)) == (origin, "")
