"""What the command line says when something is wrong."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from controlplane.cli.client import EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_WRONG, Client, CliError
from controlplane.cli.keys import issue
from controlplane.cli.main import cli
from controlplane.cli.words import explain, failure
from controlplane.up.datadir import DataDir
from controlplane.up.machine import UpOptions
from controlplane.up.supervisor import announce
from schemas.settings import Settings

URL = "http://gateway:8081"


def said(code: str, message: str, remedy: str = "", param: str | None = None) -> str:
    body = {"error": {"code": code, "message": message, "remedy": remedy, "param": param}}
    with issue.make_context("ringfence keys issue", []):
        return explain(URL, 400, {}, json.dumps(body))


def test_options_go_by_their_own_names() -> None:
    assert said(
        "invalid_parameter", "'x' is not an amount", "It is wrong; /openapi.json describes it.", "total_usd_cap"
    ) == (
        "--total-cap: 'x' is not an amount. It is wrong; `ringfence keys issue --help` describes it. (invalid_parameter)"
    )
    remedy = 'Give a cap in dollars, such as "daily_usd_cap": "25.00", or "uncapped": true.'
    assert said("cap_required", "the key has neither a cap in dollars nor uncapped: true", remedy) == (
        "the key has neither a cap in dollars nor --uncapped. Give a cap in dollars, such as --daily-cap 25.00, "
        "or --uncapped. (cap_required)"
    )
    assert (
        said("not_found", "there is no such key.", "Look.", "nothing_here") == "there is no such key. Look. (not_found)"
    )
    assert "RINGFENCE_TOKEN" in said("unauthorized", "this token is not known", "Send Authorization: Bearer ...")


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"error": "no"}', '{"error": {"code": "x"}}'])
def test_who_answers_otherwise_is_no_control_plane(text: str) -> None:
    assert "not as a control plane" in explain(URL, 404, {}, text)


def test_a_proxy_is_told_from_a_control_plane() -> None:
    body = json.dumps({"error": {"code": "unknown_upstream", "message": "no such upstream"}})
    assert f"{URL} is a proxy" in explain(URL, 404, {"X-Ringfence-Refusal": "unknown_upstream"}, body)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "in time"),
        (aiohttp.ServerDisconnectedError(), "hung up"),
        (aiohttp.ClientPayloadError(), "not HTTP"),
        (aiohttp.ClientError(), "failed"),
    ],
)
def test_failures_have_words_and_a_name(error: Exception, words: str) -> None:
    assert words in failure(error)
    assert type(error).__name__ in failure(error)


@pytest.mark.parametrize(
    ("url", "token", "code"),
    [
        ("gateway:8081", "rfo_x", EXIT_WRONG),
        ("http://a, ftp://b", "rfo_x", EXIT_WRONG),
        (" , ", "rfo_x", EXIT_WRONG),
        (URL, "", EXIT_UNREACHABLE),
        (URL, "rfo_x\nEvil: 1", EXIT_UNREACHABLE),
        (URL, "rfo_\u00e4", EXIT_UNREACHABLE),
    ],
)
def test_what_cannot_be_sent_is_said_before(url: str, token: str, code: int) -> None:
    with pytest.raises(CliError) as caught:
        Client(url, token)
    assert caught.value.exit_code == code
    assert not token or token not in str(caught.value)


async def test_an_answer_that_is_no_json_is_said_to_be_none() -> None:
    async def html(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        writer.close()

    server = await asyncio.start_server(html, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with pytest.raises(CliError, match="not as a control plane") as caught:
            await asyncio.to_thread(Client(url, "rfo_x").call, "GET", "/v1/keys")
    assert caught.value.exit_code == EXIT_REFUSED


def test_up_says_where_everything_is_and_a_command_that_works_there(tmp_path: Path) -> None:
    said: list[str] = []
    options = UpOptions(Path("elsewhere"), Settings(), None, "127.0.0.1", 0, 0, 0, 0, workers=1, demo=True)
    endpoints = {name: f"http://{name}" for name in ("proxy", "control", "clickhouse")}
    endpoints["controls"] = "http://control,http://second"
    with DataDir(tmp_path) as data_dir:
        announce(said.append, options, data_dir, endpoints)
    text = "\n".join(said)
    assert "http://proxy/stripe" in text
    assert "standing by: http://second" in text
    assert "--data-dir elsewhere keys issue" in said[-2]


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "show", ""),
        ("keys", "list", "--limit", "0"),
        ("keys", "list", "--limit", "1001"),
        ("keys", "issue", "--max-uses", "0"),
        ("agents", "show", " "),
        ("alerts", "list", "--state", "shut"),
    ],
)
def test_a_wrong_command_never_reaches_the_gateway(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, ["--url", "http://127.0.0.1:9", "--token", "rfo_x", *words])
    assert (done.exit_code, "Usage:" in done.output) == (EXIT_WRONG, True)
