"""HTTP at a control plane that stands by: reads are its own, everything else goes to the leader and back.

| call | who answers |
|---|---|
| probes, metrics, the API's description | this process |
| GET, while both logs are followed | this process, from its own fold |
| GET, while they are not; any other method | the leader; without one 503 `not_leading`, with `Retry-After` |
| one that was forwarded to here | this process, whoever leads: nothing is forwarded twice |

A forwarded request carries the leadership's word (controlplane.presence), which only control planes know. With it the
client's address in X-Forwarded-For counts; without it, or with an earlier leadership's, the request is refused.
The answer to a forwarded write names the log's sequence: it is passed on once this process has folded that far, so a
client reads here what it wrote through here.
"""

import asyncio
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from controlplane.api.answers import Answer, error_answer
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import refuse
from controlplane.presence import Presence

WORD = "X-Ringfence-Forwarded"
SEQUENCE = "X-Ringfence-Log-Sequence"

CONNECT_S = 1.0
SILENT_S = 30.0
"""Between two pieces of the leader's answer. Commands take at most ten seconds."""

LOOK_S = 0.2
"""While the leader has not answered, this often: is it still the leader?"""

CATCH_UP_S = 1.0
"""A fold that lags by more is no reason to keep the answer back."""

MAX_FORWARDED = 256
"""Requests on their way to the leader at a time; operators and their scripts are few."""

NOT_PASSED = frozenset(
    {
        "host", "content-length", "connection", "keep-alive", "proxy-connection", "proxy-authenticate",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "expect", "forwarded",
        "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", WORD.lower(), SEQUENCE.lower(),
    }
)  # fmt: skip
"""Headers of one hop, in either direction, and those that only control planes may say to each other."""

NOT_BACK = NOT_PASSED - {"content-length"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class Place(Protocol):
    """Which control plane this is among several (controlplane.seat)."""

    @property
    def elsewhere(self) -> Presence | None:
        """The leader, if it is another one and lives."""

    @property
    def here(self) -> Presence | None:
        """The leadership of this process, if it leads."""

    @property
    def sequence(self) -> int:
        """Control log folded."""

    def current(self) -> bool:
        """Whether reads may be answered here."""

    async def folded(self, sequence: int, timeout_s: float) -> bool:
        """Wait until the control log is folded that far."""


def forwarding_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """For the way to the leader: nothing is kept, followed, unpacked or taken from the environment.

    `tls`: whom to trust there, if the leader speaks HTTPS; None: whom the system trusts.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=SILENT_S)
    return aiohttp.ClientSession(
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=MAX_FORWARDED, ssl=tls if tls is not None else True),
    )


class Forwarder:
    """`public`: route templates that each process answers for itself."""

    def __init__(self, place: Place, session: aiohttp.ClientSession, public: Collection[str]) -> None:
        self._place = place
        self._session = session
        self._public = frozenset(public)

    async def handle(self, request: web.Request, template: str, handler: Handler) -> web.StreamResponse | Answer:
        """Answer here or there. `template` is the route's path, empty if there is none."""
        if template in self._public or not template:
            return await handler(request)
        if WORD in request.headers:
            return await self._answer_forwarded(request, handler)
        place = self._place
        if place.here is not None or (request.method == "GET" and place.current()):
            return await handler(request)
        leader = place.elsewhere
        if leader is None or not leader.url:
            return _unavailable("no control plane is known to lead now; nothing was done")
        return await self._forward(request, template, leader)

    async def _answer_forwarded(self, request: web.Request, handler: Handler) -> web.StreamResponse | Answer:
        here = self._place.here
        if here is None or not hmac.compare_digest(request.headers[WORD].encode(), here.word.encode()):
            return _unavailable("this control plane does not lead now; nothing was done")
        client = request.headers.get("X-Forwarded-For", "")
        response = await handler(request.clone(remote=client) if client else request)
        response.headers[SEQUENCE] = str(self._place.sequence)
        return response

    async def _forward(self, request: web.Request, template: str, leader: Presence) -> web.StreamResponse | Answer:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            return error_answer(refuse("body_too_large", error.text or "the body is too large"))
        headers = _passed(request.headers, NOT_PASSED)
        headers["X-Forwarded-For"] = request.remote or ""
        headers[WORD] = leader.word
        url = URL(leader.url.rstrip("/") + request.rel_url.raw_path_qs, encoded=True)
        calling = asyncio.ensure_future(
            self._session.request(request.method, url, data=body or None, headers=headers, allow_redirects=False)
        )
        try:
            answer = await self._while_it_leads(calling, leader)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.info("%s %s was not answered by %s: %s", request.method, template, leader.name, type(error).__name__)
            return _not_known(error)
        _log.info("%s %s %d, forwarded to %s", request.method, template, answer.status, leader.name)
        return await self._relay(request, answer)

    async def _while_it_leads(
        self, calling: "asyncio.Future[aiohttp.ClientResponse]", leader: Presence
    ) -> aiohttp.ClientResponse:
        """The answer's head. Raises TimeoutError once the leader is known to be another one, or silent."""
        try:
            while True:
                done, _ = await asyncio.wait({calling}, timeout=LOOK_S)
                if done:
                    return calling.result()
                now = self._place.elsewhere
                if now is None or now.epoch != leader.epoch:
                    raise TimeoutError
        finally:
            if not calling.done():
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass the answer on, piece by piece."""
        async with answer:
            if (sequence := answer.headers.get(SEQUENCE, "")).isdecimal():
                await self._place.folded(int(sequence), CATCH_UP_S)
            response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers, NOT_BACK))
            await response.prepare(request)
            try:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError):
                # The head is sent: only a broken connection can say that the rest is missing.
                if request.transport is not None:
                    request.transport.abort()
            return response


def _passed(headers: "CIMultiDict[str] | aiohttp.typedefs.LooseHeaders", dropped: Collection[str]) -> CIMultiDict[str]:
    sent: CIMultiDict[str] = CIMultiDict(headers)
    named = {name.strip().lower() for value in sent.getall("Connection", []) for name in value.split(",")}
    return CIMultiDict((name, value) for name, value in sent.items() if name.lower() not in {*dropped, *named})


def _unavailable(message: str) -> Answer:
    return _answer(refuse("not_leading", message))


def _not_known(error: Exception) -> Answer:
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unavailable("the leading control plane cannot be reached; nothing was done")
    return _unavailable("the leading control plane does not answer; the change may be recorded or not")


def _answer(refusal: CommandRefusal) -> Answer:
    return error_answer(refusal, {"Retry-After": "1"})
