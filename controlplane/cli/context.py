"""What every command shares: where the server is, and how to print."""

from collections.abc import Callable
from typing import Any

import click

from controlplane.cli.client import Client, find_client

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Context:
    """The options of the `ringfence` command itself."""

    def __init__(self, url: str | None, token: str | None, data_dir: str | None) -> None:
        self._url = url
        self._token = token
        self.data_dir = data_dir

    def client(self) -> Client:
        """The server to talk to; found only when a command needs it."""
        return find_client(self._url, self._token, self.data_dir)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` on a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(command)


def given(**values: Any) -> dict[str, Any]:
    """The options that were given: neither None, False nor empty."""
    return {name: value for name, value in values.items() if value not in (None, False, (), "")}
