"""Caps, refusals and sums: what was spent, what was refused, and whether log, API and audit say the same.

| promise | what is held against what |
|---|---|
| P1 | each admission against its caps at that instant, in the log; what the vendor moved under a key and an agent against their caps |
| P2 | each 402 against what the log says was settled and held while the call waited; other refusals against what the storm did |
| P5 | the API's figures, the audit's rows, the product's fold and the test's own, against each other |
"""

import time
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from chaos.evidence import CENT, SHOWN, Evidence, Figures, finding, key_of
from chaos.load import Call

from schemas.money import NANOS_PER_USD

EXHAUSTED_TTL_NS = 100_000_000

FOR_THE_CAP = frozenset({"cap_exhausted", "key_spent"})

EXCUSED = frozenset({
    "log_unavailable", "policy_unavailable", "budget_unavailable", "draining", "overloaded", "stream_cut",
    "upstream_lost", "upstream_timeout", "upstream_unreachable", "upstream_protocol", "upstream_unavailable",
})  # fmt: skip
"""Refusals that say that something is down, and that the vendor or the gateway is to blame: in a storm both are."""

UNHEARD = "unknown_key"
"""A node that has been deaf since before a key was issued does not know it: it fails closed, and says so."""


def check_figures(evidence: Evidence) -> list[str]:
    return [
        *evidence.ledger.findings[:SHOWN],
        *_within_caps(evidence),
        *_refusals(evidence),
        *_unexplained(evidence),
        *_audit(evidence),
        *_sums(evidence),
        *([] if evidence.one_order else ["P5: the ledger depends on how the two logs are interleaved"]),
    ]


# ---------------------------------------------------------------- P1


def _within_caps(evidence: Evidence) -> list[str]:
    """What the vendor moved, in its own books, is within the most that the caps ever allowed."""
    moved: Counter[tuple[str, str]] = Counter()
    for entry in evidence.entries:
        amount = sum(move["moved"] for move in entry["moves"]) * CENT
        key = evidence.traffic.keys.get(key_of(entry))
        if key is not None:
            moved[f"key:{key.id}", "total"] += amount
            moved[f"agent:chaos-{key.role}", "day"] += amount
    days = {datetime.fromtimestamp(entry["received_wall_ns"] / 1e9, UTC).date() for entry in evidence.entries}
    cases = []
    for name, amount in moved.items():
        course = evidence.ledger.caps.get(name)
        caps = [cap for cap in course.values if cap is not None] if course is not None else []
        most = max(caps, default=0) * (len(days) if name[1] == "day" else 1)
        if caps and amount > most:
            cases.append(partial(str, f"  {name} moved {amount} at the vendor, its cap was never above {most}"))
    return finding("P1: overspend", cases)


# ---------------------------------------------------------------- P2


def _refusals(evidence: Evidence) -> list[str]:
    """A 402 is right only if the call did not fit at some instant while it waited (or `exhausted_ttl` before)."""
    to_wall_ns = time.time_ns() - time.monotonic_ns()
    cases = []
    for call in evidence.traffic.calls:
        if call.refusal not in FOR_THE_CAP:
            continue
        key = evidence.traffic.keys[call.key]
        accounts = (f"key:{key.id}", f"agent:chaos-{key.role}")
        span = (call.began_ns + to_wall_ns - EXHAUSTED_TTL_NS, call.ended_ns + to_wall_ns)
        if not key.capped or not evidence.ledger.did_not_fit(accounts, call.cents * CENT, *span):
            cases.append(partial(evidence.told, f"{key.role} {call}", call.request_id))
    return finding("P2: false refusals", cases)


def _unexplained(evidence: Evidence) -> list[str]:
    """Refusals that no fault of a storm makes right: for a key that was not revoked, or from a defect of ours."""
    odd = [call for call in evidence.traffic.calls if _odd(evidence, call)]
    cases = [partial(evidence.told, call, call.request_id) for call in odd]
    return finding("refusals that nothing explains", cases)


def _odd(evidence: Evidence, call: Call) -> bool:
    if not call.refusal or call.refusal in FOR_THE_CAP | EXCUSED | {UNHEARD}:
        return False
    revoking_ns = evidence.traffic.keys[call.key].revoking_ns
    return call.refusal != "key_revoked" or not revoking_ns or call.ended_ns < revoking_ns


# ---------------------------------------------------------------- P5


def _audit(evidence: Evidence) -> list[str]:
    """Every request, in every state, is in the audit as the log has it."""
    cases = []
    refused = {fact.event["request_id"] for fact in evidence.facts if fact.kind == "RequestRefused"}
    for request in evidence.requests.values():
        state = request.state
        wanted = "settled" if state == "resolved" else state
        if state == "released" and request.id in refused:
            wanted = "refused"  # admitted, never sent, and its client was told why
        shown = evidence.rows.get(request.id, {}).get("outcome", "missing")
        if shown != wanted:
            cases.append(partial(evidence.told, f"{request.id}: log {state}, audit {shown}", request.id))
    cases += [
        partial(str, f"  {name} is in the audit alone") for name in evidence.rows.keys() - evidence.requests.keys()
    ]
    return finding("P5: the audit differs from the log", cases)


def _sums(evidence: Evidence) -> list[str]:
    """Per key: the API's figures and the audit's sums are the log's."""
    audit: dict[str, Figures] = dict.fromkeys(evidence.traffic.keys, (0, 0))
    for row in evidence.rows.values():
        settled, held = audit.get(row["key"], (0, 0))
        audit[row["key"]] = (settled + nanos(row["actual_usd"]), held + nanos(row["held_usd"]))
    cases = []
    for key in evidence.traffic.keys:
        log, shown = figures(evidence, key), evidence.shown.get(key)
        if audit[key] != log or shown != log:
            cases.append(partial(str, f"  {key}: log {log}, audit {audit[key]}, API {shown}"))
    return finding("P5: sums of a key differ", cases)


def figures(evidence: Evidence, key: str) -> Figures:
    """(settled, held) of a key in all, by the log."""
    spot = (f"key:{key}", "total", 0)
    return evidence.ledger.books.settled[spot], evidence.ledger.books.held[spot]


def nanos(amount: Decimal) -> int:
    return int(amount * NANOS_PER_USD)
