"""`ringfence check CONFIG`: is this configuration usable, and if not, which lines are wrong."""

import os
from pathlib import Path

import click

from controlplane.cli.client import EXIT_REFUSED, CliError
from controlplane.cli.context import CONTEXT_SETTINGS, json_option
from controlplane.cli.output import print_json, print_rows
from schemas.config import ConfigError, load_settings
from schemas.settings import Settings


def read_settings(path: Path) -> Settings:
    """Load a configuration file. Raises CliError with every problem, a line each."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", EXIT_REFUSED) from None
    except UnicodeDecodeError:
        raise CliError(f"{path} is not text in UTF-8", EXIT_REFUSED) from None
    try:
        return load_settings(text, str(path), os.environ)
    except ConfigError as error:
        raise CliError(str(error), EXIT_REFUSED) from None


@click.command(context_settings=CONTEXT_SETTINGS, short_help="Check a configuration file.")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check(config: Path, *, as_json: bool) -> None:
    """Check a configuration file: prints its upstreams, or every problem with its line. Exit code 1 if wrong.

    \b
    ringfence check ringfence.yaml
    """
    settings = read_settings(config)
    rows = [
        {"upstream": name, "adapter": upstream.adapter, "base_url": upstream.base_url, "host": upstream.host}
        for name, upstream in settings.upstreams.items()
    ]
    if as_json:
        print_json({"ok": True, "upstreams": rows})
        return
    print_rows(rows, ("upstream", "adapter", "base_url", "host"), empty="No upstreams.")
    print(f"\n{config} is fine.")
