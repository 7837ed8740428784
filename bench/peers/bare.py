"""The bare aiohttp proxy: what anybody would write first, tuned, and governing nothing.

Run as a program it is the proxy: `python -m bench.peers.bare PORT UPSTREAM_URL`. aiohttp's low-level server and its
ClientSession on uvloop, with everything turned off that a proxy does not need; answers are read whole and written once.
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from bench.children import free_port, running
from bench.peers.base import Peer

REPO = Path(__file__).parents[2]
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"})
DROPPED = HOP_BY_HOP | {"host"}


@contextlib.contextmanager
def proxy(directory: Path, core: int, upstream_port: int) -> Iterator[Peer]:
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.bare", str(port), f"http://127.0.0.1:{upstream_port}"]
    with running(command, core=core, port=port, log=directory / "bare.log", cwd=REPO) as pid:
        yield Peer("bare aiohttp", f"http://127.0.0.1:{port}", lambda: [pid])


async def serve(port: int, upstream: str) -> None:
    """Proxy until the process is ended."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
            body = await request.read()
            async with session.request(
                request.method, upstream + request.raw_path, headers=headers, data=body, allow_redirects=False
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

        server = web.Server(handle, access_log=None)
        await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, backlog=1024)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
