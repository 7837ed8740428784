"""The command line's HTTP client: finds the server and its token, and turns every failure into one sentence."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import click

DEFAULT_DATA_DIR = ".ringfence"
TIMEOUT_S = 30.0
"""A revocation takes at most about a second; reports may take several."""

EXIT_REFUSED = 1
"""The server answered, and said no."""
EXIT_UNREACHABLE = 3
"""No server, or no token to speak to it. (2 is click's: the command was wrong.)"""


class CliError(click.ClickException):
    """A failure with its exit code; the message says what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance too


class Client:
    """One server and one operator token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def __repr__(self) -> str:
        """Without the token."""
        return f"Client({self._url!r})"

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Any:
        """One request. Returns the decoded answer (None for 204, text for CSV). Raises CliError."""
        return asyncio.run(self._call(method, path, params or {}, body))

    async def _call(self, method: str, path: str, params: dict[str, str], body: dict[str, Any] | None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(method, self._url + path, params=params, json=body, allow_redirects=False) as answer,
            ):
                text = await answer.text()
                status, kind = answer.status, answer.content_type
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CliError(
                f"no answer from {self._url}: {type(error).__name__}. Is `ringfence up` running?", EXIT_UNREACHABLE
            ) from None
        if status >= 400:
            raise CliError(_explain(status, text), EXIT_REFUSED)
        if kind == "application/json":
            return json.loads(text)
        return text or None


def _explain(status: int, text: str) -> str:
    """The server's own words, with its remedy."""
    try:
        error = json.loads(text)["error"]
        message = f"{error['message']} ({error['code']})"
        remedy = error.get("remedy") or ""
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"
    return f"{message} {remedy}".strip()


def find_client(url: str | None, token: str | None, data_dir: str | None) -> Client:
    """`--url`/`--token`, else the environment, else the data directory of a local `ringfence up`."""
    url = url or os.environ.get("RINGFENCE_URL")
    token = token or os.environ.get("RINGFENCE_TOKEN")
    directory = Path(data_dir or os.environ.get("RINGFENCE_DATA_DIR") or DEFAULT_DATA_DIR)
    if not url:
        url = _endpoint(directory)
    if not token:
        token = _read_token(directory)
    return Client(url, token)


def _endpoint(directory: Path) -> str:
    path = directory / "endpoints.json"
    try:
        return str(json.loads(path.read_text())["control"])
    except (OSError, ValueError, KeyError):
        raise CliError(
            f"no server found: {path} is not there. Start one with `ringfence up`, or give --url.", EXIT_UNREACHABLE
        ) from None


def _read_token(directory: Path) -> str:
    path = directory / "operator-token"
    try:
        return path.read_text().strip()
    except OSError:
        raise CliError(
            f"no operator token: {path} cannot be read. Give --token or set RINGFENCE_TOKEN.", EXIT_UNREACHABLE
        ) from None
