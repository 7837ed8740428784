"""The published tables say what the code says."""

import re
from pathlib import Path
from typing import Any

import msgspec

from controlplane.audit.roles import READER_VIEWS
from controlplane.process_settings import AuditProcess, ClickHouseAccess, ControlProcess
from dataplane.node_settings import NodeSettings
from events.messaging.credentials import NatsCredentials
from schemas.refusals import REFUSALS
from schemas.settings import FxRates, PriceSettings, Timing, Upstream
from schemas.tls import TlsClient, TlsServer

DOCS = Path(__file__).parents[2] / "docs"


def test_every_refusal_is_documented_with_its_status_and_remedy() -> None:
    rows = [line for line in (DOCS / "REFUSALS.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{code}` | {kind.status} | {kind.blame} | {kind.remedy} |" for code, kind in REFUSALS.items()]


def test_every_setting_is_documented() -> None:
    text = (DOCS / "CONFIG.md").read_text()
    for kind in (Upstream, FxRates, PriceSettings, Timing):
        for field in msgspec.structs.fields(kind):
            assert f"| `{field.name}` |" in text, f"{kind.__name__}.{field.name}"


def test_every_setting_of_a_process_is_documented() -> None:
    text = (DOCS / "CONFIG.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", text, re.MULTILINE)
    processes = {name: where for names, where in cells for name in re.findall(r"`(\w+)`", names)}
    for word, kind in (("control", ControlProcess), ("audit", AuditProcess), ("proxy", NodeSettings)):
        for field in msgspec.structs.fields(kind):
            where = processes[field.name]
            assert word in where or where == "all", f"{kind.__name__}.{field.name}"
    for part in (NatsCredentials, ClickHouseAccess, TlsClient, TlsServer):
        for field in msgspec.structs.fields(part):
            assert f"`{field.name}`" in text, f"{part.__name__}.{field.name}"


def test_the_audits_columns_are_documented() -> None:
    """Each view with its columns, in their order."""
    views = re.findall(
        r"^CREATE OR REPLACE VIEW ringfence\.(\w+) [^;]*? AS\nSELECT\s(.*?)\nFROM ",
        (DOCS.parent / "controlplane" / "audit" / "views.sql").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    documented = re.findall(r"^\| `(\w+)` \| [^|]* \| `([\w, ]+)` \|$", (DOCS / "AUDIT.md").read_text(), re.MULTILINE)
    assert {view: _columns(selected) for view, selected in views} == {
        view: listed.split(", ") for view, listed in documented
    }
    assert sorted(dict(documented)) == sorted(READER_VIEWS)


def _columns(selected: str) -> list[str]:
    """The names that a list of selected expressions gives: the last word of each, commas in parentheses left alone."""
    return [part.split()[-1] for part in re.split(r",\s*(?![^(]*\))", selected)]


def test_the_settings_files_of_the_deployment_page_are_accepted() -> None:
    text = (DOCS / "DEPLOY.md").read_text()
    kinds: dict[str, Any] = {"control": ControlProcess, "audit": AuditProcess, "proxy-n1": NodeSettings}
    for name, kind in kinds.items():
        found = re.search(rf"^## {name}\.json\n\n```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        assert found is not None
        assert msgspec.json.decode(found.group(1), type=kind) is not None


def test_every_page_is_reached_from_the_readme_or_another_page() -> None:
    pages = {path.name for path in DOCS.glob("*.md")}
    linked = "".join(path.read_text() for path in [DOCS.parent / "README.md", *DOCS.glob("*.md")])
    assert sorted(page for page in pages if page not in linked) == []
