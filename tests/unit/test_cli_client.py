"""The command line's way to one of several control planes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from controlplane.cli.client import EXIT_UNREACHABLE, Client, CliError, find_client


@contextmanager
def server(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """Answers every request so, and hangs up; b"" hangs up without a word. Yields its URL and what was asked."""
    asked: list[str] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65_536).split(b" ")[0].decode())
            self.request.sendall(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", asked
        finally:
            listening.shutdown()
            thread.join(10)


def body(text: dict[str, str]) -> bytes:
    payload = json.dumps(text).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
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
        client = Client(f"{broken},{url}", "rfo_x")
        if repeated:
            assert client.call(method, "/v1/keys/vk_1") == {"at": "second"}
        else:
            with pytest.raises(CliError, match="ServerDisconnectedError") as caught:
                client.call(method, "/v1/keys/vk_1")
            assert caught.value.exit_code == EXIT_UNREACHABLE
        assert method in first
        assert bool(asked) is repeated


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
