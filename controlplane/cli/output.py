"""How results are printed: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNCUT_CHARS = 10_000
"""Into a pipe or file nothing is cut off: no row is as wide as this."""


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """A table of the named columns; columns that no row fills are left out. Figures stand to the right."""
    if not rows:
        print(empty)
        return
    shown = [name for name in columns if any(_cell(row.get(name)) for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        figures = all(_is_figure(row.get(name)) for row in rows)
        table.add_column(name, justify="right" if figures else "left", no_wrap=True)
    for row in rows:
        # Text, not markup: a label such as "[red]" is data.
        table.add_row(*(Text(_cell(row.get(name))) for name in shown))
    console = Console()
    if not console.is_terminal:
        console = Console(width=UNCUT_CHARS)
    console.print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """One object, a line a field; empty ones are left out."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        text = _cell(value)
        if text:
            print(f"{name:<{width}}  {text}")


def _is_figure(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or isinstance(value, int | float) or str(value).replace(".", "", 1).lstrip("-").isdigit()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items() if _cell(item))
    # Control characters of a label must not reach a terminal.
    return "".join(char if char.isprintable() else "?" for char in str(value))
