"""Each call that reached a vendor: recorded before it went, counted once, and not after its key was revoked.

| promise | what is held against what |
|---|---|
| P4 | each vendor call against the intents of that very call (its idempotency key stands in both), in the logs and in the audit |
| once | what each call moved at the vendor against what was settled (and held) for it, in the logs and in the audit |
| P3 | each vendor call against the instant at which its key's DELETE was answered |

A call whose request is **open** is late, not lost: its node's fence is still to come. One whose request is **released**
or **absent** went out although the log says that it did not, or says nothing. The findings tell which.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial

from chaos.accounts import Request
from chaos.evidence import CENT, Entry, Evidence, digest_of, finding, key_of, name_of
from chaos.ledger import CLOCKS_NS
from support.arrivals import TICK_NS, arrived_ns, arrived_wall_ns

from schemas.money import NANOS_PER_USD


def check_calls(evidence: Evidence) -> list[str]:
    return [
        *_recorded(evidence),
        *_answered(evidence),
        *_counted_once(evidence),
        *_tokens(evidence),
        *_tokens_once(evidence),
        *_after_revocation(evidence),
    ]


def states_of_calls(evidence: Evidence) -> Counter[str]:
    """In which state the requests are whose call reached a vendor, for the figures."""
    return Counter(
        f"calls {request.state}"
        for calls, requests in _groups(evidence)
        for request in [request for request in requests if request.ended != "released"][: len(calls)]
    )


def _groups(evidence: Evidence) -> Iterator[tuple[list[Entry], list[Request]]]:
    """Calls that belong together, with all requests that may be theirs."""
    ledger = evidence.ledger
    for digest, calls in evidence.charges.items():
        yield calls, ledger.by_digest.get(digest, [])
    for key, calls in evidence.chats.items():
        yield calls, [request for request in ledger.by_key.get(key, []) if not request.idempotency]


# ---------------------------------------------------------------- P4


def _recorded(evidence: Evidence) -> list[str]:
    """Each call has a request of its own that was recorded before, and not released; the audit shows it as sent."""
    without: dict[str, list[Callable[[], str]]] = {}
    for calls, requests in _groups(evidence):
        for what in filter(None, (_lacks(calls, requests), _lacks_in_audit(evidence, calls, requests))):
            without.setdefault(what, []).append(partial(evidence.case, calls, requests))
    return [text for what, cases in without.items() for text in finding(f"P4: vendor calls {what}", cases)]


def _lacks(calls: Sequence[Entry], requests: Sequence[Request]) -> str:
    """What the log lacks for these calls; "" if nothing."""
    intents = sorted(request.stored_ns for request in requests if request.ended != "released")
    if not requests:
        return "without any record (absent)"
    if len(intents) < len(calls):
        return "without a record of their own (absent or released)"
    arrivals = sorted(map(arrived_wall_ns, calls))
    # The n-th call needs n intents before it, whichever of them is its own.
    if any(arrived + CLOCKS_NS < stored for arrived, stored in zip(arrivals, intents, strict=False)):
        return "that were sent before their intent was in the log"
    still_open = sum(request.state == "open" for request in requests)
    if len(intents) - still_open < len(calls):
        return "whose request is still open"
    return ""


def _lacks_in_audit(evidence: Evidence, calls: Sequence[Entry], requests: Sequence[Request]) -> str:
    outcomes = Counter(evidence.rows.get(request.id, {}).get("outcome", "missing") for request in requests)
    if outcomes["settled"] + outcomes["unknown"] >= len(calls):
        return ""
    others = ", ".join(sorted(outcomes.keys() - {"settled", "unknown"})) or "absent"
    return f"that the audit shows neither as settled nor as unknown, but as {others}"


def _answered(evidence: Evidence) -> list[str]:
    """An answer that names its request: that very one is on record, and as sent."""
    cases = []
    for call in evidence.traffic.calls:
        if call.status != 200 or call.refusal:
            continue
        request = evidence.requests.get(call.request_id)
        if request is None or request.ended == "released":
            cases.append(partial(evidence.told, f"{call} {request}", call.request_id))
    return finding("P4: answered calls without a record", cases)


# ---------------------------------------------------------------- once


def _counted_once(evidence: Evidence) -> list[str]:
    """What a call moved is settled once, or covered by what is held for its unknown outcome."""
    cases = []
    for digest in {*evidence.charges, *evidence.ledger.by_digest}:
        requests, calls = evidence.ledger.by_digest.get(digest, []), evidence.charges.get(digest, [])
        moved = sum(move["moved"] for call in calls for move in call["moves"]) * CENT
        settled = sum(request.actual for request in requests if request.ended == "settled")
        held = sum(request.bound for request in requests if not request.ended)
        shown, shown_held = (_shown(evidence, requests, column) for column in ("actual_usd", "held_usd"))
        if not (settled <= moved <= settled + held and shown <= moved <= shown + shown_held):
            figures = f"moved {moved}; log: settled {settled}, held {held}; audit: {shown}, {shown_held}"
            cases.append(partial(evidence.case, calls, requests, figures))
    return finding("double counts, or money that is not counted", cases)


def _shown(evidence: Evidence, requests: Sequence[Request], column: str) -> int:
    rows = (evidence.rows.get(request.id, {}) for request in requests)
    return int(sum((row.get(column, Decimal(0)) for row in rows), Decimal(0)) * NANOS_PER_USD)


def _tokens(evidence: Evidence) -> list[str]:
    """Chats whose answer told their request's id: the settled tokens are those that the vendor billed."""
    billed = {name_of(entry): entry["usage"] for entry in evidence.entries if entry["usage"]}
    settled = {
        fact.event["request_id"]: fact.event
        for fact in evidence.facts
        if fact.kind == "RequestSettled" and fact.event["outcome"] == "settled"
    }
    cases = []
    for call in evidence.traffic.calls:
        usage, event = billed.get(call.name), settled.get(call.request_id)
        if usage is None or event is None or call.cents:
            continue
        counted = (event.get("input_tokens", 0), event.get("output_tokens", 0))
        if counted != (usage["prompt_tokens"], usage["completion_tokens"]):
            cases.append(partial(evidence.told, f"{call.name} {usage}", call.request_id))
    return finding("tokens that differ from the vendor's", cases)


def _tokens_once(evidence: Evidence) -> list[str]:
    """Of each key no more tokens are settled than the vendor has billed in all."""
    settled: Counter[str] = Counter()
    ended = set()
    for fact in evidence.facts:
        if fact.kind != "RequestSettled" or fact.event["outcome"] != "settled":
            continue
        request = evidence.requests.get(fact.event["request_id"])
        if request is not None and request.id not in ended:
            ended.add(request.id)
            settled[request.key] += fact.event.get("input_tokens", 0) + fact.event.get("output_tokens", 0)
    billed: Counter[str] = Counter()
    for entry in evidence.entries:
        if usage := entry["usage"]:
            billed[key_of(entry)] += usage["prompt_tokens"] + usage["completion_tokens"]
    cases = [
        partial(str, f"  {key}: {count} settled, {billed[key]} billed")
        for key, count in settled.items()
        if count > billed[key]
    ]
    return finding("double counts of tokens", cases)


# ---------------------------------------------------------------- P3


def _after_revocation(evidence: Evidence) -> list[str]:
    cases = []
    for entry in evidence.entries:
        key = evidence.traffic.keys.get(key_of(entry))
        if key is None or not key.revoked_ns or arrived_ns(entry) <= key.revoked_ns + TICK_NS:
            continue
        late_ms = (arrived_ns(entry) - key.revoked_ns) / 1e6
        ledger = evidence.ledger
        requests = ledger.by_digest.get(digest_of(entry)) or ledger.by_key[key.id][-2:]
        what = f"{entry['marker']} {late_ms:.1f} ms after the 204"
        cases.append(partial(evidence.told, what, *(request.id for request in requests)))
    return finding("P3: forwarded after revocation", cases)
