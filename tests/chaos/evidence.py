"""What a storm leaves behind, in one place: the vendors' books, both logs, the audit, the API, and what clients saw.

The checks (`chaos.checks_calls`, `chaos.checks_figures`) read this and nothing else, so that they can be tried on
books that are wrong on purpose (test_checks.py).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chaos.accounts import Request
from chaos.ledger import Ledger
from chaos.load import Traffic
from chaos.record import Fact, about

from dataplane.core.repeats import repeat_digest
from schemas.money import NANOS_PER_USD

CENT = NANOS_PER_USD // 100
SHOWN = 5
"""Cases of one kind that are told in full."""

Entry = dict[str, Any]
"""A line of the vendors' books (controlplane.demo.books.Entry)."""

Row = dict[str, Any]
"""The audit's row of a request: request_id, key, outcome, actual_usd, held_usd."""

Figures = tuple[int, int]
"""(settled, held) in nano-dollars"""


@dataclass
class Evidence:
    """`rows`: by request id. `shown`: what the API says of each key. `one_order`: whether both orders of folding the
    two logs gave the same ledger.
    """

    facts: Sequence[Fact]
    entries: Sequence[Entry]
    traffic: Traffic
    rows: dict[str, Row]
    shown: dict[str, Figures]
    one_order: bool

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.facts, self.traffic.answered)

    @cached_property
    def requests(self) -> dict[str, Request]:
        """All that were admitted, by id."""
        return self.ledger.books.requests

    @cached_property
    def charges(self) -> dict[str, list[Entry]]:
        """Stripe's calls by what the log names them: the digest of key and idempotency key."""
        return _grouped(self.entries, "stripe", digest_of)

    @cached_property
    def chats(self) -> dict[str, list[Entry]]:
        """OpenAI's calls by key: they have no name that the log knows."""
        return _grouped(self.entries, "openai", key_of)

    def told(self, what: object, *names: str) -> str:
        """Something, and everything that the logs say of these requests."""
        return "\n".join([f"  {what}", *(f"    {fact}" for fact in about(self.facts, set(names)))])

    def case(self, calls: Sequence[Entry], requests: Sequence[Request], what: str = "") -> str:
        """Some calls in full: what the vendor saw, what became of their requests, and all that the logs say."""
        calls, requests = calls[:SHOWN], requests[:SHOWN]
        said = [f"  {what}"] if what else []
        said += [f"  {call['marker']}: {call['outcome']} {call['status']} {call['moves']}" for call in calls]
        for request in requests:
            shown = self.rows.get(request.id, {}).get("outcome", "missing")
            said.append(
                f"  {request.id}: log {request.state}, audit {shown}, bound {request.bound}, actual {request.actual}"
            )
        return self.told("\n".join(said).lstrip(), *(request.id for request in requests))


def finding(promise: str, cases: Sequence[Callable[[], str]]) -> list[str]:
    """One finding for all cases of a kind; none without a case. Each tells itself, and only the first ones do."""
    told = "\n".join(case() for case in cases[:SHOWN])
    return [f"{promise}: {len(cases)} cases\n{told}"] if cases else []


def key_of(entry: Entry) -> str:
    return str(entry["marker"].partition(" ")[0])


def name_of(entry: Entry) -> str:
    """The client's name of the call."""
    return str(entry["marker"].partition(" ")[2])


def digest_of(entry: Entry) -> str:
    """What the log calls the call: made of the vault key and the client's own idempotency key."""
    return repeat_digest("stripe", "", key_of(entry), name_of(entry))


def _grouped(entries: Sequence[Entry], vendor: str, name: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["vendor"] == vendor:
            found[name(entry)].append(entry)
    return found
