"""How fast the ledger folds a node log: admissions and settlements, already decoded, and with decoding."""

import time
from collections.abc import Callable

from bench.run import Run
from events.codec import decode_batch, encode_batch
from events.state.budget import Budget
from events.types import NodeEvent, RequestAdmitted, RequestSettled
from schemas.amounts import Amounts
from schemas.policy import Who

ROW = "ledger"
REQUESTS = 20_000
EVENTS_A_BATCH = 100
ROUNDS = 5


def run(run: Run) -> list[str]:
    """Markdown lines: events a second, the median of some rounds."""
    events = _events()
    batches = [
        encode_batch("n1-a", n, 1, events[at : at + EVENTS_A_BATCH])
        for n, at in enumerate(range(0, len(events), EVENTS_A_BATCH), 1)
    ]
    folded = run.add(ROW, "fold", "events_s", [_rate(events, lambda: _fold(events)) for _ in range(ROUNDS)])
    decodings = [_rate(events, lambda: [decode_batch(batch) for batch in batches]) for _ in range(ROUNDS)]
    decoded = run.add(ROW, "decode", "events_s", decodings)
    return [
        "## The ledger's fold",
        "",
        "| | events/s |",
        "|---|---|",
        f"| folding | {folded:,.0f} |",
        f"| decoding, {EVENTS_A_BATCH} events a message | {decoded:,.0f} |",
        "",
    ]


def _events() -> list[NodeEvent]:
    who = Who(key="vk_bench", agent="bench", owner="team")
    at_ns = time.time_ns()
    events: list[NodeEvent] = []
    for n in range(REQUESTS):
        request_id = f"req_{n:032x}"
        bound = Amounts(usd=700_000_000, requests=1)
        lines = ("key:vk_bench:usd:total:0",)
        events.append(
            RequestAdmitted(request_id, at_ns, who, "stripe", "payment_intents.create", "POST", "/v1/x", bound, lines)
        )
        events.append(RequestSettled(request_id, "settled", at_ns, actual=bound))
    return events


def _fold(events: list[NodeEvent]) -> None:
    budget = Budget()
    for seq, event in enumerate(events):
        budget.apply_node(seq, "n1-a", event)


def _rate(events: list[NodeEvent], work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return len(events) / (time.perf_counter() - began)
