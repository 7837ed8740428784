"""Slot n2's credential in the wrong hands, against the whole product: a leader, node n1, a real nats-server.

The thief has a bare client: it joins, and writes whatever it likes into its slot's logs. Each test is one way to reach
for what is n1's or the control plane's. Afterwards n1 still holds what it held, spends what it may, and not more.
(What the server itself refuses is in test_nats_isolation.py; what the fold makes of arbitrary bytes in
tests/property/test_stolen_slot.py.)
"""

import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client
from support.full_log import Product, until
from support.nats_server import RunningNats, running_nats

from controlplane.checkpoints import MemoryCheckpoints, restore
from controlplane.following import Following, Logs
from controlplane.leader import lead
from dataplane.governor import Admission
from events.codec import encode_batch
from events.messaging.clock import SystemClock
from events.subjects import node_log, rpc
from events.types import (
    SYSTEM,
    BudgetSet,
    Event,
    Fenced,
    KeyRevoked,
    LeaseGranted,
    RequestAdmitted,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import AccountCaps, Cap, line_key, window_start_s
from schemas.amounts import Amounts
from schemas.policy import Who
from schemas.refusals import Refusal
from schemas.rpc import JoinAnswer, JoinAsk, LeaseAsk, RatesAsk, RpcError
from schemas.settings import Timing

CAP = 100
KEY = "vk_capped"


class Thief:
    """Slot n2, by hand."""

    def __init__(self, client: Client, product: Product) -> None:
        self.client = client
        self.product = product
        self.incarnation = ""
        self._n = 0

    async def join(self) -> None:
        answer = await self.ask("join", JoinAsk("stolen"))
        self.incarnation = msgspec.json.decode(answer, type=JoinAnswer).incarnation
        living = self.product.leader.replica.nodes.living
        await until(lambda: self.incarnation in living)

    async def ask(self, method: str, asked: msgspec.Struct) -> bytes:
        return (await self.client.request(rpc("n2", method), msgspec.json.encode(asked), timeout=10.0)).data

    async def write(self, *events: Event) -> None:
        """The next batch of its own log, as a node would."""
        self._n += 1
        await self.append(node_log("n2", self.incarnation), encode_batch(self.incarnation, self._n, 1, events))

    async def append(self, subject: str, payload: bytes) -> None:
        """Returns once the leader has folded it."""
        answer = json.loads((await self.client.request(subject, payload, timeout=10.0)).data)
        await until(lambda: self.product.leader.replica.nodes.seq >= answer["seq"])


@pytest.fixture
async def product(tmp_path: Path) -> AsyncIterator[tuple[Product, RunningNats]]:
    async with running_nats(tmp_path, slots=("n1", "n2")) as server:
        logs = Logs(*(await server.streams()))
        clock, checkpoints = SystemClock(), MemoryCheckpoints()
        following = Following(logs, await restore(checkpoints, *logs), checkpoints, clock)
        leader = await lead(logs, following, (await server.connect()).bus, clock, os.urandom, Timing())
        connection = await server.connect("n1")
        product = Product(leader, connection.bus, connection.appender, clock)
        try:
            await product.governor.start()
            await product.issue(KEY, CAP)
            await until(lambda: product.governor.ready)
            yield product, server
        finally:
            await product.governor.close()
            await leader.close()


@pytest.fixture
async def thief(product: tuple[Product, RunningNats]) -> AsyncIterator[Thief]:
    found, server = product
    stolen = server.credentials("n2")
    client = await nats.connect(
        server.url, user=stolen.user, password=stolen.password, inbox_prefix=stolen.inbox_prefix
    )
    thief = Thief(client, found)
    await thief.join()
    yield thief
    await client.close()


@pytest.fixture
async def held(thief: Thief) -> Admission:
    """A request of n1's that is out, and holds 40 of 100."""
    return await thief.product.dispatched(KEY, 40)


def figure(product: Product) -> tuple[int, int]:
    """(settled, held) of the key today."""
    return product.leader.budget.figure("key", KEY, "usd", "day", product.clock.wall_ns(), "UTC")


async def n1_is_as_before(thief: Thief, held: Admission) -> None:
    """It holds its 40, gets another 60, not one more, and settles."""
    product = thief.product
    await until(lambda: figure(product) == (0, 40))
    rest = await product.dispatched(KEY, 60)
    refusal = await product.admit(KEY, 1)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "cap_exhausted"
    product.settle(held, 40)
    product.settle(rest, 60)
    await until(lambda: figure(product) == (100, 0))
    assert product.governor.node.incarnation is held.incarnation, "it was never fenced"
    assert not product.leader.ended.done()


def ends(request_id: str) -> Sequence[Event]:
    settled = RequestSettled(request_id, "settled", 1, Amounts(usd=0, requests=1))
    return RequestReleased(request_id, "never sent", 1), settled, RequestSettled(request_id, "unknown", 1)


async def test_it_ends_no_request_of_another_node(thief: Thief, held: Admission) -> None:
    await thief.write(*ends(held.request_id))
    await n1_is_as_before(thief, held)


async def test_it_writes_nothing_in_another_nodes_name(thief: Thief, held: Admission) -> None:
    living = thief.product.leader.replica.nodes.living
    name = next(name for name, log in living.items() if log.slot == "n1")
    for n in range(1, 10):
        payload = encode_batch(name, living[name].n + n, 1, ends(held.request_id))
        await thief.append(node_log("n2", name), payload)
    await thief.write(*ends(held.request_id))
    await n1_is_as_before(thief, held)


async def test_it_fences_nobody(thief: Thief, held: Admission) -> None:
    living = thief.product.leader.replica.nodes.living
    name = next(name for name, log in living.items() if log.slot == "n1")
    await thief.write(Fenced(name, "silent"))
    await n1_is_as_before(thief, held)
    assert name in living


def controlled(thief: Thief) -> list[Event]:
    clock = thief.product.clock
    line = line_key("key", KEY, "usd", "day", window_start_s("day", clock.wall_ns()))
    return [
        BudgetSet(AccountCaps("key", KEY, (Cap("usd", "day", 10**9),)), SYSTEM),
        LeaseGranted(thief.incarnation, {line: 10**9}),
        KeyRevoked(KEY, SYSTEM),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["cap", "lease", "revocation"])
async def test_it_changes_nothing_that_the_control_plane_decides(thief: Thief, held: Admission, which: int) -> None:
    await thief.write(controlled(thief)[which])
    await n1_is_as_before(thief, held)


async def test_it_gives_nobody_money_back(thief: Thief, held: Admission) -> None:
    who = Who(key=KEY, agent="bot")
    now_ns = thief.product.clock.wall_ns()
    negative = RequestAdmitted("req_thief", now_ns, who, "stripe", "x", "POST", "/", Amounts(usd=-500, requests=1))
    await thief.write(negative)
    await n1_is_as_before(thief, held)


@pytest.mark.parametrize("payload", [b"\x00garbage", b'{"v":1}', b""], ids=["bytes", "json", "nothing"])
async def test_it_stops_nobody_with_bytes_that_cannot_be_read(thief: Thief, held: Admission, payload: bytes) -> None:
    await thief.append(node_log("n2", thief.incarnation), payload)
    living = thief.product.leader.replica.nodes.living
    await until(lambda: thief.incarnation not in living)
    nodes = thief.product.leader.replica.state.nodes
    await until(lambda: nodes[thief.incarnation].fence_reason == "log broken")
    await n1_is_as_before(thief, held)


async def test_it_asks_for_nothing_in_another_nodes_name(thief: Thief, held: Admission) -> None:
    living = thief.product.leader.replica.nodes.living
    name = next(name for name, log in living.items() if log.slot == "n1")
    line = line_key("key", KEY, "usd", "day", window_start_s("day", thief.product.clock.wall_ns()))
    for method, asked in (("ask", LeaseAsk("a1", name, {line: 60})), ("rates", RatesAsk(name, "h", 1))):
        refused = msgspec.json.decode(await thief.ask(method, asked), type=RpcError)
        assert (refused.code, refused.message) == ("bad_request", "the incarnation is another slot's")
    await n1_is_as_before(thief, held)
