"""`make bench`: measures on this machine and prints Markdown; compare only figures of one run.

python -m bench                       all rows
python -m bench cpu --rounds 3        one row, shorter
python -m bench --check               a short form, against the committed baseline: exit code 1 if ratios became worse
python -m bench --baseline            all rows, and the result becomes the baseline
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.check import BASELINE, Incomparable, compare
from bench.machine import TooFewCores, choose_cores
from bench.peers.base import Missing
from bench.registry import CHECKED, ROWS
from bench.report import heading, read, result_of, write
from bench.run import Run


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
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
        print("\n".join(heading(result_of(run))), flush=True)
        for name in options.rows or (CHECKED if options.check else ROWS):
            try:
                print("\n".join(ROWS[name](run)), flush=True)
            except Missing as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
    return _conclude(run, options)


def _conclude(run: Run, options: argparse.Namespace) -> int:
    result = result_of(run)
    for note in run.notes:
        print(f"Note: {note}.")
    if run.figures:
        written = write(result)
        print(f"Written: {', '.join(str(path) for path in written)}")
        if options.baseline:
            shutil.copyfile(written[0], BASELINE)
            print(f"It is the baseline now: {BASELINE}")
    if not options.check:
        return 0
    try:
        lines, good = compare(result, read(BASELINE))
    except (Incomparable, OSError) as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0 if good else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Ringfence beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all if none is named")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 8; 4 with --check)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a contender's turn (default 2)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000], help="numbers of keys to start a worker with")
    parser.add_argument("--check", action="store_true", help="compare the ratios with bench/baseline.json")
    parser.add_argument("--baseline", action="store_true", help="make the result the baseline")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    options.rounds = options.rounds or (4 if options.check else 8)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
