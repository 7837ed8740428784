"""Random stories: whatever the seed, every promise is kept. A failure prints the seed that repeats it.

RINGFENCE_SIM_SEED=17 pytest tests/sim/test_seeds.py      one seed, with its trace if it fails
RINGFENCE_SIM_SEEDS=5000 pytest tests/sim/test_seeds.py   more of them, from RINGFENCE_SIM_FIRST on
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEEDS = 160
MANY_SEEDS = 4_000
PROCESSES = 2
"""Seeds are independent of each other; each process takes its share."""

TESTS = Path(__file__).parents[1]


def start(*arguments: str, hash_seed: str = "0") -> "subprocess.Popen[str]":
    """Run seeds in a process of their own. Strings hash alike in each, so that a seed gives the same run anywhere."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-m", "sim.run", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)


def finish(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """What it found, seed by seed."""
    printed, _ = process.communicate()
    assert process.returncode == 0, f"the simulation itself failed after {printed[-200:]!r}"
    return [json.loads(line) for line in printed.splitlines()]


def run_seeds(first: int, count: int) -> None:
    share = -(-count // PROCESSES)
    running = [
        start("--first", str(begin), "--count", str(min(share, first + count - begin)))
        for begin in range(first, first + count, share)
    ]
    results = [result for process in running for result in finish(process)]
    assert len(results) == count
    failed = [result for result in results if result["violations"]]
    if failed:
        lines = [f"RINGFENCE_SIM_SEED={each['seed']} ({each['climate']}): {each['violations'][0]}" for each in failed]
        pytest.fail("\n".join(("broken promises; each line begins with what repeats it", *lines[:20])), pytrace=False)
    check_that_something_happened(results)


def check_that_something_happened(results: list[dict[str, Any]]) -> None:
    """A simulation in which nobody is fenced, refused or revoked proves nothing."""
    if len(results) < SEEDS // 2:
        return
    for what in ("dispatched", "refused", "tight", "fenced", "KeyRevoked", "RequestRevalidated", "relayed", "faults"):
        assert sum(result["counts"].get(what, 0) for result in results) >= len(results) // 20, what


def test_seeds() -> None:
    if "RINGFENCE_SIM_SEED" in os.environ:
        one_seed(os.environ["RINGFENCE_SIM_SEED"])
    else:
        run_seeds(int(os.environ.get("RINGFENCE_SIM_FIRST", "1")), int(os.environ.get("RINGFENCE_SIM_SEEDS", SEEDS)))


def one_seed(seed: str) -> None:
    printed, _ = start("--first", seed, "--trace").communicate()
    *trace, verdict = printed.splitlines()
    found = json.loads(verdict)["violations"]
    assert not found, "\n".join((*trace, *found))


@pytest.mark.slow
def test_many_seeds() -> None:
    run_seeds(100_000, int(os.environ.get("RINGFENCE_SIM_SEEDS", MANY_SEEDS)))


def test_a_seed_gives_the_same_run_anywhere() -> None:
    """Two processes, in which strings hash differently: the same events at the same times."""
    digests = [
        [result["digest"] for result in finish(process)]
        for process in [start("--first", "1", "--count", "12", hash_seed=hash_seed) for hash_seed in ("1", "2")]
    ]
    assert len(digests[0]) == 12
    assert digests[0] == digests[1]
