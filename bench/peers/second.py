"""A second worker of a gateway that runs: same log, control plane, audit and keys, in the slot that is spare.

So two ways to run a worker are measured beside each other, and only what differs between them differs: compiled modules
instead of interpreted ones, TLS instead of plain text.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.stack import Stack

from bench.children import READY_S, NotReady, free_port, running
from bench.peers.base import Missing, Peer
from bench.peers.ringfence import UPSTREAM, helpers

COMPILED = Path(__file__).parents[2] / "build" / "compiled"
HOW_COMPILED = "there are no compiled modules in build/compiled, so that row is left out; to have them: make wheel"

SLOT = "n2"
"""Of a gateway with one worker this one is spare: a successor's, in a rolling restart."""


@contextlib.contextmanager
def compiled(stack: Stack, core: int, name: str = "ringfence-compiled") -> Iterator[Peer]:
    """With the modules of `make wheel`. Raises Missing; RuntimeError if the worker does not use them."""
    if not any(COMPILED.rglob("*.so")):
        raise Missing(HOW_COMPILED)
    with worker(stack, core, name, env={"PYTHONPATH": str(COMPILED)}) as peer:
        (pid,) = peer.pids()
        if str(COMPILED) not in Path(f"/proc/{pid}/maps").read_text():
            raise RuntimeError(f"the worker does not use {COMPILED}")
        yield peer


@contextlib.contextmanager
def worker(
    stack: Stack, core: int, name: str, *, env: dict[str, str] | None = None, tls: dict[str, str] | None = None
) -> Iterator[Peer]:
    """A worker on a port of its own. `tls`: certificate and key files, to serve HTTPS. Raises NotReady."""
    run_dir, port = stack.data_dir / "run", free_port()
    mark, settings = run_dir / "second.mark", run_dir / "second.json"
    mark.unlink(missing_ok=True)
    described = json.loads((run_dir / "proxy-n1.json").read_text())
    described |= {"nats": _credentials(stack, described["nats"]), "port": port, "ready_mark": str(mark), "tls": tls}
    described["parent_pid"] = os.getpid()
    settings.touch(mode=0o600)
    settings.write_text(json.dumps(described))
    command = [sys.executable, "-P", "-m", "dataplane", "proxy", "--settings", str(settings), "--slot", SLOT]
    log = stack.data_dir / "logs" / "second.log"
    with running(command, core=core, port=port, log=log, cwd=stack.data_dir, env=env) as pid:
        _await_mark(mark, log)
        scheme = "https" if tls else "http"
        yield Peer(name, f"{scheme}://127.0.0.1:{port}/{UPSTREAM}", lambda: [pid], helpers(stack))


def _credentials(stack: Stack, first: dict[str, Any]) -> dict[str, Any]:
    """The spare slot's, as the supervisor would write them for a successor."""
    passwords = (stack.data_dir / "nats" / "passwords.conf").read_text()
    found = re.search(rf'^RF_NATS_{SLOT}: "?([^"\n]+)"?$', passwords, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no password for slot {SLOT} in nats/passwords.conf")
    inbox_prefix = first["inbox_prefix"].replace(first["slot"], SLOT)
    return {**first, "user": SLOT, "slot": SLOT, "password": found[1], "inbox_prefix": inbox_prefix}


def _await_mark(mark: Path, log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while not mark.exists():
        if time.monotonic() > deadline_s:
            raise NotReady(f"the second worker admits nothing:\n{log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.02)
