"""`python -m controlplane control|audit --settings FILE`: one role, one process."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from controlplane.process import set_up_logging
from controlplane.process_settings import AuditProcess, ControlProcess, read_process_settings

SETTINGS = click.option("--settings", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def main() -> None:
    """The control side's processes."""
    set_up_logging()


@main.command()
@SETTINGS
def control(settings: Path) -> None:
    """The control plane."""
    # Each role imports what it needs: the control plane is not to load the audit's engine, nor the other way.
    from controlplane.control_process import run_control  # noqa: PLC0415

    _run(run_control(read_process_settings(settings, ControlProcess), settings))


@main.command()
@SETTINGS
def audit(settings: Path) -> None:
    """The audit writer, with ClickHouse embedded if the settings say so."""
    from controlplane.audit.process import run_audit  # noqa: PLC0415 - as above

    _run(run_audit(read_process_settings(settings, AuditProcess), settings))


def _run(role: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(role)
    except Exception:
        # The process's edge: the last line of its log says why it ended.
        logging.getLogger("ringfence").exception("the process ends")
        sys.exit(1)


if __name__ == "__main__":
    main()
