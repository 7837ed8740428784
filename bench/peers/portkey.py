"""Portkey's gateway (npm `@portkey-ai/gateway`), with a provider and a host in each request's headers. Optional.

It is found by `PORTKEY_GATEWAY`, the directory in which `npm install @portkey-ai/gateway` was run.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.children import free_port, running
from bench.peers.base import Missing, Peer

HOW = (
    "Portkey is left out; to have it: npm install @portkey-ai/gateway in a directory of its own, "
    "and PORTKEY_GATEWAY=that directory"
)
START_S = 60.0


@contextlib.contextmanager
def proxy(directory: Path, core: int, upstream_port: int) -> Iterator[Peer]:
    """Raises Missing."""
    node, where = shutil.which("node"), os.environ.get("PORTKEY_GATEWAY", "")
    server = Path(where) / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if node is None or not where or not server.exists():
        raise Missing(HOW)
    port = free_port()
    command = [node, str(server), "--headless", f"--port={port}"]
    log = directory / "portkey.log"
    told = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }
    env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    with running(command, core=core, port=port, log=log, cwd=directory, env=env, ready_s=START_S) as pid:
        yield Peer("Portkey", f"http://127.0.0.1:{port}", lambda: [pid], headers=told)
