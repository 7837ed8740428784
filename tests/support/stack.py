"""A whole Ringfence on this machine: `ringfence up --demo` as a user starts it, on free ports, in a directory of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_S = 120.0
AUDIT_S = 30.0
"""Requests show in the audit within two seconds; a busy machine gets more before a test gives up."""


@dataclass
class Stack:
    """A running gateway with its simulated vendors."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    urls: dict[str, str]
    token: str

    @property
    def stripe(self) -> str:
        return self.urls["proxy"] + "/stripe"

    @property
    def openai(self) -> str:
        return self.urls["proxy"] + "/openai/v1"

    def vendor(self, name: str) -> str:
        """The simulated vendor's own origin."""
        return str(json.loads((self.data_dir / "run" / "demo.ready").read_text())[name])

    def control(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """Call the control plane; returns the decoded answer. Raises ControlError."""
        return call(method, self.urls["control"] + path, body, token or self.token)

    def issue(self, **fields: Any) -> dict[str, Any]:
        """Issue a key."""
        key: dict[str, Any] = self.control("POST", "/v1/keys", {"agent": "billing-bot", **fields})
        return key

    def vendor_log(self, name: str = "stripe") -> list[dict[str, Any]]:
        """Everything the vendor was asked, from its own books."""
        entries: list[dict[str, Any]] = []
        after = 0
        while True:
            page = call("GET", f"{self.vendor(name)}/_demo/log?after={after}&limit=10000", None, None)
            entries += [entry for entry in page["entries"] if entry["vendor"] == name]
            if not page["entries"] or page["next"] == after:
                return entries
            after = page["next"]

    def reset_vendors(self) -> None:
        call("POST", f"{self.vendor('stripe')}/_demo/reset", {}, None)

    def faults(self, *rules: dict[str, Any]) -> None:
        call("POST", f"{self.vendor('stripe')}/_demo/faults", {"faults": list(rules)}, None)

    def requests(self, **filters: Any) -> list[dict[str, Any]]:
        """All rows of the audit that match."""
        rows: list[dict[str, Any]] = []
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        cursor = ""
        while True:
            page = self.control("GET", f"/v1/requests?limit=1000&{query}{cursor}")
            rows += page["data"]
            if not page["next_cursor"]:
                return rows
            cursor = f"&cursor={page['next_cursor']}"

    def settled_requests(self, count: int, **filters: Any) -> list[dict[str, Any]]:
        """Wait until the audit shows `count` requests that are not open; returns what it shows by then."""
        return self._until_ended(count, {"settled", "unknown", "released", "refused"}, filters)

    def answered_requests(self, count: int, **filters: Any) -> list[dict[str, Any]]:
        """The same for requests that reached the vendor: one that was refused or released is none of them. And none
        of those that match is open any more: a killed node's end when its fence has been read.
        """
        return self._until_ended(count, {"settled", "unknown"}, filters, all_ended=True)

    def _until_ended(
        self, count: int, ends: set[str], filters: dict[str, Any], *, all_ended: bool = False
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + AUDIT_S
        while True:
            rows = self.requests(**filters)
            outcomes = [row["outcome"] for row in rows]
            enough = sum(outcome in ends for outcome in outcomes) >= count and not (all_ended and "open" in outcomes)
            if enough or time.monotonic() > deadline:
                return rows
            time.sleep(0.2)

    def ready_pids(self) -> dict[str, int]:
        """The processes that say they are ready, by name; one that is just being restarted is missing."""
        found = {}
        for mark in (self.data_dir / "run").glob("*.ready"):
            with contextlib.suppress(FileNotFoundError):
                found[mark.stem] = int(json.loads(mark.read_text())["pid"])
        return found

    def worker_pids(self) -> dict[str, int]:
        """The proxies' processes by name."""
        return {name: pid for name, pid in self.ready_pids().items() if name.startswith("proxy-")}

    def everything_written(self) -> bytes:
        """All files of the data directory but those that hold secrets by design."""
        secret = {"operator-token", "secrets.json", "passwords.conf", "demo-vendors.jsonl"}
        paths = [path for path in self.data_dir.rglob("*") if path.is_file() and path.name not in secret]
        return b"\n".join(path.read_bytes() for path in paths if path.parent.name != "run")


class ControlError(Exception):
    """An error answer, with its status and error object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status} {error}")
        self.status = status
        self.error = error


def call(method: str, url: str, body: Any, token: str | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            detail = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            detail = {"message": text.decode("utf-8", "replace")}
        raise ControlError(error.code, detail) from None
    return json.loads(text) if text else None


@contextlib.contextmanager
def running_stack(data_dir: Path, *, workers: int = 2, arguments: tuple[str, ...] = ()) -> Iterator[Stack]:
    """Start, wait until ready, stop. A failed start raises with the log's end."""
    command = [sys.executable, "-P", "-m", "controlplane.cli", "up", "--demo", "--data-dir", str(data_dir)]
    for name in ("proxy", "control", "nats", "clickhouse"):
        command += [f"--{name}-port", "0"]
    command += ["--workers", str(workers), *arguments]
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "endpoints.json").unlink(missing_ok=True)  # of a gateway that was killed
    log = data_dir / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=data_dir)
    try:
        urls = _await_ready(process, data_dir, log)
        token = (data_dir / "operator-token").read_text().strip()
        yield Stack(process, data_dir, urls, token)
    finally:
        _stop(process)


def _await_ready(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> dict[str, str]:
    deadline = time.monotonic() + READY_S
    endpoints = data_dir / "endpoints.json"
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            urls: dict[str, str] = json.loads(endpoints.read_text())
            return urls
        time.sleep(0.05)
    raise AssertionError(f"the stack did not start:\n{log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def without_proxies() -> None:
    """SDKs built on requests and httpx would send loopback calls to a proxy of the environment."""
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
