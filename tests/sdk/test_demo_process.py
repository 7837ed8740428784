"""The simulated vendors as a process: keys, addresses, the log file, and how it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from support.demo_sdk import PAYMENT_FORM, plain_session

COMMAND = [sys.executable, "-W", "error", "-m", "controlplane.demo"]
KEYS = {"RINGFENCE_DEMO_STRIPE_KEY": "sk_test_process", "RINGFENCE_DEMO_OPENAI_KEY": "sk-process"}


@contextmanager
def demo(*options: str, env: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    environment = {name: value for name, value in os.environ.items() if name not in KEYS} | env
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def charge(session: requests.Session, url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-www-form-urlencoded"}
    answer = session.post(f"{url}/v1/payment_intents", data=PAYMENT_FORM, headers=headers, timeout=10)
    return answer.status_code


def test_a_killed_process_leaves_a_line_for_every_answer(tmp_path: Path) -> None:
    log, endpoints = tmp_path / "log.jsonl", tmp_path / "endpoints.json"
    with plain_session() as session:
        for started in (1, 2):
            with demo("--log", str(log), "--endpoints", str(endpoints), env=KEYS) as (process, found):
                assert json.loads(endpoints.read_text()) == found
                assert found["pid"] == process.pid
                assert [charge(session, found["stripe"], "sk_test_process") for _ in range(20)] == [200] * 20
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            entries = [json.loads(line) for line in log.read_text().splitlines()]
            assert sum(entry["moves"][0]["moved"] for entry in entries) == started * 20 * 1000
    assert all(key not in log.read_text() for key in KEYS.values())
    objects = {entry["moves"][0]["object_id"] for entry in entries}
    assert len(objects) == 40


def test_drawn_keys_are_for_the_owner_alone_and_sigterm_ends_well(tmp_path: Path) -> None:
    credentials = tmp_path / "keys.json"
    with demo("--credentials", str(credentials), env={}) as (process, found), plain_session() as session:
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
        keys = json.loads(credentials.read_text())
        assert charge(session, found["stripe"], keys["stripe_key"]) == 200
        assert charge(session, found["stripe"], "sk_test_other") == 401
        answer = session.get(f"{found['openai']}/_demo/log", timeout=10)
        shown = answer.text + json.dumps(found) + Path(f"/proc/{process.pid}/cmdline").read_text()
        assert all(key not in shown for key in keys.values())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_without_keys_it_does_not_start() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    ended = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "RINGFENCE_DEMO_STRIPE_KEY" in ended.stderr
