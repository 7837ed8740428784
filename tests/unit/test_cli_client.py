"""The command line's way to one of several control planes."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from controlplane.cli import client
from controlplane.cli.client import EXIT_UNREACHABLE, Client, CliError, find_client

LIVES = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def server(*answers: bytes, lives: bytes = LIVES) -> Iterator[tuple[str, list[str]]]:
    """Answers requests so, one after another and the last one for ever; b"" hangs up without a word. `lives`: to
    /healthz. Yields its URL and what was asked but for that.
    """
    asked: list[str] = []
    left = list(answers)

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            method, path, _ = self.request.recv(65_536).decode().split(" ", 2)
            if path == "/healthz":
                self.request.sendall(lives)
                return
            asked.append(method)
            self.request.sendall(left.pop(0) if len(left) > 1 else left[0])

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", asked
        finally:
            listening.shutdown()
            thread.join(10)


@contextmanager
def standing_still() -> Iterator[str]:
    """Takes connections, as the kernel does for a stopped process, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def body(text: dict[str, Any], status: str = "200 OK") -> bytes:
    payload = json.dumps(text).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


NOBODY = "http://127.0.0.1:9"
"""The discard port: nobody listens."""


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_one_that_cannot_be_reached_is_passed_over(method: str) -> None:
    with server(body({"at": "second"})) as (url, asked):
        assert Client(f"{NOBODY}, {url}/", "rfo_x").call(method, "/v1/keys") == {"at": "second"}
        assert asked == [method]


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("DELETE", True), ("PUT", True), ("POST", False)])
def test_a_request_that_may_have_been_carried_out_is_repeated_only_if_that_changes_nothing(
    method: str, repeated: bool
) -> None:
    with server(b"") as (broken, first), server(body({"at": "second"})) as (url, asked):
        asking = Client(f"{broken},{url}", "rfo_x")
        if repeated:
            assert asking.call(method, "/v1/keys/vk_1") == {"at": "second"}
        else:
            with pytest.raises(CliError, match="ServerDisconnectedError") as caught:
                asking.call(method, "/v1/keys/vk_1")
            assert caught.value.exit_code == EXIT_UNREACHABLE
        assert set(first) == {method}
        assert bool(asked) is repeated


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_one_that_stands_still_is_sent_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LIVES_S", 0.2)
    with standing_still() as still, server(body({"at": "second"})) as (url, asked):
        assert Client(f"{still},{url}", "rfo_x").call(method, "/v1/keys") == {"at": "second"}
        assert asked == [method]


NOBODY_LEADS = body({"error": {"code": "not_leading", "message": "no leader"}}, "503 Service Unavailable")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_takeover_is_waited_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TAKEOVER_PAUSE_S", 0.01)
    with server(NOBODY_LEADS, NOBODY_LEADS, body({"at": "first"})) as (url, asked), server(b"") as (other, _):
        assert Client(f"{url},{other}", "rfo_x").call(method, "/v1/keys/vk_1") == {"at": "first"}
        assert asked == [method] * 3


def test_nobody_waits_for_a_leader_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TAKEOVER_PAUSE_S", 0.01)
    monkeypatch.setattr(client, "TAKEOVER_S", 0.05)
    with server(NOBODY_LEADS) as (url, asked):
        with pytest.raises(CliError, match="not_leading"):
            Client(url, "rfo_x").call("GET", "/v1/keys")
        assert len(asked) > 1


def test_what_may_have_been_recorded_is_not_sent_twice() -> None:
    with server(NOBODY_LEADS) as (url, asked):
        with pytest.raises(CliError, match="not_leading"):
            Client(url, "rfo_x").call("POST", "/v1/keys")
        assert asked == ["POST"]


def test_an_answer_is_an_answer_whatever_it_says() -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with server(refusal) as (url, _), server(body({})) as (other, asked):
        with pytest.raises(CliError, match="503"):
            Client(f"{url},{other}", "rfo_x").call("GET", "/v1/keys")
        assert asked == []


def test_all_control_planes_of_a_local_gateway_are_known(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("RINGFENCE_URL", raising=False)
    (tmp_path / "endpoints.json").write_text('{"control": "http://a", "controls": "http://a,http://b"}')
    assert repr(find_client(None, "rfo_x", str(tmp_path))) == "Client('http://a, http://b')"
