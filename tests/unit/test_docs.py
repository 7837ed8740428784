"""The published tables say what the code says."""

from pathlib import Path

import msgspec

from schemas.refusals import REFUSALS
from schemas.settings import FxRates, PriceSettings, Timing, Upstream

DOCS = Path(__file__).parents[2] / "docs"


def test_every_refusal_is_documented_with_its_status_and_remedy() -> None:
    rows = [line for line in (DOCS / "REFUSALS.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{code}` | {kind.status} | {kind.blame} | {kind.remedy} |" for code, kind in REFUSALS.items()]


def test_every_setting_is_documented() -> None:
    text = (DOCS / "CONFIG.md").read_text()
    for kind in (Upstream, FxRates, PriceSettings, Timing):
        for field in msgspec.structs.fields(kind):
            assert f"| `{field.name}` |" in text, f"{kind.__name__}.{field.name}"


def test_the_audits_columns_are_documented() -> None:
    schema = (DOCS.parent / "controlplane" / "audit" / "schema.sql").read_text()
    text = (DOCS / "AUDIT.md").read_text()
    views = [
        line.split()[4].removeprefix("ringfence.")
        for line in schema.splitlines()
        if line.startswith("CREATE OR REPLACE VIEW")
    ]
    assert len(views) == 6
    for view in views:
        assert f"`{view}`" in text
