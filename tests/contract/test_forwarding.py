"""HTTP at a control plane that stands by: reads here, writes at the leader, never twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from support.control_api import SETTINGS
from support.control_fakes import Clock, FakeAudit, FakeLeader

from controlplane.api.app import build_api
from controlplane.api.forward import SEQUENCE, WORD, forwarding_session
from controlplane.commands import operators
from controlplane.presence import Presence
from schemas.api import OperatorIssue

SECRET = "word-of-this-leadership"


class FakePlace:
    """Where this control plane stands, as a test says."""

    def __init__(self, leader: FakeLeader) -> None:
        self.leader = leader
        self.here: Presence | None = None
        self.elsewhere: Presence | None = None
        self.follows = True
        self.waited: list[int] = []

    @property
    def sequence(self) -> int:
        return self.leader.state.seq

    def current(self) -> bool:
        return self.follows

    async def folded(self, sequence: int, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        self.waited.append(sequence)
        return True


class Server:
    """One control plane's API."""

    def __init__(self, name: str, session: aiohttp.ClientSession) -> None:
        clock = Clock()
        self.leader = FakeLeader(clock)
        self.place = FakePlace(self.leader)
        self.token = self.leader.run(operators.issue(OperatorIssue(name=name, role="admin"))).token
        app = build_api(
            self.leader, FakeAudit(), SETTINGS, now_ns=clock, elapsed_ns=clock, place=self.place, session=session,
            role=lambda: "leader" if self.place.here else "standby",
        )  # fmt: skip
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        self.url = ""

    async def start(self) -> None:
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"


class Pair:
    """`leader` leads, `standby` knows it. The leader's token is used; at the standby it is not known."""

    def __init__(self, leader: Server, standby: Server, client: aiohttp.ClientSession) -> None:
        self.leader, self.standby, self.client = leader, standby, client
        leader.place.here = Presence(7, "cp-a", leader.url, SECRET)
        standby.place.elsewhere = leader.place.here

    async def __call__(
        self, method: str, path: str, at: Server | None = None, **more: object
    ) -> tuple[int, dict, object]:
        headers = {"Authorization": f"Bearer {self.leader.token}", **more.pop("headers", {})}  # type: ignore[dict-item]
        url = (at or self.standby).url + path
        async with self.client.request(method, url, headers=headers, **more) as answer:  # type: ignore[arg-type]
            body = await answer.json() if answer.content_type == "application/json" else await answer.text()
            return answer.status, dict(answer.headers), body


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with forwarding_session() as session, aiohttp.ClientSession() as client:
        servers = Server("a", session), Server("b", session)
        try:
            for server in servers:
                await server.start()
            yield Pair(*servers, client)
        finally:
            for server in servers:
                await server.runner.cleanup()


KEY = {"agent": "bot", "vendor": "stripe", "daily_usd_cap": "5.00"}


async def test_a_write_is_the_leaders_and_its_answer_comes_back_whole() -> None:
    async with pair() as call:
        headers = {"Idempotency-Key": "k1"}
        status, said, issued = await call("POST", "/v1/keys", json=KEY, headers=headers)
        assert status == 201
        assert issued["token"]
        assert issued["id"] in call.leader.leader.state.keys
        assert call.standby.leader.state.keys == {}
        assert SEQUENCE not in said
        assert said["Cache-Control"] == "no-store"
        # The answer waits until what was written can be read here.
        assert call.standby.place.waited == [call.leader.leader.state.seq]
        _, said, again = await call("POST", "/v1/keys", json=KEY, headers=headers)
        assert again == issued
        assert said["Idempotent-Replayed"] == "true"
        status, _, body = await call("DELETE", f"/v1/keys/{issued['id']}?reason=over%20there")
        assert (status, body) == (204, "")
        assert call.leader.leader.log[-1].by.reason == "over there"


async def test_refusals_come_back_as_they_are() -> None:
    async with pair() as call:
        status, said, body = await call("POST", "/v1/keys", json={"agent": "bot"})
        assert (status, body["error"]["code"]) == (400, "cap_required")
        assert said["Content-Type"].startswith("application/json")
        status, said, body = await call("POST", "/v1/keys", json=KEY, headers={"Authorization": "Bearer rfo_wrong"})
        assert (status, body["error"]["code"]) == (401, "unauthorized")
        assert "Bearer" in said["WWW-Authenticate"]


async def test_the_clients_address_counts_only_from_a_control_plane() -> None:
    async with pair() as call:
        forged = {"X-Forwarded-For": "203.0.113.9"}
        await call("POST", "/v1/keys", json=KEY, headers=forged)
        assert call.leader.leader.log[-1].by.address == "127.0.0.1"
        await call("POST", "/v1/keys", at=call.leader, json=KEY, headers=forged)
        assert call.leader.leader.log[-1].by.address == "127.0.0.1"
        await call("POST", "/v1/keys", at=call.leader, json=KEY, headers={**forged, WORD: SECRET})
        assert call.leader.leader.log[-1].by.address == "203.0.113.9"


@pytest.mark.parametrize("word", ["", "wrong", SECRET + "x", "ü"])
async def test_a_wrong_word_is_refused_and_goes_nowhere(word: str) -> None:
    async with pair() as call:
        for server in (call.leader, call.standby):
            before = len(call.leader.leader.log)
            status, said, body = await call("POST", "/v1/keys", at=server, json=KEY, headers={WORD: word})
            assert (status, body["error"]["code"], said["Retry-After"]) == (503, "not_leading", "1")
            assert len(call.leader.leader.log) == before


async def test_two_that_take_each_other_for_the_leader_do_not_play_ball() -> None:
    async with pair() as call:
        call.leader.place.here = None
        call.leader.place.elsewhere = Presence(7, "cp-b", call.standby.url, SECRET)
        status, said, body = await call("POST", "/v1/keys", json=KEY)
        assert (status, body["error"]["code"], said["Retry-After"]) == (503, "not_leading", "1")
        assert "nothing was done" in body["error"]["message"]


async def test_without_a_leader_writes_say_so_and_reads_go_on() -> None:
    async with pair() as call:
        call.standby.place.elsewhere = None
        status, said, body = await call("DELETE", "/v1/keys/vk_1")
        assert (status, body["error"]["code"], said["Retry-After"]) == (503, "not_leading", "1")
        assert "nothing was done" in body["error"]["message"]
        mine = {"Authorization": f"Bearer {call.standby.token}"}
        status, _, body = await call("GET", "/v1/keys", headers=mine)
        assert (status, body["data"]) == (200, [])


async def test_reads_are_answered_here_while_the_logs_are_followed_and_there_while_they_are_not() -> None:
    async with pair() as call:
        for follows, name in ((True, "b"), (False, "a")):
            call.standby.place.follows = follows
            status, _, body = await call("GET", "/v1/operators?limit=5")
            assert status == 200
            assert [row["name"] for row in body["data"]] == [name]
        call.standby.place.elsewhere = None
        assert (await call("GET", "/v1/operators"))[0] == 503


async def test_probes_and_the_description_are_each_process_s_own() -> None:
    async with pair() as call:
        call.standby.place.follows = False
        call.standby.place.elsewhere = Presence(7, "cp-a", "http://127.0.0.1:1", SECRET)
        assert (await call("GET", "/healthz"))[0] == 200
        status, _, body = await call("GET", "/readyz")
        assert (status, body["role"]) == (200, "standby")
        assert (await call("GET", "/metrics"))[0] == 200
        assert (await call("GET", "/openapi.json"))[0] == 200
        assert (await call("POST", "/nowhere"))[0] == 404
        assert (await call("PUT", "/v1/keys"))[0] == 405


async def test_a_leader_that_cannot_be_reached() -> None:
    async with pair() as call:
        await call.leader.runner.cleanup()
        status, said, body = await call("POST", "/v1/keys", json=KEY)
        assert (status, body["error"]["code"], said["Retry-After"]) == (503, "not_leading", "1")
        assert "nothing was done" in body["error"]["message"]


async def test_a_leader_that_is_silent_is_given_up_when_it_is_known_to_be() -> None:
    """As under SIGSTOP: the kernel accepts, and nobody answers."""

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with pair() as call:
        port = server.sockets[0].getsockname()[1]
        call.standby.place.elsewhere = Presence(7, "cp-a", f"http://127.0.0.1:{port}", SECRET)
        asked = asyncio.create_task(call("POST", "/v1/keys", json=KEY))
        await asyncio.sleep(0.3)
        assert not asked.done()
        call.standby.place.elsewhere = None
        status, _, body = await asked
        assert (status, body["error"]["code"]) == (503, "not_leading")
        assert "may be recorded or not" in body["error"]["message"]
        over.set()
    server.close()


async def test_an_answer_that_breaks_off_breaks_off_here_too() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    async with pair() as call:
        port = server.sockets[0].getsockname()[1]
        call.standby.place.elsewhere = Presence(7, "cp-a", f"http://127.0.0.1:{port}", SECRET)
        with pytest.raises(aiohttp.ClientError):
            await call("POST", "/v1/keys", json=KEY)
    server.close()


async def test_a_body_that_is_too_large_stays_here() -> None:
    async with pair() as call:
        status, _, body = await call("POST", "/v1/keys", data=b"x" * (200 * 1024))
        assert (status, body["error"]["code"]) == (413, "body_too_large")
