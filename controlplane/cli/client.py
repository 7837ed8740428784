"""The command line's HTTP client: finds the server and its token, and turns every failure into one sentence."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click

from controlplane.cli.words import TOKEN, explain, failure, no_control_plane
from events.tls import TlsUnusable, client_tls
from schemas.tls import TlsClient

DEFAULT_DATA_DIR = ".ringfence"
TIMEOUT_S = 30.0
"""A revocation takes at most about a second; reports may take several."""

CONNECT_S = 3.0
LIVES_S = 2.0
"""Then another control plane is tried, if there is one. A process that stands still takes connections and requests, and
answers nothing: so of several, each is asked whether it lives before anything is sent to it.
"""

TAKEOVER_S = 15.0
TAKEOVER_PAUSE_S = 0.5
"""While no control plane leads, what may be repeated is. A takeover takes ten seconds at most."""

EXIT_REFUSED = 1
"""The server answered, and said no."""
EXIT_WRONG = 2
"""The command was wrong, as click says it."""
EXIT_UNREACHABLE = 3
"""No server, or no token to speak to it."""


class CliError(click.ClickException):
    """A failure with its exit code; the message says what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance too


NOT_LEADING = "not_leading"

REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
"""Methods that may be sent again when nobody knows what became of the first time."""


class Answered(NamedTuple):
    """An answer as it came, and whose."""

    url: str
    status: int
    kind: str
    headers: Mapping[str, str]
    text: str


class Client:
    """One gateway and one operator token. `urls`: of its control planes, separated by commas; the first that can be
    reached is asked.
    """

    def __init__(self, urls: str, token: str) -> None:
        """Raises CliError for what is no URL, or cannot be a token."""
        self._urls = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
        for url in self._urls or [urls]:
            if not url.startswith(("http://", "https://")):
                raise CliError(f"{url!r} is no URL: write it as http://host:port or https://host:port", EXIT_WRONG)
        if not TOKEN.fullmatch(token):
            raise CliError(
                "the operator token is empty or holds characters that no token has; was it copied whole?",
                EXIT_UNREACHABLE,
            )
        self._token = token

    def __repr__(self) -> str:
        """Without the token."""
        return f"Client({', '.join(self._urls)!r})"

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
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S)
        deadline = time.monotonic() + TAKEOVER_S
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=_connector()) as session:
            while True:
                answer = await self._ask(session, method, path, params, body)
                again = answer.status == 503 and method in REPEATABLE and _code(answer.text) == NOT_LEADING
                if not again or time.monotonic() > deadline:
                    return _decode(answer)
                await asyncio.sleep(TAKEOVER_PAUSE_S)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        params: dict[str, str],
        body: dict[str, Any] | None,
    ) -> Answered:
        """The first answer. Raises CliError if there is none."""
        failures, doubt = [], ""
        for url in self._urls:
            if url != self._urls[-1] and (trouble := await _trouble(session, url)):
                failures.append(f"{url}: {trouble}")
                continue
            try:
                async with session.request(
                    method, url + path, params=params, json=body, allow_redirects=False
                ) as answer:
                    return Answered(url, answer.status, answer.content_type, answer.headers, await answer.text())
            except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
                failures.append(f"{url}: {failure(error)}")
                unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
                if not unsent and method not in REPEATABLE:
                    doubt = " Whether it was carried out is not known: look before you repeat it."
                    break
        raise CliError(f"no answer. {'; '.join(failures)}.{doubt or ' Is the gateway running?'}", EXIT_UNREACHABLE)


async def _trouble(session: aiohttp.ClientSession, url: str) -> str:
    """Why a control plane is not asked; empty if it lives. The connection is not kept: on one that its server closes
    meanwhile a request would be lost.
    """
    timeout = aiohttp.ClientTimeout(total=LIVES_S)
    try:
        async with session.get(f"{url}/healthz", timeout=timeout, headers={"Connection": "close"}):
            return ""
    except (aiohttp.ClientError, TimeoutError) as error:
        return failure(error)


def _code(text: str) -> str:
    """The code of an error answer; empty if it has none."""
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _decode(answer: Answered) -> Any:
    if answer.status >= 400:
        raise CliError(explain(answer.url, answer.status, answer.headers, answer.text), EXIT_REFUSED)
    if answer.kind == "text/csv" or not answer.text:
        return answer.text or None
    try:
        if answer.kind == "application/json" and answer.status < 300:
            return json.loads(answer.text)
    except ValueError:
        pass
    raise CliError(no_control_plane(answer.url, answer.status), EXIT_REFUSED)


def _connector() -> aiohttp.TCPConnector:
    """For HTTPS: the system's authorities, or the one in RINGFENCE_CA_FILE; a certificate of the caller's own from
    RINGFENCE_CERT_FILE and RINGFENCE_KEY_FILE, where the server asks for one.
    """
    names = ("CA_FILE", "CERT_FILE", "KEY_FILE")
    ca_file, cert_file, key_file = (os.environ.get(f"RINGFENCE_{name}", "") for name in names)
    if not ca_file and not cert_file:
        return aiohttp.TCPConnector()
    try:
        context = client_tls(TlsClient(ca_file=ca_file, cert_file=cert_file, key_file=key_file)).ssl
    except TlsUnusable as error:
        raise CliError(str(error), EXIT_UNREACHABLE) from None
    return aiohttp.TCPConnector(ssl=context)


def data_directory(given: str | None) -> Path:
    """`--data-dir`, else the environment, else the default."""
    return Path(given or os.environ.get("RINGFENCE_DATA_DIR") or DEFAULT_DATA_DIR)


def find_client(url: str | None, token: str | None, data_dir: str | None) -> Client:
    """`--url`/`--token`, else the environment, else the data directory of a local `ringfence up`. A URL may be several,
    separated by commas.
    """
    url = url or os.environ.get("RINGFENCE_URL")
    token = token or os.environ.get("RINGFENCE_TOKEN")
    directory = data_directory(data_dir)
    if not url:
        url = _endpoint(directory)
    if not token:
        token = _read_token(directory)
    return Client(url, token)


def _endpoint(directory: Path) -> str:
    path = directory / "endpoints.json"
    try:
        endpoints = json.loads(path.read_text())
        return str(endpoints.get("controls") or endpoints["control"])
    except (OSError, ValueError, KeyError):
        raise CliError(
            f"no gateway found: {path} is not there. Start one with `ringfence up`; or say where it is, with --url or "
            "--data-dir.",
            EXIT_UNREACHABLE,
        ) from None


def _read_token(directory: Path) -> str:
    path = directory / "operator-token"
    try:
        return path.read_text().strip()
    except OSError:
        raise CliError(
            f"no operator token: {path} cannot be read. Give --token or set RINGFENCE_TOKEN.", EXIT_UNREACHABLE
        ) from None
