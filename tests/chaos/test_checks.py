"""Every check of a storm's reckoning can fail: sound books pass, and each way of being wrong is found as what it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from chaos.checks_calls import check_calls, states_of_calls
from chaos.checks_figures import check_figures
from chaos.evidence import CENT, Entry, Evidence, digest_of
from chaos.load import Call, Key, Traffic
from chaos.record import Fact

MS = 1_000_000
S = 1_000 * MS
NODE = "n1-a"
KEY, SPENT, DOOMED, CHATS = "vk_ample", "vk_tight", "vk_doomed", "vk_stream"
CAP_CENTS = 1_000


@dataclass
class Books:
    """Sound books, a fact at a time. `now_ns` counts from the test's beginning, on both clocks at once."""

    facts: list[Fact] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: dict[str, tuple[int, int]] = field(default_factory=dict)
    one_order: bool = True
    now_ns: int = 0
    mono_ns: int = field(default_factory=time.monotonic_ns)
    wall_ns: int = field(default_factory=time.time_ns)

    def evidence(self) -> Evidence:
        return Evidence(self.facts, self.entries, self.traffic, self.rows, self.shown, self.one_order)

    # ------------------------------------------------------------ what happens

    def issue(self, key: str, role: str, *, capped: bool = False) -> None:
        self.traffic.keys[key] = Key(key, "", role, capped)
        self.shown[key] = (0, 0)
        caps = {"kind": "key", "id": key, "caps": [["usd", "total", CAP_CENTS * CENT]]}
        self.fact("control", "leader", "KeyIssued", id=key, caps=caps)
        self.confirm(key)

    def cap(self, key: str, cents: int) -> None:
        account = {"kind": "key", "id": key, "caps": [["usd", "total", cents * CENT]]}
        self.fact("control", "leader", "BudgetSet", account=account)

    def confirm(self, key: str) -> None:
        self.now_ns += MS
        self.traffic.answered[f"key:{key}", "total"].append(self.wall_ns + self.now_ns)
        self.now_ns += S

    def revoke(self, key: str) -> None:
        self.traffic.keys[key].revoking_ns = self.mono_ns + self.now_ns
        self.now_ns += 5 * MS
        self.traffic.keys[key].revoked_ns = self.mono_ns + self.now_ns

    def fact(self, log: str, actor: str, kind: str, **event: Any) -> None:
        self.now_ns += MS
        self.facts.append(Fact(log, len(self.facts) + 1, self.wall_ns + self.now_ns, actor, kind, event))

    def admit(self, request: str, key: str, name: str, cents: int) -> None:
        who = {"key": key, "agent": f"chaos-{self.traffic.keys[key].role}"}
        digest = digest_of({"marker": f"{key} {name}"}) if cents else ""
        at_ns = self.wall_ns + self.now_ns
        self.fact(
            "nodes", NODE, "RequestAdmitted", request_id=request, who=who, at_ns=at_ns,
            bound=[cents * CENT, 0, 1, 0], idempotency=digest,
        )  # fmt: skip
        self.rows[request] = _row(request, key, "open", held=cents)
        self.shown[key] = (self.shown[key][0], self.shown[key][1] + cents * CENT)

    def reach(self, key: str, name: str, cents: int, **more: Any) -> Entry:
        """The vendor gets the call, and does it."""
        self.now_ns += 100 * MS
        entry = {
            "vendor": "stripe" if cents else "openai", "marker": f"{key} {name}", "outcome": "executed",
            "status": 200, "moves": [{"moved": cents}] if cents else [], "usage": None,
            "received_mono_ns": self.mono_ns + self.now_ns, "received_wall_ns": self.wall_ns + self.now_ns, **more,
        }  # fmt: skip
        self.entries.append(entry)
        return entry

    def settle(self, request: str, key: str, cents: int, bound: int, **more: Any) -> None:
        self.fact("nodes", NODE, "RequestSettled", request_id=request, outcome="settled", actual=[cents * CENT], **more)
        self.rows[request] = _row(request, key, "settled", actual=cents)
        settled, held = self.shown[key]
        self.shown[key] = (settled + cents * CENT, held - bound * CENT)

    def lose(self, request: str) -> None:
        self.fact("nodes", NODE, "RequestSettled", request_id=request, outcome="unknown")
        self.rows[request]["outcome"] = "unknown"

    def release(self, request: str, key: str, cents: int) -> None:
        self.fact("nodes", NODE, "RequestReleased", request_id=request)
        self.rows[request] = _row(request, key, "released")
        self.shown[key] = (self.shown[key][0], self.shown[key][1] - cents * CENT)

    def call(self, key: str, name: str, cents: int, request: str, status: int = 200, refusal: str = "") -> Call:
        ended_ns = self.mono_ns + self.now_ns
        call = Call(key, name, cents, ended_ns - 20 * MS, status, refusal, request, ended_ns)
        self.traffic.calls.append(call)
        return call

    def charge(self, request: str, key: str, name: str, cents: int) -> None:
        """A charge from its beginning to its end."""
        self.admit(request, key, name, cents)
        self.reach(key, name, cents)
        self.settle(request, key, cents, cents)
        self.call(key, name, cents, request)


def _row(request: str, key: str, outcome: str, actual: int = 0, held: int = 0) -> dict[str, Any]:
    amounts = {"actual_usd": Decimal(actual) / 100, "held_usd": Decimal(held) / 100}
    return {"request_id": request, "key": key, "outcome": outcome, **amounts}


def sound() -> Books:
    """A charge, one of unknown outcome, a chat, one that was never sent, a key at its cap, and one that is revoked."""
    books = Books()
    for key, role in ((KEY, "ample"), (SPENT, "tight"), (DOOMED, "doomed"), (CHATS, "stream")):
        books.issue(key, role, capped=key == SPENT)
    books.charge("r1", KEY, "c1", 30)
    books.admit("r2", KEY, "c2", 40)
    books.reach(KEY, "c2", 40)
    books.lose("r2")
    books.admit("r3", CHATS, "s1", 0)
    books.reach(CHATS, "s1", 0, usage={"prompt_tokens": 7, "completion_tokens": 9})
    books.settle("r3", CHATS, 0, 0, input_tokens=7, output_tokens=9)
    books.call(CHATS, "s1", 0, "r3")
    books.admit("r4", KEY, "c4", 10)
    books.release("r4", KEY, 10)
    books.charge("r5", SPENT, "c5", 990)
    books.now_ns += 200 * MS
    books.call(SPENT, "c6", 20, "r6", 402, "cap_exhausted")
    books.charge("r7", DOOMED, "c7", 5)
    books.revoke(DOOMED)
    books.now_ns += 50 * MS
    books.call(DOOMED, "c8", 5, "r8", 401, "key_revoked")
    return books


def findings(books: Books) -> list[str]:
    evidence = books.evidence()
    return [*check_calls(evidence), *check_figures(evidence)]


def test_sound_books_pass() -> None:
    assert findings(sound()) == []
    assert states_of_calls(sound().evidence()) == {"calls settled": 4, "calls unknown": 1}


def test_a_busy_vendor_that_looks_late_is_no_finding() -> None:
    books = sound()
    books.admit("r9", DOOMED, "c9", 5)
    entry = books.reach(DOOMED, "c9", 5)
    books.settle("r9", DOOMED, 5, 5)
    assert any("P3" in finding for finding in findings(books))
    entry["queued_ms"] = 1_000  # it had lain there since before the revocation, and before this intent
    found = findings(books)
    assert not any("P3" in finding for finding in found)
    assert any("before their intent" in finding for finding in found)


def test_until_a_lowered_cap_is_confirmed_the_older_one_may_be_in_force() -> None:
    books = sound()
    books.cap(SPENT, CAP_CENTS - 5)
    books.charge("r9", SPENT, "c9", 6)
    assert findings(books) == []


# ---------------------------------------------------------------- ways of being wrong


def absent(books: Books) -> None:
    books.reach(KEY, "c99", 30)


def released(books: Books) -> None:
    books.reach(KEY, "c4", 10)


def twice_sent(books: Books) -> None:
    books.reach(KEY, "c1", 0, vendor="stripe")


def still_open(books: Books) -> None:
    books.admit("r9", KEY, "c9", 10)
    books.reach(KEY, "c9", 10)


def sent_before_its_intent(books: Books) -> None:
    books.reach(KEY, "c9", 10)
    books.now_ns += 100 * MS
    books.admit("r9", KEY, "c9", 10)
    books.settle("r9", KEY, 10, 10)


def chat_without_record(books: Books) -> None:
    books.reach(CHATS, "s2", 0)


def answered_and_released(books: Books) -> None:
    books.call(KEY, "c4", 10, "r4")


def row_open(books: Books) -> None:
    books.rows["r2"]["outcome"] = "open"


def row_released(books: Books) -> None:
    books.rows["r1"]["outcome"] = "released"


def row_missing(books: Books) -> None:
    del books.rows["r1"]


def row_invented(books: Books) -> None:
    books.rows["r99"] = _row("r99", KEY, "settled")


def vendor_moved_less(books: Books) -> None:
    books.entries[0]["moves"] = []


def vendor_moved_more(books: Books) -> None:
    books.entries[0]["moves"] = [{"moved": 31}]


def audit_counts_twice(books: Books) -> None:
    books.rows["r1"]["actual_usd"] *= 2


def settled_twice(books: Books) -> None:
    books.admit("r9", KEY, "c1", 30)
    books.settle("r9", KEY, 30, 30)


def tokens_wrong(books: Books) -> None:
    books.entries[2]["usage"]["completion_tokens"] = 8


def tokens_twice(books: Books) -> None:
    books.admit("r9", CHATS, "s1", 0)
    books.settle("r9", CHATS, 0, 0, input_tokens=7, output_tokens=9)


def late(books: Books) -> None:
    books.admit("r9", DOOMED, "c9", 5)
    books.reach(DOOMED, "c9", 5)
    books.settle("r9", DOOMED, 5, 5)


def above_the_cap(books: Books) -> None:
    books.charge("r9", SPENT, "c9", 11)


def above_a_lowered_cap(books: Books) -> None:
    books.cap(SPENT, CAP_CENTS - 5)
    books.confirm(SPENT)
    books.charge("r9", SPENT, "c9", 6)


def vendor_above_the_cap(books: Books) -> None:
    books.entries[3]["moves"] = [{"moved": CAP_CENTS + 1}]


def refused_and_it_fitted(books: Books) -> None:
    books.traffic.calls[-3].cents = 10


def refused_far_from_the_cap(books: Books) -> None:
    books.call(KEY, "c9", 5, "r9", 402, "cap_exhausted")


def revoked_by_nobody(books: Books) -> None:
    books.call(KEY, "c9", 5, "r9", 401, "key_revoked")


def revoked_too_early(books: Books) -> None:
    call = books.call(DOOMED, "c9", 5, "r9", 401, "key_revoked")
    call.ended_ns = books.traffic.keys[DOOMED].revoking_ns - 1


def defect(books: Books) -> None:
    books.call(KEY, "c9", 5, "r9", 500, "internal")


def api_differs(books: Books) -> None:
    books.shown[KEY] = (books.shown[KEY][0] - 1, books.shown[KEY][1])


def admitted_twice(books: Books) -> None:
    books.facts.append(books.facts[4])


def order_matters(books: Books) -> None:
    books.one_order = False


WRONG: list[tuple[Callable[[Books], None], str]] = [
    (absent, "P4: vendor calls without any record (absent)"),
    (released, "P4: vendor calls without a record of their own (absent or released)"),
    (twice_sent, "P4: vendor calls without a record of their own"),
    (still_open, "P4: vendor calls whose request is still open"),
    (still_open, "P4: vendor calls that the audit shows neither as settled nor as unknown, but as open"),
    (sent_before_its_intent, "P4: vendor calls that were sent before their intent was in the log"),
    (chat_without_record, "P4: vendor calls without a record of their own"),
    (answered_and_released, "P4: answered calls without a record"),
    (row_open, "P4: vendor calls that the audit shows neither as settled nor as unknown, but as open"),
    (row_open, "P5: the audit differs from the log"),
    (row_released, "P4: vendor calls that the audit shows neither as settled nor as unknown, but as released"),
    (row_missing, "P4: vendor calls that the audit shows neither as settled nor as unknown, but as missing"),
    (row_invented, "P5: the audit differs from the log"),
    (vendor_moved_less, "double counts, or money that is not counted"),
    (vendor_moved_more, "double counts, or money that is not counted"),
    (audit_counts_twice, "double counts, or money that is not counted"),
    (audit_counts_twice, "P5: sums of a key differ"),
    (settled_twice, "double counts, or money that is not counted"),
    (tokens_wrong, "tokens that differ from the vendor's"),
    (tokens_twice, "double counts of tokens"),
    (late, "P3: forwarded after revocation"),
    (above_the_cap, "P1: r9 takes"),
    (above_a_lowered_cap, "P1: r9 takes"),
    (vendor_above_the_cap, "P1: overspend"),
    (refused_and_it_fitted, "P2: false refusals"),
    (refused_far_from_the_cap, "P2: false refusals"),
    (revoked_by_nobody, "refusals that nothing explains"),
    (revoked_too_early, "refusals that nothing explains"),
    (defect, "refusals that nothing explains"),
    (api_differs, "P5: sums of a key differ"),
    (admitted_twice, "P5: r1 was admitted twice"),
    (order_matters, "P5: "),
]


@pytest.mark.parametrize(("spoil", "expected"), WRONG, ids=[f"{spoil.__name__}-{text[:30]}" for spoil, text in WRONG])
def test_wrong_books_are_found(spoil: Callable[[Books], None], expected: str) -> None:
    books = sound()
    spoil(books)
    found = findings(books)
    assert any(text.startswith(expected) for text in found), found
