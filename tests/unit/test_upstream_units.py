"""The parts of the upstream client that need no network."""

import asyncio
import math
import socket
from typing import Any

import pytest

from dataplane.upstream import Origin, UpstreamSettings
from dataplane.upstream.connection import SLICE_BYTES, Connection
from dataplane.upstream.framing import read_framing
from dataplane.upstream.request import Request
from dataplane.upstream.resolver import Resolver, system_resolve
from dataplane.upstream.watchdog import Watchdog
from dataplane.upstream.wire import Wire

BAD_URLS = [
    "",
    "api.stripe.com",
    "ftp://api.stripe.com",
    "//api.stripe.com",
    "http://",
    "https:///v1",
    "http://:80",
    "http://user:hunter2@api.stripe.com",
    "http://hunter2@api.stripe.com",
    "http://a/?hunter2",
    "http://a/?",
    "http://a/#hunter2",
    "http://a:0",
    "http://a:65536",
    "http://a:hunter2",
    "http://a b/",
    "http://a/b c",
    "http://a\\b",
    "http://a/\\b",
    "http://a/\u00e9",
    "http://a\r\nHost: hunter2/",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_base_urls_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        Origin.parse(url)
    assert "hunter2" not in str(caught.value)


def test_names_beyond_ascii_and_capitals() -> None:
    assert Origin.parse("HTTPS://B\u00fccher.Example/")[0] == ("https", "xn--bcher-kva.example", 443)


@pytest.mark.parametrize(
    "bad",
    [
        {"connect_timeout_s": 0},
        {"idle_timeout_s": -1},
        {"keepalive_s": math.inf},
        {"total_timeout_s": math.nan},
        {"max_connections": 0},
        {"max_waiting": -1},
        {"max_header_bytes": 10},
        {"read_high_water_bytes": 0},
    ],
)
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        UpstreamSettings(**bad)


@pytest.mark.parametrize(
    ("value", "limit_s"),
    [
        (b"timeout=5", 4.0),
        (b"max=100, timeout=60", 59.0),
        (b'Timeout="7"', 6.0),
        (b"timeout=0", 0.0),
        (b"max=3", None),
        (b"timeout=", None),
        (b"timeout=-3", None),
        (b"timeout=99999999999999999999", None),
        (b"", None),
    ],
)
def test_keep_alive_hints(value: bytes, limit_s: float | None) -> None:
    framing = read_framing(200, "1.1", [(b"KEEP-ALIVE", value), (b"Content-Length", b"0")], head_only=False)
    assert not isinstance(framing, str)
    assert framing.keepalive_s == limit_s
    assert framing.keep_alive is (limit_s != 0)


# A connection over a transport that only takes notes.


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Notes(asyncio.Transport):
    """Takes `room` bytes at once, like a socket's buffer, and buffers the rest."""

    def __init__(self, log: list[str], room: int) -> None:
        super().__init__()
        self.log = log
        self.room = room
        self.buffered = 0
        self.sent = b""
        self.limits: list[tuple[int | None, int | None]] = []
        self.socket, self.other_end = socket.socketpair()
        self.protocol: Connection | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits.append((high, low))

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return "abort" in self.log or "close" in self.log

    def write(self, data: Any) -> None:
        self.log.append(f"write {len(data)}")
        self.sent += bytes(data)
        self.buffered = max(0, len(data) - self.room)
        if self.buffered and self.protocol is not None:
            self.protocol.pause_writing()

    def drain(self) -> None:
        self.buffered = 0
        assert self.protocol is not None
        self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def abort(self) -> None:
        self.log.append("abort")

    def close(self) -> None:
        self.log.append("close")


class Bench:
    """A connection with everything around it."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.log: list[str] = []
        self.clock = Clock()
        self.transport = Notes(self.log, room)
        settings = UpstreamSettings(read_high_water_bytes=100, keepalive_s=15)
        self.connection = Connection(self, "http://vendor.test:80", settings, self.clock, Watchdog(self.clock))
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    def put(self, connection: Connection) -> None:
        self.log.append("put")
        connection.kept = True

    def leave(self, connection: Connection) -> None:
        self.log.append("leave")

    def lost(self, connection: Connection) -> None:
        self.log.append("lost")

    def start(self, body: bytes = b"") -> Any:
        request = Request(b"HEAD", body, head_only=False)
        return self.connection.start(request, lambda: self.log.append("before_send"), self.clock(), self.clock() + 3600)

    def close(self) -> None:
        self.transport.socket.close()
        self.transport.other_end.close()


@pytest.fixture
async def bench() -> Any:
    bench = Bench()
    yield bench
    bench.close()


async def test_a_small_request_is_one_write_straight_after_before_send(bench: Bench) -> None:
    bench.start(b"body")
    assert bench.log == ["before_send", "write 8"]
    assert bench.transport.sent == b"HEADbody"


async def test_a_whole_exchange_touches_the_owner_once(bench: Bench) -> None:
    response = bench.start()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert response.take_buffered() == b"ok"
    assert bench.log == ["before_send", "write 4", "put"]
    assert bench.connection.usable(bench.clock())


async def test_a_large_body_goes_slice_by_slice_as_the_socket_takes_it() -> None:
    bench = Bench(room=SLICE_BYTES // 2)
    body = bytes(range(256)) * (SLICE_BYTES // 256 * 3) + b"tail"
    bench.start(body)
    writes = [f"write {SLICE_BYTES + 4}", f"write {SLICE_BYTES}", f"write {SLICE_BYTES}", "write 4"]
    for count in range(1, 5):
        assert bench.log == ["before_send", *writes[:count]], "one slice for each time the buffer is empty"
        bench.transport.drain()
    assert bench.transport.sent == b"HEAD" + body
    bench.close()


async def test_a_connection_with_unsent_bytes_is_not_usable(bench: Bench) -> None:
    assert bench.connection.usable(bench.clock())
    bench.transport.buffered = 1
    assert not bench.connection.usable(bench.clock())


async def test_each_progress_of_an_upload_renews_the_time_for_the_first_byte() -> None:
    bench = Bench(room=1)
    bench.start(b"x" * SLICE_BYTES * 3)
    assert bench.connection.deadline_s == 100 + 600
    bench.clock.now_s += 500
    bench.transport.drain()
    assert bench.connection.deadline_s == 600 + 600
    bench.close()


async def test_deadlines_follow_the_exchange(bench: Bench) -> None:
    connection, clock = bench.connection, bench.clock
    assert connection.deadline_s == 100 + 15
    response = bench.start()
    assert connection.deadline_s == 100 + 600
    clock.now_s = 200
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"x" * 50)
    assert connection.deadline_s == 200 + 300
    clock.now_s = 300
    connection.data_received(b"x" * 100)
    assert bench.log[-1] == "pause"
    assert connection.deadline_s == 100 + 3600, "only the total time runs while our reader lags"
    clock.now_s = 3000
    response.take_buffered()
    assert bench.log[-1] == "resume"
    assert connection.deadline_s == 3000 + 300
    clock.now_s = 3590
    connection.data_received(b"x" * 10)
    assert connection.deadline_s == 100 + 3600, "never beyond the total time"
    connection.data_received(b"x" * 140)
    assert connection.deadline_s == 3590 + 15


async def test_buffers_hold_one_slice_at_most(bench: Bench) -> None:
    assert bench.transport.limits == [(0, None)], "whatever the socket does not take pauses the upload"
    assert bench.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    over_tcp, tls = Notes([], 0), Notes([], 0)
    wire = Wire(tls, over_tcp)
    assert (over_tcp.limits, tls.limits) == ([(0, None)], [(1, 0)])
    assert wire.ready(kept=True)
    over_tcp.buffered = 1
    assert not wire.ready(kept=True), "what TLS has handed down counts as unsent"
    over_tcp.buffered = 0
    over_tcp.other_end.send(b"ticket")
    assert wire.ready(kept=False), "session tickets of a fresh connection are no reason"
    assert not wire.ready(kept=True)
    over_tcp.close()
    assert not wire.ready(kept=False)
    for notes in (over_tcp, tls):
        notes.socket.close()
        notes.other_end.close()


async def test_an_answer_that_ends_while_reading_is_paused_leaves_a_connection_that_reads(bench: Bench) -> None:
    """A TLS layer may still deliver what it had decrypted before the pause."""
    bench.start()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + b"x" * 150)
    bench.connection.data_received(b"x" * 50)
    assert bench.log[-3:] == ["pause", "resume", "put"]


async def test_a_long_upload_is_not_taken_for_an_idle_upstream() -> None:
    bench = Bench(room=1)
    bench.start(b"x" * SLICE_BYTES * 3)
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    assert bench.connection.deadline_s == 100 + 300
    bench.clock.now_s += 200
    bench.transport.drain()
    assert bench.connection.deadline_s == 300 + 300
    bench.close()


async def test_a_polite_close_that_takes_too_long_becomes_an_abort(bench: Bench) -> None:
    bench.connection.close()
    assert bench.log == ["close", "leave"]
    bench.connection.expire(bench.connection.deadline_s)
    assert bench.log == ["close", "leave", "abort"]
    assert bench.connection.deadline_s == math.inf


# The watchdog, the resolver.


class Member:
    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.expired: list[float] = []

    def expire(self, now_s: float) -> None:
        self.expired.append(now_s)
        self.deadline_s = math.inf


async def test_one_timer_for_all_and_only_the_late_ones_expire() -> None:
    clock = Clock()
    watchdog = Watchdog(clock)
    early, late, gone = Member(200.0), Member(300.0), Member(150.0)
    for member in (late, early, gone):
        watchdog.add(member)
    timer = watchdog._timer
    watchdog.watch(250.0)
    assert watchdog._timer is timer, "a later deadline costs nothing"
    watchdog.discard(gone)
    clock.now_s = 201.0
    watchdog._fire()
    assert (early.expired, late.expired, gone.expired) == ([201.0], [], [])
    assert watchdog._armed_s == 300.0
    clock.now_s = 301.0
    watchdog._fire()
    assert late.expired == [301.0]
    watchdog.stop()


async def test_address_families_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    infos = [(six, 1, 6, "", (f"::{i}", 80, 0, 0)) for i in range(3)] + [(four, 1, 6, "", ("1.2.3.4", 80))]

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return infos

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await system_resolve("vendor.test", 80) == ["::0", "1.2.3.4", "::1", "::2"]


async def test_the_address_that_answered_stays_first_after_the_next_lookup() -> None:
    clock = Clock()

    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]

    resolver = Resolver(30, clock, resolve)
    assert await resolver.addresses("vendor.test", 80) == ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
    resolver.prefer("vendor.test", 80, "10.0.0.3")
    expected = ("10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.4")
    assert await resolver.addresses("vendor.test", 80) == expected
    clock.now_s += 31
    assert await resolver.addresses("vendor.test", 80) == expected
    resolver.prefer("vendor.test", 80, "10.9.9.9")
    assert await resolver.addresses("vendor.test", 80) == expected


async def test_failed_lookups_are_not_remembered() -> None:
    answers: list[list[str]] = [[], ["10.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    resolver = Resolver(30, Clock(), resolve)
    with pytest.raises(OSError, match="no address"):
        await resolver.addresses("vendor.test", 80)
    assert await resolver.addresses("vendor.test", 80) == ("10.0.0.1",)
    assert await resolver.addresses("::1", 80) == ("::1",), "an address needs no lookup"
