"""The compiled build: `RINGFENCE_COMPILED=1 pip wheel --no-build-isolation --no-deps .` (or `make wheel`).

Without that variable this file adds nothing, and Ringfence is pure Python. With it mypyc turns the modules that a
request passes through into C extensions: the same source, the same checks, about a third less CPU per request
(docs/PERFORMANCE.md). It needs a C compiler and this project's `dev` extra. See docs/adr/0015.

Left out are modules that mypyc would translate wrongly or not at all: those with msgspec structs (it drops the class
keywords that make them frozen and tagged), those whose classes inherit from a library's (aiohttp's server and answers,
Prometheus' collectors), and the edges of the process, where nothing is to be gained.
"""

import os
import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

FOLDERS = ("dataplane/core", "dataplane/adapters", "dataplane/upstream")
"""Compiled whole."""

MODULES = (
    "dataplane/admit.py",
    "dataplane/answer.py",
    "dataplane/dispatch.py",
    "dataplane/door.py",
    "dataplane/ends.py",
    "dataplane/enforce.py",
    "dataplane/exchange.py",
    "dataplane/feed.py",
    "dataplane/governor.py",
    "dataplane/heads.py",
    "dataplane/incoming.py",
    "dataplane/inflight.py",
    "dataplane/intake.py",
    "dataplane/journal.py",
    "dataplane/leases.py",
    "dataplane/membership.py",
    "dataplane/node.py",
    "dataplane/proxy.py",
    "dataplane/randomness.py",
    "dataplane/relay.py",
    "dataplane/streaming.py",
    "events/tasks.py",
    "dataplane/topup.py",
    "dataplane/upstreams.py",
    "events/log/group.py",
    "events/log/writer.py",
    "schemas/ids.py",
    "schemas/prices.py",
    "schemas/refusals.py",
)


def compiled_modules() -> list[str]:
    """Paths of what is compiled, relative to this file's directory."""
    found = [path.relative_to(HERE) for folder in FOLDERS for path in sorted((HERE / folder).rglob("*.py"))]
    paths = [*found, *map(Path, MODULES)]
    return [str(path) for path in paths if path.name != "__init__.py" and not _has_structs(HERE / path)]


def _has_structs(path: Path) -> bool:
    return "msgspec.Struct" in path.read_text(encoding="utf-8")


if __name__ == "__main__":
    extensions = []
    # Building asks for the metadata first, which needs no extensions.
    if os.environ.get("RINGFENCE_COMPILED") == "1" and not {"bdist_wheel", "build", "build_ext"}.isdisjoint(sys.argv):
        from mypyc.build import mypycify

        extensions = mypycify(compiled_modules(), opt_level="3", multi_file=True)
    setup(ext_modules=extensions)
