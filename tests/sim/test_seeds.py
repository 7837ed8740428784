"""Random stories: whatever the seed, every promise is kept. A failure prints the seed that repeats it.

RINGFENCE_SIM_SEED=17 pytest tests/sim/test_seeds.py      one seed, with its trace if it fails
RINGFENCE_SIM_SEEDS=5000 pytest tests/sim/test_seeds.py   more of them, from RINGFENCE_SIM_FIRST on

`make test` plays 300 seeds, `make chaos` 10,000 others.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from sim.chaos import CLIMATES

SEEDS = 300
MANY_SEEDS = 10_000
PROCESSES = 2
"""Seeds are independent of each other; each process takes its share."""

TESTS = Path(__file__).parents[1]


class Running(NamedTuple):
    """A process that plays seeds. It prints into a file: into a pipe it would wait until somebody reads."""

    process: "subprocess.Popen[str]"
    printed: IO[str]


def start(*arguments: str, module: str = "sim.run", hash_seed: str = "0") -> Running:
    """Run seeds in a process of their own. Strings hash alike in each, so that a seed gives the same run anywhere."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-m", module, *arguments]
    printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `finish` closes it
    return Running(subprocess.Popen(command, env=environment, stdout=printed, text=True, cwd=TESTS.parent), printed)


def finish(running: Running) -> list[str]:
    """The lines that it printed."""
    running.process.wait()
    with running.printed as printed:
        printed.seek(0)
        return printed.read().splitlines()


def results_of(running: Running) -> list[dict[str, Any]]:
    """What it found, seed by seed."""
    lines = finish(running)
    assert running.process.returncode == 0, f"the simulation itself failed after {lines[-1:]}"
    return [json.loads(line) for line in lines]


def run_seeds(first: int, count: int) -> None:
    share = -(-count // PROCESSES)
    running = [
        start("--first", str(begin), "--count", str(min(share, first + count - begin)))
        for begin in range(first, first + count, share)
    ]
    results = [result for each in running for result in results_of(each)]
    assert len(results) == count
    failed = [result for result in results if result["violations"]]
    if failed:
        lines = [f"RINGFENCE_SIM_SEED={each['seed']} ({each['climate']}): {each['violations'][0]}" for each in failed]
        smallest = finish(start(str(failed[0]["seed"]), module="sim.minimise"))
        told = ("broken promises; each line begins with what repeats it", *lines[:20], "the first one, made small:")
        pytest.fail("\n".join((*told, *smallest)), pytrace=False)
    check_that_something_happened(results)


def check_that_something_happened(results: list[dict[str, Any]]) -> None:
    """A simulation in which nobody is fenced, refused or revoked proves nothing."""
    if len(results) < SEEDS // 2:
        return
    for what in ("dispatched", "refused", "tight", "fenced", "KeyRevoked", "RequestRevalidated", "relayed", "faults"):
        assert sum(result["counts"].get(what, 0) for result in results) >= len(results) // 20, what
    if len(results) < SEEDS:
        return
    faults = {f"fault {name}" for climate in CLIMATES.values() for name, _ in climate.weights}
    assert sorted(faults.difference(*(result["counts"] for result in results))) == []


def test_seeds() -> None:
    if "RINGFENCE_SIM_SEED" in os.environ:
        one_seed(os.environ["RINGFENCE_SIM_SEED"])
    else:
        run_seeds(int(os.environ.get("RINGFENCE_SIM_FIRST", "1")), int(os.environ.get("RINGFENCE_SIM_SEEDS", SEEDS)))


def one_seed(seed: str) -> None:
    *trace, verdict = finish(start("--first", seed, "--trace"))
    found = json.loads(verdict)["violations"]
    assert not found, "\n".join((*trace, *found))


FOUND = (702_017, 805_652, 906_015)
"""Seeds that once broke a promise: 702017 reconciled a request that a node, fenced unheard, sent afterwards; 805652 one
that had cost more than its bound, and what was lent above the cap by then was not recalled; in 906015 requests that did
not know of a new cap took the account above it, and what others left over of their leases was lent on.
"""


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once(seed: int) -> None:
    one_seed(str(seed))


@pytest.mark.slow
def test_many_seeds() -> None:
    run_seeds(100_000, int(os.environ.get("RINGFENCE_SIM_SEEDS", MANY_SEEDS)))


def test_a_seed_gives_the_same_run_anywhere() -> None:
    """Two processes, in which strings hash differently: the same events at the same times."""
    digests = [
        [result["digest"] for result in results_of(running)]
        for running in [start("--first", "1", "--count", "12", hash_seed=hash_seed) for hash_seed in ("1", "2")]
    ]
    assert len(digests[0]) == 12
    assert digests[0] == digests[1]
