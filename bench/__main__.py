"""`make bench`: measures on this machine and prints Markdown; compare only figures of one run.

python -m bench                       all rows
python -m bench cpu --rounds 3        one row, shorter
python -m bench --check               a short form, against the committed baseline: exit code 1 if ratios became worse
python -m bench --baseline            all rows, and the result becomes the baseline
python -m bench --verdicts FILE       a result's JSON against what is promised, without measuring anything
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.check import BASELINE, Incomparable, compare
from bench.machine import TooFewCores, choose_cores, preceding
from bench.peers.base import Missing
from bench.registry import CHECKED, ROWS
from bench.report import heading, read, result_of, write
from bench.run import Run
from bench.targets import Mixed, verdicts


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    if options.verdicts:
        return _judge(options.verdicts)
    try:
        cores = choose_cores()
    except TooFewCores as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as directory:
        run = Run(
            run_id=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(3),
            cores=cores,
            rounds=options.rounds,
            seconds=options.seconds,
            connections=options.connections,
            scratch=Path(directory),
            key_counts=tuple(sorted(options.keys)),
        )
        try:
            with preceding():
                said = _measure(run, options.rows or (CHECKED if options.check else ROWS))
        except Missing as error:
            print(error, file=sys.stderr)
            return 2
    return _conclude(run, said, options)


def _measure(run: Run, names: Iterable[str]) -> list[str]:
    """Row by row, told as it goes. Returns all that was told."""
    said = heading(result_of(run))
    print("\n".join(said), flush=True)
    for name in names:
        try:
            lines = ROWS[name](run)
        except Missing:
            raise
        except Exception as error:  # noqa: BLE001 - the rest of a long run is not lost; told, and by the exit code too
            run.failed.append(name)
            run.note(f"the row `{name}` failed: {type(error).__name__}: {str(error)[:300]}")
            continue
        print("\n".join(lines), flush=True)
        said += lines
    return said


def _conclude(run: Run, said: list[str], options: argparse.Namespace) -> int:
    result = result_of(run)
    lines = [*verdicts([result]), *(f"Note: {note}.\n" for note in run.notes)]
    print("\n".join(lines))
    if run.figures:
        written = write(result, [*said, *lines])
        print(f"Written: {', '.join(str(path) for path in written)}")
        if options.baseline:
            shutil.copyfile(written[0], BASELINE)
            print(f"It is the baseline now: {BASELINE}")
    if not options.check:
        return 1 if run.failed else 0
    try:
        compared, good = compare(result, read(BASELINE))
    except (Incomparable, OSError) as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return 2
    print("\n".join(compared))
    return 0 if good and not run.failed else 1


def _judge(paths: list[Path]) -> int:
    try:
        print("\n".join(verdicts(read(path) for path in paths)))
    except (Mixed, OSError, msgspec.DecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Ringfence beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all if none is named")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 8; 4 with --check)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a contender's turn (default 2)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000], help="to start a worker with")
    parser.add_argument("--check", action="store_true", help="compare the ratios with bench/baseline.json")
    parser.add_argument("--baseline", action="store_true", help="make the result the baseline")
    parser.add_argument("--verdicts", type=Path, nargs="+", metavar="FILE", help="judge a result; measure nothing")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    options.rounds = options.rounds or (4 if options.check else 8)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
