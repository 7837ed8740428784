"""`make bench`: measures on this machine and prints Markdown. Asserts nothing; compare only figures of one run.

python -m bench                       all rows
python -m bench cpu --rounds 3        one row, shorter
"""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import TooFewCores, choose_cores, describe
from bench.peers.base import Missing
from bench.registry import ROWS
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
        )
        print(f"# Ringfence, measured (run {run.run_id})\n\n{describe()}\n", flush=True)
        for name in options.rows or ROWS:
            try:
                print("\n".join(ROWS[name](run)), flush=True)
            except Missing as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Ringfence beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=8, help="interleaved rounds (default 8)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a contender's turn (default 2)")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
