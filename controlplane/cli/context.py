"""What every command shares: where the server is, and how to print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from controlplane.cli.client import Client, data_directory, find_client

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Context:
    """The options of the `ringfence` command itself."""

    def __init__(self, url: str | None, token: str | None, data_dir: str | None) -> None:
        self._url = url
        self._token = token
        self.data_dir = data_dir

    @property
    def directory(self) -> Path:
        """The data directory of a local gateway."""
        return data_directory(self.data_dir)

    def client(self) -> Client:
        """The server to talk to; found only when a command needs it."""
        return find_client(self._url, self._token, self.data_dir)


def a_name(value: str) -> str:
    """A type of arguments: an id or a name, anything but nothing. Raises BadParameter."""
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


MAX_LIMIT = 1_000
"""Rows of one list that the server gives."""


def limit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--limit` on a command that lists."""
    kind = click.IntRange(1, MAX_LIMIT)
    return click.option("--limit", type=kind, default=50, show_default=True, help="Rows to show.")(command)


def note_more(answer: dict[str, Any]) -> None:
    """Say on stderr that there are more rows than were asked for."""
    if answer.get("next_cursor"):
        click.echo(f"There are more: --limit shows up to {MAX_LIMIT:,}.", err=True)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` on a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(command)


def given(**values: Any) -> dict[str, Any]:
    """The options that were given: neither None, False nor empty."""
    return {name: value for name, value in values.items() if value not in (None, False, (), "")}
