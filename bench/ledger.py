"""The ledger: how fast it folds what nodes did, and how many asks for leases it decides.

By processor time of one core, everything included that the leader does with a message between the socket and its
state: decode, check, fold. What the server and the connection cost is not in it (a NATS request some 90 us).
"""

import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec
from support.ledger_desk import Desk, line

from bench.run import Run
from bench.stats import table
from events.codec import encode_batch
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import node_fence, node_log
from events.types import FenceOpened, NodeEvent, RequestAdmitted, RequestSettled
from schemas.accounts import line_key
from schemas.amounts import Amounts
from schemas.policy import Who
from schemas.rpc import LeaseAnswer, LeaseAsk

ROW = "ledger"
REQUESTS = 10_000
ROUNDS = 5
NODE = "n1-bench"
DAY_S = 1_763_596_800
AT_NS = DAY_S * 1_000_000_000
IN_FLIGHT = 256
"""Requests that are open at a time."""

ASKS = 4_000
ASKS_AT_ONCE = 64
AMPLE_USD = 10**15

LOADS = (
    # title, keys, capped accounts, events a message
    ("a key's daily cap, 100 events a message", 100, False, 100),
    ("the same, 4 events a message", 100, False, 4),
    ("caps on key, agent, team, organisation: 10 lines", 100, True, 100),
    ("the same, most keys for the first time that day", 10_000, True, 100),
)


def run(run: Run) -> list[str]:
    """Markdown lines: rates, the median of some rounds."""
    rows = []
    for title, keys, everywhere, at_once in LOADS:
        messages = log_of(keys, at_once, everywhere=everywhere)
        rates = [_rate(2 * REQUESTS, lambda messages=messages: _fold(messages)) for _ in range(ROUNDS)]  # type: ignore[misc]
        rate = run.add(ROW, f"fold {keys} keys, {at_once} a message{', all capped' * everywhere}", "events_s", rates)
        rows.append([title, f"{rate:,.0f}", f"{rate / 2:,.0f}"])
    lines = ["## The ledger", "", *table(["folding, one core", "events/s", "requests/s"], rows)]
    rows = []
    for title, accounts in (("one line", 1), ("four lines", 4)):
        rates = [_rate(ASKS, lambda accounts=accounts: _grant(accounts)) for _ in range(ROUNDS)]  # type: ignore[misc]
        rate = run.add(ROW, f"grants {accounts}", "asks_s", rates)
        rows.append([f"{title}, {ASKS_AT_ONCE} asks an append", f"{rate:,.0f}"])
    return [*lines, *table(["asks for leases, one core", "granted/s"], rows)]


def log_of(
    keys: int, at_once: int, *, everywhere: bool = False, requests: int = REQUESTS, at_ns: int = AT_NS
) -> list[Stored]:
    """A node's log: each request is settled IN_FLIGHT admissions after its own. `everywhere`: all its accounts have
    caps. `at_once`: events a message.
    """
    admitted = list(_admissions(keys, requests, at_ns, everywhere=everywhere))
    events: list[NodeEvent] = []
    for place, event in enumerate(admitted):
        events.append(event)
        if place >= IN_FLIGHT:
            events.append(_settled(admitted[place - IN_FLIGHT]))
    events += [_settled(event) for event in admitted[-IN_FLIGHT:]]
    opened = encode_batch("cp", 1, at_ns, [FenceOpened(NODE)])
    messages = [Stored(1, node_fence("n1", NODE), opened, at_ns)]
    for n, begin in enumerate(range(0, len(events), at_once), 1):
        payload = encode_batch(NODE, n, at_ns, events[begin : begin + at_once])
        messages.append(Stored(n + 1, node_log("n1", NODE), payload, at_ns))
    return messages


def _admissions(keys: int, requests: int, at_ns: int, *, everywhere: bool) -> Iterator[RequestAdmitted]:
    dice = Random(1)
    bound = Amounts(usd=700_000, requests=1, tokens=900)
    call = ("openai", "chat.completions.create", "POST", "/v1/chat/completions")
    for n in range(requests):
        key = dice.randrange(keys)
        who = Who(key=f"vk_{key:022}", agent=f"agent-{key % 50}", owner=f"team-{key % 10}")
        lines = [line_key("key", who.key, "usd", "day", DAY_S)]
        if everywhere:
            lines += [line_key("key", who.key, "usd", "month", DAY_S), line_key("key", who.key, "usd", "total", 0)]
            lines.append(line_key("key", who.key, "requests", "day", DAY_S))
            for kind, name in (("agent", who.agent), ("team", who.owner), ("org", "default")):
                lines += [line_key(kind, name, "usd", window, DAY_S) for window in ("day", "month")]
        request_id = f"req_{dice.getrandbits(128):032x}"
        yield RequestAdmitted(
            request_id, at_ns + n, who, *call, bound, tuple(lines), model="gpt-4o-mini", client="10.1.2.3", policy_seq=7
        )


def _settled(event: RequestAdmitted) -> RequestSettled:
    return RequestSettled(
        event.request_id, "settled", event.at_ns, Amounts(usd=350_000, requests=1, tokens=400), status=200,
        model="gpt-4o-mini-2024-07-18", input_tokens=100, output_tokens=300, latency_us=512_000, overhead_us=900,
    )  # fmt: skip


def _fold(messages: list[Stored]) -> None:
    replica = Replica()
    for message in messages:
        replica.apply_node(message)
    assert not replica.budget.open


def _grant(accounts: int) -> None:
    """Asks in, grants appended and folded, answers out."""
    names = [f"{kind}:{kind[0]}" for kind in ("key", "agent", "team")][:accounts] + ["org:default"] * (accounts > 3)
    desk = Desk(dict.fromkeys(names, AMPLE_USD))
    lines = {line(name): 700_000 for name in names}
    asks = [msgspec.json.encode(LeaseAsk(f"req_{n:032x}", f"n{n % 2 + 1}", lines)) for n in range(ASKS)]
    decoder = msgspec.json.Decoder(LeaseAsk)
    for begin in range(0, ASKS, ASKS_AT_ONCE):
        answers: list[LeaseAnswer] = []
        for ask in asks[begin : begin + ASKS_AT_ONCE]:
            assert desk.core.submit(decoder.decode(ask), desk.at) is None
        assert desk.core.look(desk.at).can_grant
        desk.control(*desk.core.grants(desk.at))
        answers += [answer for _, answer in desk.core.recorded(desk.at)]
        assert all(msgspec.json.encode(answer) for answer in answers)
        assert {answer.outcome for answer in answers} == {"granted"}


def _rate(count: int, work: Callable[[], object]) -> float:
    began_ns = time.thread_time_ns()
    work()
    return count / (time.thread_time_ns() - began_ns) * 1e9
