"""The command line as people and scripts use it."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.stack import Stack, call

from controlplane.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    def invoke(*words: str, **env: str) -> Result:
        return CliRunner().invoke(cli, ["--data-dir", str(stack.data_dir), *words], env=env)

    return invoke


def test_a_keys_life(run: Run) -> None:
    issued = run(
        "keys", "issue", "--agent", "cli-bot", "--vendor", "stripe", "--daily-cap", "12.50", "--run", "r-1", "--json"
    )
    assert issued.exit_code == 0, issued.output
    key = json.loads(issued.output)
    assert key["token"].startswith("rfk_")
    shown = run("keys", "show", key["id"])
    assert "12.50" in shown.output
    assert key["token"] not in shown.output
    assert key["id"] in run("keys", "list", "--agent", "cli-bot").output
    assert run("keys", "suspend", key["id"]).exit_code == 0
    assert json.loads(run("keys", "show", key["id"], "--json").output)["state"] == "suspended"
    assert run("keys", "resume", key["id"]).exit_code == 0
    assert run("keys", "revoke", key["id"]).exit_code == 0
    assert json.loads(run("keys", "show", key["id"], "--json").output)["state"] == "revoked"


def test_revoking_by_run_counts_first_and_then_does_it(run: Run) -> None:
    for _ in range(3):
        run("keys", "issue", "--agent", "run-bot", "--total-cap", "1", "--run", "run-to-stop")
    assert "3 keys would be revoked" in run("keys", "revoke", "--run", "run-to-stop", "--dry-run").output
    assert "3 keys revoked" in run("keys", "revoke", "--run", "run-to-stop").output
    assert "0 keys would be revoked" in run("keys", "revoke", "--run", "run-to-stop", "--dry-run").output


def test_budgets_agents_nodes_and_reports(run: Run) -> None:
    assert run("keys", "issue", "--agent", "budget-bot", "--total-cap", "1").exit_code == 0
    assert run("budgets", "set", "agent", "budget-bot", "--daily-cap", "40").exit_code == 0
    assert "40.00" in run("budgets", "list").output
    assert "budget-bot" in run("agents", "list").output
    nodes = json.loads(run("nodes", "--json").output)["data"]
    assert {row["slot"] for row in nodes} == {"n1", "n2"}
    assert "n1" in run("nodes").output
    assert run("report", "spend", "--group-by", "day").exit_code == 0
    assert run("report", "changes", "--json").exit_code == 0
    assert run("report", "spend", "--csv").output.startswith("agent,")
    assert run("requests", "list", "--from", "1h").exit_code == 0


def test_failures_say_what_to_do_and_have_their_exit_codes(run: Run, stack: Stack, tmp_path: Path) -> None:
    refused = run("keys", "issue", "--agent", "cli-bot")
    assert refused.exit_code == 1
    assert "uncapped" in refused.output
    assert run("keys", "show", "vk_nothing").exit_code == 1
    assert run("keys", "revoke").exit_code == 2
    nowhere = CliRunner().invoke(cli, ["--data-dir", str(tmp_path), "keys", "list"])
    assert nowhere.exit_code == 3
    assert "ringfence up" in nowhere.output
    wrong = CliRunner().invoke(
        cli, ["--url", stack.urls["control"], "keys", "list"], env={"RINGFENCE_TOKEN": "rfo_wrong"}
    )
    assert wrong.exit_code == 1
    assert "rfo_wrong" not in wrong.output
    away = CliRunner().invoke(cli, ["--url", "http://127.0.0.1:1", "--token", "x", "keys", "list"])
    assert away.exit_code == 3
    proxy = CliRunner().invoke(cli, ["--url", stack.urls["proxy"], "--token", "rfo_x", "keys", "list"])
    assert proxy.exit_code == 1
    assert "is a proxy" in proxy.output


@pytest.mark.parametrize("command", ["up", "keys", "keys issue", "report", "nodes", "check", "version", "budgets set"])
def test_help_is_there_without_a_server(command: str) -> None:
    done = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_check_names_file_and_line(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text("upstreams:\n  stripe: {adapter: stripe}\n")
    done = CliRunner().invoke(cli, ["check", str(config)])
    assert done.exit_code == 1
    assert f"{config}:2:" in done.output


def test_up_refuses_a_directory_in_use_and_a_taken_port(stack: Stack, tmp_path: Path) -> None:
    again = CliRunner().invoke(cli, ["up", "--demo", "--data-dir", str(stack.data_dir)])
    assert again.exit_code == 1
    assert "another `ringfence up` runs" in again.output
    none = CliRunner().invoke(
        cli, ["up", "--data-dir", str(tmp_path / "d")], env={"STRIPE_SECRET_KEY": "", "OPENAI_API_KEY": ""}
    )
    assert none.exit_code == 1
    assert "--demo" in none.output
    assert os.path.exists(stack.data_dir / "endpoints.json")


def test_operators_rotate_and_alerts_are_listed(run: Run) -> None:
    issued = run("operators", "issue", "e2e-auditor", "--role", "auditor", "--expires-in", "1h", "--json")
    assert issued.exit_code == 0, issued.output
    first = json.loads(issued.output)["token"]
    rotated = run("operators", "rotate", "e2e-auditor", "--overlap", "10m", "--json")
    assert rotated.exit_code == 0, rotated.output
    second = json.loads(rotated.output)["token"]
    listed = run("operators", "list")
    assert "e2e-auditor" in listed.output
    assert first not in listed.output
    for token in (first, second):
        assert run("alerts", "list", "--state", "open", "--json", RINGFENCE_TOKEN=token).exit_code == 0
    assert run("alerts").exit_code == 0
    assert run("alerts", "list", "--kind", "no_such_kind").output.strip() == "No alerts."
    assert run("operators", "revoke", "e2e-auditor", "--reason", "test over").exit_code == 0
    assert run("alerts", "list", RINGFENCE_TOKEN=second).exit_code == 1
    assert run("operators", "rotate", "e2e-auditor").exit_code == 1


def test_each_worker_has_a_port_of_its_own(stack: Stack) -> None:
    """One slot is spare: its port answers only during a rolling restart."""
    found = []
    for url in stack.urls["nodes"].split(","):
        with contextlib.suppress(OSError):
            found.append(call("GET", f"{url}/readyz", None, None)["node"])
    assert sorted(found) == ["n1", "n2"]
