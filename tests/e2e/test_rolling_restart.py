"""All workers are replaced under load: no request fails, no stream is cut, caps stay exact."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

import aiohttp
import pytest
from support.load import Answer, charge, connector
from support.stack import Stack, running_stack

WORKERS = 3
ROLL_S = 150.0
CAP_CENTS = 400


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("rolling") / "ringfence.yaml"
    config.write_text("timing: {idle_grace_ms: 1500}\n")
    arguments = ("--config", str(config))
    with running_stack(config.parent / "data", workers=WORKERS, arguments=arguments) as running:
        yield running


class Clients:
    """Keep-alive connections, busy and slow ones, fresh connections, and streams, until `over`."""

    def __init__(self, stack: Stack, token: str, chat_token: str) -> None:
        self._stack = stack
        self._token = token
        self._chat_token = chat_token
        self.over = asyncio.Event()
        self.charges: list[Answer] = []
        self.streams: list[str] = []
        self._sessions = [
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)),
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=connector()),
        ]

    async def run(self) -> None:
        keep_alive, fresh = self._sessions
        tasks = [self._charge(keep_alive, pause_s) for pause_s in (0.02,) * 6 + (0.5, 0.5, 2.0, 6.0)]
        tasks += [self._charge(fresh, 0.05) for _ in range(4)]
        tasks += [self._stream(keep_alive) for _ in range(4)]
        await asyncio.gather(*tasks)
        for session in self._sessions:
            await session.close()

    async def _charge(self, session: aiohttp.ClientSession, pause_s: float) -> None:
        while not self.over.is_set():
            self.charges.append(await charge(session, self._stack.stripe, self._token, 1))
            await asyncio.sleep(pause_s)

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        body = {
            "model": "gpt-4o-mini", "messages": [{"role": "user", "content": "tell me a long story"}],
            "stream": True, "max_tokens": 60,
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self._chat_token}"}
        while not self.over.is_set():
            try:
                async with session.post(f"{self._stack.openai}/chat/completions", json=body, headers=headers) as answer:
                    text = (await answer.read()).decode()
                    whole = answer.status == 200 and text.rstrip().endswith("data: [DONE]")
                    self.streams.append("whole" if whole else f"{answer.status} {text[-200:]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.streams.append(repr(error))


def restarted(stack: Stack) -> int:
    return (stack.data_dir / "up.log").read_text().count("all proxies were restarted")


async def roll(stack: Stack) -> None:
    done = restarted(stack)
    os.kill(stack.process.pid, signal.SIGUSR2)
    deadline = time.monotonic() + ROLL_S
    while restarted(stack) == done:
        assert time.monotonic() < deadline, (stack.data_dir / "up.log").read_text()[-2000:]
        await asyncio.sleep(0.1)


async def test_all_workers_are_replaced_and_nobody_notices(
    rolling: Stack, record_property: Callable[[str, object], None]
) -> None:
    key = rolling.issue(vendor="stripe", agent="steady", total_usd_cap="1000.00")
    chat = rolling.issue(vendor="openai", agent="talker", total_usd_cap="50.00")
    tight = rolling.issue(vendor="stripe", agent="tight", total_usd_cap=f"{CAP_CENTS / 100:.2f}")
    rolling.faults({"fault": {"chunk_ms": 60}, "vendor": "openai"})
    before = rolling.worker_pids()
    clients = Clients(rolling, key["token"], chat["token"])
    running = asyncio.create_task(clients.run())
    await asyncio.sleep(1.0)
    capped = asyncio.create_task(spend_all(rolling, tight["token"]))
    await roll(rolling)
    clients.over.set()
    await running
    answers = await capped
    after = rolling.worker_pids()
    assert len(after) == len(before) == WORKERS
    assert not set(after.values()) & set(before.values())

    failed = [answer for answer in clients.charges if answer.status != 200]
    cut = [stream for stream in clients.streams if stream != "whole"]
    record_property("charges", len(clients.charges))
    record_property("streams", len(clients.streams))
    assert not failed, [(answer.status, answer.refusal, answer.body[-200:]) for answer in failed[:5]]
    assert not cut, cut[:3]
    assert len(clients.streams) > WORKERS
    assert {answer.status for answer in answers} <= {200, 402}
    assert sum(answer.status == 200 for answer in answers) == CAP_CENTS
    await asyncio.to_thread(check_books, rolling, key["id"], len(clients.charges))


async def spend_all(stack: Stack, token: str) -> list[Answer]:
    """One cent after another, until well after the cap."""
    answers: list[Answer] = []
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector(8), timeout=timeout) as session:
        while sum(answer.status == 402 for answer in answers) < 20:
            answers += await asyncio.gather(*(charge(session, stack.stripe, token, 1) for _ in range(6)))
            await asyncio.sleep(0.1)
    return answers


def check_books(stack: Stack, key_id: str, charges: int) -> None:
    rows = stack.settled_requests(charges, key=key_id)
    assert [row["outcome"] for row in rows].count("settled") == len(rows) == charges
    assert sum(Decimal(row["actual_usd"]) for row in rows) * 100 == charges
