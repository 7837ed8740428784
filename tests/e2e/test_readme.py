"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.stack import Stack

from controlplane.cli.up import up

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def run(stack: Stack, *command: str) -> str:
    env = {**os.environ, "RINGFENCE_DATA_DIR": str(stack.data_dir)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=120, cwd=stack.data_dir, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_call_prints_what_the_readme_says(stack: Stack) -> None:
    printed = run(stack, sys.executable, str(ROOT / "examples" / "first_call.py"), str(stack.data_dir))
    (shown,) = blocks("")
    wanted = [re.escape(line).replace(r"\.\.\.", ".+") for line in shown.strip().splitlines()]
    lines = printed.strip().splitlines()
    assert len(lines) == len(wanted)
    for pattern, line in zip(wanted, lines, strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


def test_the_python_blocks_run_with_a_real_key_and_the_real_addresses(stack: Stack) -> None:
    ran = 0
    for block in blocks("python"):
        key = stack.issue(total_usd_cap="10.00")
        code = block.replace("rfk_...", key["token"]).replace("http://127.0.0.1:8080", stack.urls["proxy"])
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
        ran += 1
    assert ran == 2


def test_every_command_of_the_readme_works(stack: Stack) -> None:
    issued = run(stack, sys.executable, "-m", "controlplane.cli", "keys", "issue", "--agent", "billing-bot",
                 "--vendor", "stripe", "--total-cap", "100")  # fmt: skip
    key_id = re.search(r"vk_\w+", issued)
    assert key_id is not None
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("ringfence ")]
    assert len(commands) > 5
    for command in commands:
        words = command.replace("vk_...", key_id.group()).split()[1:]
        if words[:2] != ["keys", "issue"]:
            run(stack, sys.executable, "-m", "controlplane.cli", *words)


def test_the_yaml_of_the_readme_is_accepted(stack: Stack, tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    config = tmp_path / "ringfence.yaml"
    config.write_text(text)
    env = {**os.environ, "STRIPE_SECRET_KEY": "sk_1", "OPENAI_API_KEY": "sk-2"}
    command = [sys.executable, "-m", "controlplane.cli", "check", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_way_to_start_it_is_one_that_ringfence_up_takes() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if "/ringfence up" in line]
    assert len(lines) >= 2
    for line in lines:
        words = line.partition("/ringfence up")[2].split()
        up.make_context("up", words)  # raises UsageError for what it does not know


def test_the_pages_it_links_to_are_there() -> None:
    links = re.findall(r"\]\((docs/[^)]+)\)", README)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            assert anchor in anchors((ROOT / path).read_text()), link


def anchors(page: str) -> set[str]:
    """As GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
