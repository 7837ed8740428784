"""Runs seeds, in a process of its own, and prints what it found as JSON lines.

python -m sim.run --first 1 --count 100 [--climate all] [--only fault.3,call.1.7] [--trace]
"""

import argparse
import hashlib
import json
import sys
import time

from sim.loop import run_virtual
from sim.story import Result, Story


def run_seed(seed: int, climate: str = "", only: frozenset[str] | None = None) -> Result:
    """One story, from its seed; of its items only some, if they are named (sim.trim)."""

    async def main() -> Result:
        return await Story(seed, climate, only).run()

    result: Result = run_virtual(main())
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sim.run")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--climate", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after this long")
    parser.add_argument("--only", default="", help="items to play, separated by commas; all others are left out")
    parser.add_argument("--trace", action="store_true", help="print each seed's trace")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    for seed in range(options.first, options.first + options.count):
        if time.monotonic() - began > options.seconds:
            break
        result = run_seed(seed, options.climate, frozenset(options.only.split(",")) if options.only else None)
        if options.trace:
            sys.stdout.write("\n".join(result.trace) + "\n")
        digest = hashlib.sha256("\n".join(result.trace).encode()).hexdigest()
        summary = {
            "seed": seed,
            "climate": result.climate,
            "violations": result.violations[:5],
            "counts": result.counts,
            "ends": result.ends,
            "digest": digest,
        }
        sys.stdout.write(json.dumps(summary) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
