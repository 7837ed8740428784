"""Bounded load on a gateway, over many connections, so that the kernel spreads it over the workers."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp


@dataclass
class Answer:
    """What came back: HTTP status (0: none), our refusal code, and when the call began and ended (monotonic s)."""

    status: int
    refusal: str
    began_s: float
    ended_s: float
    body: bytes = b""
    request_id: str = ""


@dataclass
class Load:
    """Answers as they come."""

    answers: list[Answer] = field(default_factory=list)

    def by_outcome(self) -> Counter[str]:
        return Counter(answer.refusal or str(answer.status) for answer in self.answers)


def connector(connections: int = 200) -> aiohttp.TCPConnector:
    """A connection a call: SO_REUSEPORT spreads connections, not requests."""
    return aiohttp.TCPConnector(limit=connections, force_close=True)


async def charge(session: aiohttp.ClientSession, url: str, token: str, cents: int, marker: str = "") -> Answer:
    """One confirmed PaymentIntent, as Stripe's SDK sends it."""
    form = {"amount": str(cents), "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
    headers = {"Authorization": f"Bearer {token}", **({"X-Demo-Marker": marker} if marker else {})}
    return await post(session, f"{url}/v1/payment_intents", headers, data=form)


async def post(session: aiohttp.ClientSession, url: str, headers: dict[str, str], **body: Any) -> Answer:
    began = time.monotonic()
    try:
        async with session.post(url, headers=headers, **body) as answer:
            text = await answer.read()
            refusal = answer.headers.get("X-Ringfence-Refusal", "")
            request_id = answer.headers.get("X-Ringfence-Request-Id", "")
            return Answer(answer.status, refusal, began, time.monotonic(), text, request_id)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Answer(0, "", began, time.monotonic())


async def charges_at_once(url: str, token: str, cents: int, count: int) -> Load:
    """`count` charges, all under way together."""
    async with aiohttp.ClientSession(connector=connector(count), timeout=aiohttp.ClientTimeout(total=60)) as session:
        answers = await asyncio.gather(*(charge(session, url, token, cents) for _ in range(count)))
    return Load(list(answers))


class Chargers:
    """Clients that charge one after another until told to stop."""

    def __init__(
        self, url: str, token: str, *, clients: int, cents: int = 1, most: int = 20_000, pause_s: float = 0.0
    ) -> None:
        self._url, self._token, self._cents = url, token, cents
        self._clients = clients
        self._pause_s = pause_s
        self._left = most
        self.load = Load()
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=30)
        self._session = aiohttp.ClientSession(connector=connector(self._clients), timeout=timeout)
        self._tasks = [asyncio.create_task(self._charge()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)
        await self._session.close()

    async def _charge(self) -> None:
        while not self._stopped.is_set() and self._left > 0:
            self._left -= 1
            self.load.answers.append(await charge(self._session, self._url, self._token, self._cents))
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
