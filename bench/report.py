"""What a run leaves behind: its figures, machine and versions as JSON, what it said as Markdown, and a chart."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.chart import bars
from bench.machine import describe, program_version
from bench.run import Figure, Run

RESULTS = Path(__file__).parent / "results"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Figures of two results must not be compared; ratios within each may."""

    run_id: str
    at: str
    machine: dict[str, object]
    rounds: int
    seconds: float
    connections: int
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def result_of(run: Run) -> Result:
    programs = {
        "nginx": program_version("nginx"),
        "wrk": program_version("wrk"),
        "envoy": program_version("envoy", "--version"),
    }
    machine = describe()
    machine["programs"] = {name: found for name, found in programs.items() if found}
    return Result(
        run_id=run.run_id,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=machine,
        rounds=run.rounds,
        seconds=run.seconds,
        connections=run.connections,
        figures=tuple(run.figures),
        notes=tuple(run.notes),
    )


def write(result: Result, lines: Sequence[str], directory: Path = RESULTS) -> list[Path]:
    """Write `<run>.json`, `<run>.md` of `lines`, and `<run>.svg` if there is something to draw. Returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.run_id}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    told = path.with_suffix(".md")
    told.write_text("\n".join(lines) + "\n")
    written = [path, told]
    costs = {
        f.contender: f.value
        for f in result.figures
        if (f.row, f.metric) == ("cpu", "cpu_us") and ":" not in f.contender
    }
    if costs:
        chart = path.with_suffix(".svg")
        chart.write_text(bars(f"CPU us per request (run {result.run_id})", costs))
        written.append(chart)
    return written


def read(path: Path) -> Result:
    """Raises OSError; msgspec.DecodeError for a file that is no result."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def heading(result: Result) -> list[str]:
    """Markdown: which run, on what."""
    machine = result.machine
    versions = {**_texts(machine["versions"]), **_texts(machine["programs"])}
    return [
        f"# Ringfence, measured (run {result.run_id})",
        "",
        f"{machine['model']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        "Absolute figures drift with the machine; ratios within this run are what counts.",
        "",
    ]


def _texts(value: object) -> dict[str, str]:
    return msgspec.convert(value, dict[str, str])
