"""The smallest story in which a seed still breaks the same promise.

python -m sim.minimise SEED [--climate X]     prints that story, and one line that repeats it

Everything that happens in a story is an item with a name (sim.trim). Items are left out, in halves, then in smaller
and smaller parts, as long as a violation of the same kind stays. What the network draws may come out differently each
time, so a smaller story need not break at the same place; it breaks the same promise.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sim.run import run_seed
from sim.story import Result

MAX_RUNS = 400
"""A minute or two; what is left then is printed."""

_KIND = re.compile(r"(?:at [\d.]+ s: )?(\w+)")


class Smallest(NamedTuple):
    """`items`: what has to be played. `runs`: how many stories it took to find out."""

    items: list[str]
    result: Result
    runs: int


def kind_of(violation: str) -> str:
    """`P1`, `S2`, `stuck`, `crashed`, ..: which promise was broken."""
    found = _KIND.match(violation)
    return found.group(1) if found else violation


def minimise(seed: int, climate: str = "", play: Callable[..., Result] = run_seed) -> Smallest | None:
    """None: the seed breaks nothing."""
    whole = play(seed, climate)
    if not whole.violations:
        return None
    wanted, runs = kind_of(whole.violations[0]), [0]
    best = whole

    def breaks(items: Sequence[str]) -> bool:
        nonlocal best
        runs[0] += 1
        result = _try(play, seed, whole.climate, items)
        if result is None or not any(kind_of(violation) == wanted for violation in result.violations):
            return False
        best = result
        return True

    items = whole.items
    if not breaks(items):
        return Smallest(items, whole, runs[0])  # cannot be: the same items are the same story
    parts = 2
    while len(items) >= 1 and runs[0] < MAX_RUNS:
        smaller = _leave_out_a_part(items, parts, breaks, lambda: runs[0] < MAX_RUNS)
        if len(smaller) < len(items):
            items, parts = smaller, 2 if len(smaller) < len(items) // 2 else parts
        elif parts >= len(items):
            break
        else:
            parts = min(len(items), 2 * parts)
    return Smallest(items, best, runs[0])


def _leave_out_a_part(
    items: list[str], parts: int, breaks: Callable[[Sequence[str]], bool], more: Callable[[], bool]
) -> list[str]:
    """Go through the parts once, and leave out each that is not needed."""
    size = -(-len(items) // parts)
    begin = 0
    while begin < len(items) and more():
        rest = items[:begin] + items[begin + size :]
        if breaks(rest):
            items = rest
        else:
            begin += size
    return items


def _try(play: Callable[..., Result], seed: int, climate: str, items: Sequence[str]) -> Result | None:
    """None: without these items it does not even get as far as a verdict."""
    try:
        return play(seed, climate, frozenset(items) or frozenset({"nothing"}))
    except AssertionError:
        return None


def repeat_line(seed: int, climate: str, items: Sequence[str]) -> str:
    """What to type to see it again."""
    return f"python -m sim.run --first {seed} --climate {climate} --only {','.join(items) or 'nothing'} --trace"


def show(seed: int, smallest: Smallest) -> str:
    """For people: what happened, what it broke, how to see it again."""
    said = [line for line in smallest.result.trace if " ITEM " in line]
    told = {line.partition(" ITEM ")[2].partition(":")[0] for line in said}
    silent = [item for item in smallest.items if item not in told]
    begin = [line for line in smallest.result.trace if " EPOCH " in line]
    lines = [
        f"seed {seed}, climate {smallest.result.climate}: {len(smallest.items)} items, found in {smallest.runs} runs",
        *begin,
        *(f"item {item}" for item in silent),
        *said,
        *smallest.result.violations[:3],
        repeat_line(seed, smallest.result.climate, smallest.items),
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sim.minimise")
    parser.add_argument("seed", type=int)
    parser.add_argument("--climate", default="")
    options = parser.parse_args(arguments)
    smallest = minimise(options.seed, options.climate)
    sys.stdout.write(
        f"seed {options.seed} breaks nothing\n" if smallest is None else show(options.seed, smallest) + "\n"
    )
    return 0 if smallest is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
