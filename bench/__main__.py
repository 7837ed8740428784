"""`make bench`: measures on this machine and prints Markdown. Asserts nothing; compare only figures of one run.

python -m bench                   all of it
python -m bench revocation        one part
"""

import asyncio
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench import gateway, ledger, revocation

Part = Callable[[Path], list[str]]

PARTS: dict[str, Part] = {
    "ledger": lambda _: ledger.run(),
    "gateway": lambda data_dir: asyncio.run(gateway.run(data_dir)),
    "revocation": lambda data_dir: asyncio.run(revocation.run(data_dir)),
}


def main(chosen: list[str]) -> int:
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print("# Ringfence, measured\n")
    print(f"{platform.machine()}, Python {platform.python_version()}, aiohttp {version('aiohttp')}, "
          f"ringfence {version('ringfence')}. Shared machines are noisy: trust ratios within this run.\n")  # fmt: skip
    for name in chosen or PARTS:
        with tempfile.TemporaryDirectory() as directory:
            print("\n".join(PARTS[name](Path(directory))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
