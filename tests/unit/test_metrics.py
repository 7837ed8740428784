"""Metrics: they parse, follow Prometheus's conventions, stay bounded, and stand in docs/OPERATIONS.md."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sim.loop import run_virtual
from support.control_rig import BY, Rig, day, set_cap
from support.full_log import Product, until
from support.registries import audit_text, control_text, families, node_text, presided

from controlplane.alerts.caps import TOP
from controlplane.alerts.kinds import ALERTS
from events.types import KeyIssued
from schemas.accounts import AccountCaps, Cap, line_key
from schemas.histogram import Histogram
from schemas.readiness import REASONS

PAGE = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
USD = 10**9


def gathered() -> dict[str, dict[str, Any]]:
    """By process, the families of a small deployment that has seen a little of everything."""
    found: dict[str, dict[str, Any]] = {}

    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        product = Product(leader, rig.bus.client("n1"), rig.nodes.port(), rig.clock)
        await product.governor.start()
        await product.issue("vk_1", 100 * USD)
        await until(lambda: product.governor.ready)
        async with presided(rig, leader) as operations:
            settled, held = await product.dispatched("vk_1", 5 * USD), await product.dispatched("vk_1", 7 * USD)
            product.settle(settled, 6 * USD)  # an overrun, of one dollar
            await asyncio.sleep(3)
            found["control"] = families(await control_text(rig, leader, operations))
            found["node"] = families(node_text(product))
            product.settle(held)
        found["audit"] = families(audit_text(rig))
        await product.governor.close()
        await rig.close()

    run_virtual(main())
    return found


@pytest.fixture(scope="module")
def processes() -> dict[str, dict[str, Any]]:
    return gathered()


def test_names_follow_the_conventions(processes: dict[str, dict[str, Any]]) -> None:
    for found in processes.values():
        for name, family in found.items():
            assert re.fullmatch(r"ringfence_[a-z][a-z0-9_]*", name), name
            assert family.documentation, name
            assert family.documentation.endswith("."), name
            assert (family.type == "counter") == name.endswith("_total"), name
            assert not re.search(r"_(ms|milliseconds|micros|us|minutes|nanos|percent|count|sum|bucket)$", name), name
            assert "process" not in {label for sample in family.samples for label in sample.labels}
            if family.type == "histogram":
                assert name.endswith(("_seconds", "_events")), name


def test_every_family_is_documented_and_nothing_else(processes: dict[str, dict[str, Any]]) -> None:
    rows = set(re.findall(r"^\| `(ringfence_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    collected = set()
    for found in processes.values():
        for name, family in found.items():
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            collected.add((name, family.type, ", ".join(labels), family.documentation))
    documented = {name: row for row in rows for name in [row[0]]}
    assert {row[0] for row in collected} == set(documented)
    for name, kind, shown, text in collected:
        assert documented[name][1] == kind, name
        assert documented[name][3] == text, name
        if shown:  # a family without samples shows none
            assert ", ".join(sorted(documented[name][2].split(", "))) == shown, name


def test_every_alert_and_every_reason_is_documented() -> None:
    text = PAGE.read_text()
    for kind, alert in ALERTS.items():
        assert f"| `{kind}` | {alert.severity} | {alert.subject} | {alert.when} | {alert.remedy} |" in text
    for code, reason in REASONS.items():
        warns = "warning" if reason.warning else "not ready"
        assert f"| `{code}` | {', '.join(reason.of)} | {warns} | {reason.remedy} |" in text


def test_every_reason_is_given_by_somebody() -> None:
    files = [path for plane in ("controlplane", "dataplane") for path in (PAGE.parents[1] / plane).rglob("*.py")]
    given = {code for path in files for code in re.findall(r"reason\(\s*'?\"?(\w+)[\"']", path.read_text())}
    assert given == set(REASONS)


def _value(found: dict[str, Any], name: str, **labels: str) -> float:
    return next(
        sample.value for sample in found[name].samples if sample.labels == labels or (not labels and not sample.labels)
    )


def test_money_shows_where_it_stands(processes: dict[str, dict[str, Any]]) -> None:
    control, node = processes["control"], processes["node"]
    assert _value(control, "ringfence_control_held", meter="usd") == 7
    assert _value(control, "ringfence_control_overruns_total") == 1
    assert _value(control, "ringfence_control_overrun_usd_total", meter="usd") == 1
    place = {"account": "key", "id": "vk_1", "meter": "usd", "window": "day"}
    assert _value(control, "ringfence_control_account_cap", **place) == 100
    lent = _value(control, "ringfence_control_lease_free", account="key", meter="usd")
    assert _value(control, "ringfence_control_account_exposure", **place) == 13 + lent
    assert _value(node, "ringfence_node_lease_reserved", meter="usd") == 7
    assert _value(node, "ringfence_node_lease_free", meter="usd") == lent
    assert _value(control, "ringfence_control_alerts_open", kind="overrun") == 1


def _series(found: dict[str, Any]) -> int:
    return sum(len(family.samples) for family in found.values())


def test_ten_thousands_of_keys_make_no_ten_thousands_of_series(processes: dict[str, dict[str, Any]]) -> None:
    """Lines in use, all near their caps, and a team that is further from its own: named are the nearest of each."""

    async def main() -> None:
        rig = Rig()
        leader = await rig.lead()
        budget, caps = leader.budget, (Cap("usd", "total", 1_000),)
        for n in range(20_000):
            at_ns = rig.clock.wall_ns()
            account = AccountCaps("key", f"vk_{n}", caps)
            expires_ns = at_ns + (1 if n < TOP else 10**15)
            event = KeyIssued(f"vk_{n}", BY, f"sha-{n}", "bot", at_ns, expires_ns, caps=account)
            leader.state.apply(leader.state.seq, event)
            line = line_key("key", f"vk_{n}", "usd", "total", 0)
            budget.leases.grant("n1-a", {line: 990 if n < TOP else 900})
        await leader.execute(set_cap("team:red", 1_000), BY)
        budget.leases.grant("n1-a", {day("team:red"): 10})
        async with presided(rig, leader) as operations:
            assert operations.desk is not None
            walk, wall_ns = operations.desk.caps, leader.control_time_ns()
            while not walk.top:
                list(walk.look(leader.state.alerts, wall_ns))
            found = families(operations.metrics.render().decode())
        named = [sample.labels["id"] for sample in found["ringfence_control_account_exposure"].samples]
        assert len(named) == TOP + 1
        assert "red" in named
        assert not {f"vk_{n}" for n in range(TOP)} & set(named)  # expired: nobody can spend of them
        assert _series(found) < _series(processes["control"]) + 2 * (TOP + 1)
        await rig.close()

    run_virtual(main())


def test_histograms_count_each_value_once() -> None:
    histogram = Histogram((10, 100))
    for value in (0, 10, 11, 100, 101, 10**9):
        histogram.observe(value)
    assert histogram.buckets(10) == [("1", 2.0), ("10", 4.0), ("+Inf", 6.0)]
    assert histogram.total == 222 + 10**9
