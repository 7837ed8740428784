"""The reckoning after a storm: the vendors' own books against the logs, the ledger, the API and the audit.

| promise | what is held against what |
|---|---|
| P1 | each admission against its caps at that instant, in the log; what the vendor moved under a key against its cap |
| P2 | each 402 against what the log says was settled and held while the call waited |
| P3 | each vendor call against the instant at which its key's DELETE was answered |
| P4 | each vendor call against the intents of that very call (its idempotency key stands in both) |
| once | what each call moved at the vendor against what was settled (and held) for it |
| P5 | the API's figures, the audit's rows, the product's fold and the test's own, against each other |

First everything must be quiet: a row that is still open is lag until nobody is left who could close it.
"""

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from chaos.accounts import Request
from chaos.cluster import Cluster
from chaos.ledger import Ledger
from chaos.load import Operators, Traffic
from chaos.record import Record, timed

from controlplane.audit.store import Store, StoreUnavailable
from controlplane.process_settings import ClickHouseAccess
from dataplane.core.repeats import repeat_digest
from events.state.budget_image import dump_budget
from events.state.replica import Replica
from schemas.money import NANOS_PER_USD

QUIET_S = 120.0
CENT = NANOS_PER_USD // 100
FIGURES_S = 30.0
"""How long the API may take to show what the logs hold."""

EXHAUSTED_TTL_NS = 100_000_000
SHOWN = 5
"""Cases of one kind that are told in full."""

Entry = dict[str, Any]


class Reckoning:
    """`findings` is empty if every promise was kept; `figures` says what there was to judge."""

    def __init__(self, cluster: Cluster, traffic: Traffic, record: Record) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._record = record
        settings = json.loads((cluster.stack.data_dir / "run" / "control.json").read_text())
        self._store = Store(msgspec.convert(settings["clickhouse"], ClickHouseAccess))
        self.findings: list[str] = []
        self.figures: dict[str, int] = {}

    async def run(self, operators: Operators) -> None:
        try:
            with timed("quiet"):
                await self._until_quiet()
            with timed("vendors' books"):
                entries = await asyncio.to_thread(_vendor_entries, self._cluster)
            with timed("logs folded"):
                ledger = await asyncio.to_thread(Ledger, self._record.facts)
            with timed("audit read"):
                rows = await self._rows()
            self.findings += ledger.findings[:SHOWN]
            self._recorded(entries, ledger, rows)
            self._counted_once(entries, ledger)
            self._after_revocation(entries, ledger)
            self._within_caps(entries, ledger)
            self._refusals(ledger)
            self._audit(rows, ledger)
            self._replay()
            with timed("API read"):
                await self._api(operators, ledger)
            self._count(entries, ledger)
        finally:
            await self._store.close()

    # ------------------------------------------------------------ quiet

    async def _until_quiet(self) -> None:
        """Nothing is open, one incarnation lives in each slot, and the audit has written all that the logs tell."""
        deadline = time.monotonic() + QUIET_S
        while True:
            await self._record.read()
            unrest = await self._unrest()
            if not unrest:
                return
            if time.monotonic() > deadline:
                self.findings.append(f"not quiet after {QUIET_S:.0f} s: {'; '.join(unrest)}")
                return
            await asyncio.sleep(0.5)

    async def _unrest(self) -> list[str]:
        unrest = []
        still_open = self._record.still_open()
        if still_open:
            unrest.append(f"{len(still_open)} requests are open\n{self._evidence(set(still_open[:SHOWN]))}")
        for slot, names in sorted(self._record.living().items()):
            if len(names) != 1:
                unrest.append(f"{slot} has {len(names)} living incarnations: {', '.join(names)}")
        try:
            written = dict(await self._store.query("SELECT log, max(seq) FROM ringfence.events GROUP BY log"))
        except StoreUnavailable as error:
            return [*unrest, f"the audit does not answer: {error}"]
        for log, seq in self._record.told().items():
            if written.get(log, 0) < seq:
                unrest.append(f"the audit has written the log {log} through {written.get(log, 0)} of {seq}")
        return unrest

    def _evidence(self, names: set[str]) -> str:
        return "\n".join(f"    {fact}" for fact in self._record.of_requests(names))

    def _blame(self, promise: str, cases: Sequence[str]) -> None:
        if cases:
            self.findings.append(f"{promise}: {len(cases)} cases\n" + "\n".join(cases[:SHOWN]))

    # ------------------------------------------------------------ P4, and once

    def _recorded(self, entries: list[Entry], ledger: Ledger, rows: dict[str, dict[str, Any]]) -> None:
        """Each call that reached a vendor has a request of its own that was not released."""
        cases = []
        for digest, calls in _by_digest(entries).items():
            requests = ledger.by_digest.get(digest, [])
            if len(calls) > sum(request.ended != "released" for request in requests):
                cases.append(self._case(calls, requests, rows))
        for key, calls in _by_marker(entries).items():
            requests = ledger.by_key.get(key, [])
            if len(calls) > sum(request.ended != "released" for request in requests):
                cases.append(f"  {len(calls)} calls of {key} reached OpenAI, {len(requests)} requests are on record")
        self._blame("P4: vendor calls without a record", cases)

    def _case(self, calls: list[Entry], requests: list[Request], rows: dict[str, dict[str, Any]] | None) -> str:
        """One call in full: what the vendor saw, what became of its requests, and everything the logs say of them."""
        said = [f"  {call['idempotency_key']}: {call['outcome']} {call['status']} {call['moves']}" for call in calls]
        for request in requests:
            shown = rows.get(request.id, {}).get("outcome", "missing") if rows is not None else "-"
            said.append(
                f"  {request.id}: log {request.state}, audit {shown}, bound {request.bound}, actual {request.actual}"
            )
        return "\n".join(said) + "\n" + self._evidence({request.id for request in requests})

    def _counted_once(self, entries: list[Entry], ledger: Ledger) -> None:
        """What a call moved is settled once, or covered by what is held for its unknown outcome."""
        cases = []
        calls = _by_digest(entries)
        for digest in {*calls, *ledger.by_digest}:
            requests = ledger.by_digest.get(digest, [])
            moved = sum(move["moved"] for call in calls.get(digest, ()) for move in call["moves"]) * CENT
            settled, held = _settled(requests), _held(requests)
            if not settled <= moved <= settled + held:
                figures = f"  moved {moved}, settled {settled}, held {held}\n"
                cases.append(figures + self._case(calls.get(digest, []), requests, None))
        self._blame("double counts, or money that is not counted", cases)
        self._blame("tokens that differ from the vendor's", self._tokens(entries, ledger))

    def _tokens(self, entries: list[Entry], ledger: Ledger) -> list[str]:
        """Chats whose answer told their request's id: the settled tokens are those that the vendor billed."""
        billed = {entry["marker"].partition(" ")[2]: entry["usage"] for entry in entries if entry["usage"]}
        settled = {
            fact.event["request_id"]: fact.event
            for fact in self._record.facts
            if fact.kind == "RequestSettled" and fact.event["outcome"] == "settled"
        }
        cases = []
        for call in self._traffic.calls:
            usage, event = billed.get(call.name), settled.get(call.request_id)
            if usage is None or event is None or call.cents:
                continue
            counted = (event.get("input_tokens", 0), event.get("output_tokens", 0))
            if counted != (usage["prompt_tokens"], usage["completion_tokens"]):
                cases.append(f"  {call.name} {usage}\n{self._evidence({call.request_id})}")
        return cases

    # ------------------------------------------------------------ P3

    def _after_revocation(self, entries: list[Entry], ledger: Ledger) -> None:
        cases = []
        for entry in entries:
            key = self._traffic.keys.get(_key_of(entry))
            if key is None or not key.revoked_ns or entry["received_mono_ns"] <= key.revoked_ns:
                continue
            late_ms = (entry["received_mono_ns"] - key.revoked_ns) / 1e6
            requests = ledger.by_digest.get(_digest_of(entry)) or ledger.by_key[key.id][-2:]
            evidence = self._evidence({request.id for request in requests})
            cases.append(f"  {entry['marker']} {late_ms:.1f} ms after the 204\n{evidence}")
        self._blame("P3: forwarded after revocation", cases)

    # ------------------------------------------------------------ P1 and P2

    def _within_caps(self, entries: list[Entry], ledger: Ledger) -> None:
        moved: Counter[str] = Counter()
        for entry in entries:
            moved[_key_of(entry)] += sum(move["moved"] for move in entry["moves"]) * CENT
        cases = []
        for key, amount in moved.items():
            course = ledger.caps.get((f"key:{key}", "total"))
            caps = [cap for cap in course.values if cap is not None] if course is not None else []
            if caps and amount > max(caps):
                cases.append(f"  {key} moved {amount} at the vendor, its cap was never above {max(caps)}")
        self._blame("P1: overspend", cases)

    def _refusals(self, ledger: Ledger) -> None:
        """A 402 is right only if the call did not fit at some instant while it waited (or `exhausted_ttl` before)."""
        to_wall_ns = time.time_ns() - time.monotonic_ns()
        cases = []
        for call in self._traffic.calls:
            if call.refusal not in {"cap_exhausted", "key_spent"}:
                continue
            key = self._traffic.keys[call.key]
            accounts = (f"key:{key.id}", f"agent:chaos-{key.role}")
            span = (call.began_ns + to_wall_ns - EXHAUSTED_TTL_NS, call.ended_ns + to_wall_ns)
            if not key.capped or not ledger.did_not_fit(accounts, call.cents * CENT, *span):
                cases.append(f"  {key.role} {call}\n{self._evidence({call.request_id})}")
        self._blame("P2: false refusals", cases)

    # ------------------------------------------------------------ P5

    async def _rows(self) -> dict[str, dict[str, Any]]:
        """The audit's row of every request that was admitted."""
        sql = (
            "SELECT request_id, key, outcome, actual_usd, held_usd FROM ringfence.requests "
            "WHERE request_id IN (SELECT request_id FROM ringfence.events WHERE type = 'RequestAdmitted')"
        )
        found = await self._store.query(sql)
        names = ("request_id", "key", "outcome", "actual_usd", "held_usd")
        return {row[0]: dict(zip(names, row, strict=True)) for row in found}

    def _audit(self, rows: dict[str, dict[str, Any]], ledger: Ledger) -> None:
        cases = []
        refused = {fact.event["request_id"] for fact in self._record.facts if fact.kind == "RequestRefused"}
        for request in ledger.books.requests.values():
            state = request.state
            wanted = "settled" if state == "resolved" else state
            if state == "released" and request.id in refused:
                wanted = "refused"  # admitted, never sent, and its client was told why
            shown = rows.get(request.id, {}).get("outcome", "missing")
            if shown != wanted:
                cases.append(f"  {request.id}: log {state}, audit {shown}\n{self._evidence({request.id})}")
        cases += [f"  {name} is in the audit alone" for name in rows.keys() - ledger.books.requests.keys()]
        self._blame("P5: the audit differs from the log", cases)
        for key in self._traffic.keys:
            mine = [row for row in rows.values() if row["key"] == key]
            figures = tuple(_nanos(sum((row[name] for row in mine), Decimal(0))) for name in ("actual_usd", "held_usd"))
            if figures != (wanted_figures := _figures(ledger, key)):
                self._blame(f"P5: {key}", [f"  audit {figures}, log {wanted_figures}"])

    def _replay(self) -> None:
        """The other interleaving of the two logs gives the same ledger, byte for byte."""
        other = Replica()
        for message in self._record.nodes:
            other.apply_node(message)
        for message in self._record.control:
            other.apply_control(message)
        if dump_budget(other.budget) != dump_budget(self._record.replica.budget):
            self.findings.append("P5: the ledger depends on how the two logs are interleaved")

    async def _api(self, operators: Operators, ledger: Ledger) -> None:
        """What the API says of each key, once it has caught up."""
        deadline = time.monotonic() + FIGURES_S
        wrong: dict[str, Any] = {}
        for key in self._traffic.keys:
            while True:
                spend = (await operators.do("GET", f"/v1/keys/{key}"))["spend"]["total"]
                shown = (_nanos(Decimal(spend["settled"])), _nanos(Decimal(spend["held"])))
                if shown == _figures(ledger, key):
                    break
                if time.monotonic() > deadline:
                    wrong[key] = (shown, _figures(ledger, key))
                    break
                await asyncio.sleep(0.2)
        self._blame("P5: the API differs from the log", [f"  {key}: {figures}" for key, figures in wrong.items()])

    def _count(self, entries: list[Entry], ledger: Ledger) -> None:
        states = Counter(request.state for request in ledger.books.requests.values())
        refusals = sum(call.refusal in {"cap_exhausted", "key_spent"} for call in self._traffic.calls)
        fences = Counter(f"fenced: {fact.event['reason']}" for fact in self._record.facts if fact.kind == "Fenced")
        leaders = sum(fact.kind == "LeaderStarted" for fact in self._record.facts)
        self.figures = {
            "calls": len(self._traffic.calls), "vendor calls": len(entries), **states, "402": refusals,
            "revocations": self._traffic.revocations, **fences, "leaders": leaders,
        }  # fmt: skip


# ---------------------------------------------------------------- the vendors' side


def _vendor_entries(cluster: Cluster) -> list[Entry]:
    """Every call that reached a vendor in an agent's name."""
    found = itertools.chain.from_iterable(cluster.stack.vendor_log(name) for name in ("stripe", "openai"))
    return [entry for entry in found if entry["method"] == "POST" and entry["path"].startswith("/v1/")]


def _key_of(entry: Entry) -> str:
    return str(entry["marker"].partition(" ")[0])


def _digest_of(entry: Entry) -> str:
    """What the log calls the call: made of the vault key and the client's own idempotency key."""
    key, _, name = entry["marker"].partition(" ")
    return repeat_digest("stripe", "", key, name)


def _by_digest(entries: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["vendor"] == "stripe":
            found[_digest_of(entry)].append(entry)
    return found


def _by_marker(entries: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["vendor"] == "openai":
            found[_key_of(entry)].append(entry)
    return found


# ---------------------------------------------------------------- our side


def _settled(requests: list[Request]) -> int:
    return sum(request.actual for request in requests if request.ended == "settled")


def _held(requests: list[Request]) -> int:
    return sum(request.bound for request in requests if not request.ended)


def _figures(ledger: Ledger, key: str) -> tuple[int, int]:
    """(settled, held) of a key in all, in nano-dollars."""
    spot = (f"key:{key}", "total", 0)
    return ledger.books.settled[spot], ledger.books.held[spot]


def _nanos(amount: Decimal) -> int:
    return int(amount * NANOS_PER_USD)
