"""The reckoning after a storm: waits until everything is quiet, then gathers the evidence and has it judged.

A row that is still open is lag until nobody is left who could close it. What is then still open is a finding.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
from chaos.checks_calls import check_calls, states_of_calls
from chaos.checks_figures import FOR_THE_CAP, check_figures, figures, nanos
from chaos.cluster import Cluster
from chaos.evidence import SHOWN, Entry, Evidence, Figures, Row
from chaos.load import Operators, Traffic
from chaos.record import Record, about, timed

from controlplane.audit.store import Store, StoreUnavailable
from controlplane.process_settings import ClickHouseAccess
from events.state.budget_image import dump_budget
from events.state.replica import Replica

QUIET_S = 180.0
"""For the busiest machine; everything is mostly quiet after one or two seconds."""

FIGURES_S = 60.0
"""How long the API may take to show what the logs hold."""


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
            with timed("evidence gathered"):
                evidence = await self._gather(operators)
            with timed("judged"):
                self.findings += await asyncio.to_thread(lambda: [*check_calls(evidence), *check_figures(evidence)])
            self.figures = _count(evidence)
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
            told = "\n".join(f"    {fact}" for fact in about(self._record.facts, set(still_open[:SHOWN])))
            unrest.append(f"{len(still_open)} requests are open\n{told}")
        for slot, names in sorted(self._record.living().items()):
            if len(names) != 1:
                unrest.append(f"{slot} has {len(names)} living incarnations: {', '.join(names)}")
        try:
            written = dict(await self._store.query("SELECT log, max(seq) FROM ringfence.events GROUP BY log"))
            ((lagging,),) = await self._store.query("SELECT count() FROM ringfence.requests WHERE outcome = 'open'")
        except StoreUnavailable as error:
            return [*unrest, f"the audit does not answer: {error}"]
        for log, seq in self._record.told().items():
            if written.get(log, 0) < seq:
                unrest.append(f"the audit has written the log {log} through {written.get(log, 0)} of {seq}")
        # Rows follow their events a moment later; what never follows is then told case by case.
        if lagging:
            unrest.append(f"{lagging} requests are open in the audit")
        return unrest

    # ------------------------------------------------------------ evidence

    async def _gather(self, operators: Operators) -> Evidence:
        entries = await asyncio.to_thread(_vendor_entries, self._cluster)
        evidence = Evidence(self._record.facts, entries, self._traffic, await self._rows(), {}, self._one_order())
        evidence.shown = {key: await self._shown(operators, key, figures(evidence, key)) for key in self._traffic.keys}
        return evidence

    async def _rows(self) -> dict[str, Row]:
        """The audit's row of every request that was admitted."""
        sql = (
            "SELECT request_id, key, outcome, actual_usd, held_usd FROM ringfence.requests "
            "WHERE request_id IN (SELECT request_id FROM ringfence.events WHERE type = 'RequestAdmitted')"
        )
        found = await self._store.query(sql)
        names = ("request_id", "key", "outcome", "actual_usd", "held_usd")
        return {row[0]: dict(zip(names, row, strict=True)) for row in found}

    async def _shown(self, operators: Operators, key: str, wanted: Figures) -> Figures:
        """What the API says of a key, once it has caught up."""
        deadline = time.monotonic() + FIGURES_S
        while True:
            spend: dict[str, Any] = (await operators.do("GET", f"/v1/keys/{key}"))["spend"]["total"]
            shown = (nanos(Decimal(spend["settled"])), nanos(Decimal(spend["held"])))
            if shown == wanted or time.monotonic() > deadline:
                return shown
            await asyncio.sleep(0.2)

    def _one_order(self) -> bool:
        """Whether the other interleaving of the two logs gives the same ledger, byte for byte."""
        other = Replica()
        for message in self._record.nodes:
            other.apply_node(message)
        for message in self._record.control:
            other.apply_control(message)
        return dump_budget(other.budget) == dump_budget(self._record.replica.budget)


def _vendor_entries(cluster: Cluster) -> list[Entry]:
    """Every call that reached a vendor in an agent's name."""
    found = itertools.chain.from_iterable(cluster.stack.vendor_log(name) for name in ("stripe", "openai"))
    return [entry for entry in found if entry["method"] == "POST" and entry["path"].startswith("/v1/")]


def _count(evidence: Evidence) -> dict[str, int]:
    facts, traffic = evidence.facts, evidence.traffic
    states = Counter(request.state for request in evidence.requests.values())
    return {
        "calls": len(traffic.calls),
        "vendor calls": len(evidence.entries),
        **states_of_calls(evidence),
        **{f"requests {state}": count for state, count in states.items()},
        "402": sum(call.refusal in FOR_THE_CAP for call in traffic.calls),
        "revocations": traffic.revocations,
        **Counter(f"fenced: {fact.event['reason']}" for fact in facts if fact.kind == "Fenced"),
        "leaders": sum(fact.kind == "LeaderStarted" for fact in facts),
    }
