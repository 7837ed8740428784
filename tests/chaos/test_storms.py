"""Storms over real processes: everything that can fail does, under load, and then the vendors' books decide.

`make test` runs two minutes of it, `make chaos` ten (docs/CHAOS.md). RINGFENCE_CHAOS_S sets another length,
RINGFENCE_CHAOS_SEED repeats a storm; RINGFENCE_CHAOS_KINDS (`kill,pair`) and RINGFENCE_CHAOS_PACE_S make it narrower. A
failing run prints seed and schedule, what was done when, and where its files are kept.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from chaos.books import Reckoning
from chaos.cluster import running_cluster
from chaos.faults import PACE_S, Fault, Storm, schedule
from chaos.load import Load
from chaos.record import Record

LONG_S = 600.0
SHORT_S = 80.0
"""Two minutes with the start before it and the reckoning after it, on two cores that are busy with other things too."""
SHORT_SEED = 518
"""Its schedule strikes the most sorts of processes in the most ways of some thousands."""
WORKERS = 4
CLUSTER = ("--controls", "2", "--nats-servers", "3")


async def storm(seed: int, duration_s: float, *, workers: int, arguments: tuple[str, ...] = ()) -> None:
    data_dir = Path(tempfile.mkdtemp(prefix=f"ringfence-chaos-{seed}-"))
    print(f"RINGFENCE_CHAOS_SEED={seed} RINGFENCE_CHAOS_S={duration_s:g}; its files: {data_dir}")  # noqa: T201
    findings = await _storm(data_dir, seed, duration_s, workers, arguments)
    assert not findings, "\n".join(findings)
    shutil.rmtree(data_dir, ignore_errors=True)  # kept only if there is something to study


async def _storm(data_dir: Path, seed: int, duration_s: float, workers: int, arguments: tuple[str, ...]) -> list[str]:
    async with running_cluster(data_dir, workers=workers, arguments=arguments) as cluster:
        record = Record(cluster.credentials)
        kinds = [kind for kind in os.environ.get("RINGFENCE_CHAOS_KINDS", "").split(",") if kind]
        pace_s = float(os.environ.get("RINGFENCE_CHAOS_PACE_S") or PACE_S)
        names, disks = sorted(cluster.processes()), sorted(cluster.disks)
        plan = schedule(seed, duration_s, names, sorted(cluster.relays), disks, only=kinds, pace_s=pace_s)
        (data_dir / "schedule.txt").write_text("\n".join(map(str, plan)))
        tempest = Storm(cluster, plan)
        async with Load(cluster, seed) as load:
            try:
                await tempest.run(duration_s)
                await load.until_serving()
            finally:
                _print(plan, tempest)
            await load.stop()
            reckoning = Reckoning(cluster, load.traffic, record)
            await reckoning.run(load.operators)
        print(dict(load.traffic.outcomes()))  # noqa: T201
        print(dict(sorted(tempest.struck.items())))  # noqa: T201
        print(reckoning.figures)  # noqa: T201
        return reckoning.findings


def _print(plan: list[Fault], tempest: Storm) -> None:
    print("the schedule:", *plan, sep="\n")  # noqa: T201 - pytest shows it when the run fails
    print("what was done:", *tempest.said, sep="\n")  # noqa: T201


def seed_of_this_run() -> int:
    return int(os.environ.get("RINGFENCE_CHAOS_SEED") or random.SystemRandom().randrange(10**6))


def length_s(default: float) -> float:
    return float(os.environ.get("RINGFENCE_CHAOS_S") or default)


async def test_a_short_storm() -> None:
    """In every test run, so always the same schedule: what it finds can be looked at again."""
    seed = int(os.environ.get("RINGFENCE_CHAOS_SEED") or SHORT_SEED)
    await storm(seed, length_s(SHORT_S), workers=WORKERS, arguments=CLUSTER)


@pytest.mark.slow
async def test_a_storm_on_one_machine() -> None:
    """One NATS server and one control plane: while either is away, everything is refused."""
    await storm(seed_of_this_run(), length_s(2 * SHORT_S), workers=3)


@pytest.mark.slow
async def test_a_long_storm() -> None:
    await storm(seed_of_this_run(), length_s(LONG_S), workers=WORKERS, arguments=CLUSTER)
