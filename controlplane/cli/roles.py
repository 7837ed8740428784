"""`ringfence proxy|control|audit`: one role each, for a deployment over many machines."""

import os
import sys
from pathlib import Path

import click

from controlplane.cli.context import CONTEXT_SETTINGS

SETTINGS = click.option(
    "--settings",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The process's settings (JSON, mode 0600); see docs/DEPLOY.md.",
)


def _become(module: str, *arguments: str) -> None:
    """Replace this process, so that a supervisor's signals reach the role itself."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - our own interpreter


@click.command(context_settings=CONTEXT_SETTINGS)
@SETTINGS
@click.option("--listen-fd", type=click.IntRange(3), help="Serve this listening socket, which the starter holds.")
def proxy(settings: Path, listen_fd: int | None) -> None:
    """Run one proxy node.

    \b
    ringfence proxy --settings /etc/ringfence/proxy-n1.json
    """
    handed = () if listen_fd is None else ("--listen-fd", str(listen_fd))
    _become("dataplane", "proxy", "--settings", str(settings), *handed)


@click.command(context_settings=CONTEXT_SETTINGS, short_help="Run a control plane.")
@SETTINGS
def control(settings: Path) -> None:
    """Run a control plane. Of several one leads, the others stand by.

    \b
    ringfence control --settings /etc/ringfence/control.json
    """
    _become("controlplane", "control", "--settings", str(settings))


@click.command(context_settings=CONTEXT_SETTINGS, short_help="Run the audit writer.")
@SETTINGS
def audit(settings: Path) -> None:
    """Run the audit writer (with an embedded ClickHouse, if the settings say so).

    \b
    ringfence audit --settings /etc/ringfence/audit.json
    """
    _become("controlplane", "audit", "--settings", str(settings))
