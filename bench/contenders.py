"""All proxies up side by side, before one upstream that costs next to nothing."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from support.stack import Stack

from bench.payload import PATH, request_body
from bench.peers import bare, envoy, litellm, nginx, portkey, ringfence, second
from bench.peers.base import Missing, Peer
from bench.run import Run

DIRECT = "no proxy"


@dataclass(frozen=True)
class Contenders:
    """`direct`: the upstream itself. `token`: a vault key with everything on; the others pass it through."""

    direct: Peer
    peers: list[Peer]
    gateway: Peer
    token: str
    running: Stack


@contextlib.contextmanager
def contenders(
    run: Run, row: str, *, others: bool = True, settings: Mapping[str, object] | None = None
) -> Iterator[Contenders]:
    """Raises Missing for nginx; leaves out others that are not installed, and notes it."""
    scratch, cores = run.scratch / row, run.cores
    scratch.mkdir(exist_ok=True)
    with contextlib.ExitStack() as up:
        port = up.enter_context(nginx.upstream(scratch, cores.load))
        peers = []
        if others:
            peers.append(up.enter_context(nginx.proxy(scratch, cores.proxy, port)))
            peers.append(up.enter_context(bare.proxy(scratch, cores.proxy, port)))
            for other in (envoy, portkey, litellm):
                peers += optional(run, up, other.proxy(scratch, cores.proxy, port))
        url = f"http://127.0.0.1:{port}"
        running = up.enter_context(ringfence.stack(scratch / "ringfence", cores, url, settings))
        gateway = ringfence.peer(running)
        peers.append(gateway)
        if others:
            peers += optional(run, up, second.compiled(running, cores.proxy))
        direct = Peer(DIRECT, url, list)
        yield Contenders(direct, peers, gateway, ringfence.issue(running), running)


def optional(run: Run, up: contextlib.ExitStack, proxy: contextlib.AbstractContextManager[Peer]) -> list[Peer]:
    """The proxy, if it is installed; else it is noted that it is not."""
    try:
        return [up.enter_context(proxy)]
    except Missing as missing:
        run.note(str(missing))
        return []


def raw_request(peer: Peer, token: str, *, stream: bool = False) -> tuple[int, str]:
    """The port, and the bytes of one call."""
    place, _, prefix = peer.url.removeprefix("http://").partition("/")
    body = request_body(stream=stream)
    path = f"/{prefix}{PATH}" if prefix else PATH
    headers = {
        "Host": place,
        "Content-Type": "application/json",
        "Authorization": f"Bearer {token}",
        "Content-Length": f"{len(body)}",
        **peer.headers,
    }
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return int(place.rpartition(":")[2]), head + "\r\n" + body.decode()
