"""CPU per chunk of a stream of events, beside nginx without buffering; and what 10,000 idle streams take."""

import contextlib
import resource
from collections.abc import Iterator

from bench.children import free_port
from bench.contenders import optional, raw_request
from bench.peers import nginx, ringfence, second
from bench.peers.base import Peer
from bench.processes import cpu_ns, resident_bytes
from bench.run import Run, ratio
from bench.stats import table
from bench.streams import StreamPlan, streaming
from bench.vendor import VendorSettings, vendor

ROW = "sse"
STREAMS, CHUNKS, PAUSE_S = 64, 100, 0.01
IDLE_ROW = "idle streams"
IDLE_STREAMS = 10_000
FILES = 65_536
AN_HOUR_S = 3_600.0


def measure(run: Run) -> list[str]:
    """Markdown lines."""
    costs: dict[str, list[float]] = {}
    settings = VendorSettings(free_port(), chunks=CHUNKS, pause_s=PAUSE_S)
    with _up(run, ROW, settings, compiled=True) as (peers, token):
        for number in range(run.rounds + 1):
            for peer in peers:
                cost = _round(run, peer, token)
                if number:  # the first warms up
                    costs.setdefault(peer.name, []).append(cost)
    rows = [
        [name, f"{run.add(ROW, name, 'chunk_us', values):.1f}", f"{min(values):.1f} to {max(values):.1f}"]
        for name, values in costs.items()
    ]
    for row in rows:
        ours, theirs = run.find(ROW, row[0], "chunk_us"), run.find(ROW, "nginx", "chunk_us")
        row.append(f"{ratio(ours, theirs):.2f}" if ours and theirs else "-")
    return [
        "## Streams of events",
        "",
        (
            f"{STREAMS} streams at once, {CHUNKS} chunks each, one every {PAUSE_S * 1000:.0f} ms; each chunk is a read "
            "and a write of its own. nginx with `proxy_buffering off`."
        ),
        "",
        *table(["proxy", "CPU us/chunk", "rounds", "x nginx"], rows),
    ]


def _round(run: Run, peer: Peer, token: str) -> float:
    port, request = raw_request(peer, token, stream=True)
    before = cpu_ns(peer.pids())
    with streaming(StreamPlan(port, request, STREAMS), run.cores.load) as streams:
        streams.report()
        done = streams.report()
    if done.failed or done.events < STREAMS * CHUNKS:
        raise RuntimeError(f"{peer.name}: {done}")
    return (cpu_ns(peer.pids()) - before) / 1000 / done.events


def measure_idle(run: Run) -> list[str]:
    """Markdown lines: memory of a node that holds many streams on which nothing happens."""
    files = _allow_files()
    count = min(IDLE_STREAMS, (files - 1_000) // 2)
    if count < IDLE_STREAMS:
        run.note(f"only {files} files may be open, so {count} idle streams instead of {IDLE_STREAMS}")
    settings = VendorSettings(free_port(), chunks=1_000, pause_s=AN_HOUR_S)
    with _up(run, "idle", settings, max_concurrent=count + 100) as (peers, token):
        gateway = peers[1]
        before = resident_bytes(gateway.pids())
        port, request = raw_request(gateway, token, stream=True)
        with streaming(StreamPlan(port, request, count, hold=True), run.cores.load) as streams:
            begun = streams.report()
            held = resident_bytes(gateway.pids())
    if begun.begun < count:
        raise RuntimeError(f"only {begun.begun} of {count} streams began")
    run.add(IDLE_ROW, "ringfence", "rss_bytes", [held])
    run.add(IDLE_ROW, "ringfence", "stream_bytes", [(held - before) / count])
    return [
        "## Idle streams",
        "",
        (
            f"{count:,} streams open through one worker: {held / 1e6:.0f} MB ({before / 1e6:.0f} MB before them), "
            f"{(held - before) / count / 1000:.1f} KB a stream."
        ),
        "",
    ]


@contextlib.contextmanager
def _up(
    run: Run, name: str, settings: VendorSettings, *, compiled: bool = False, **upstream: object
) -> Iterator[tuple[list[Peer], str]]:
    """The proxies before a vendor that streams (nginx, Ringfence, and with compiled modules), and a token."""
    scratch, cores = run.scratch / name, run.cores
    scratch.mkdir()
    with contextlib.ExitStack() as up:
        port = up.enter_context(vendor(scratch, cores.load, settings))
        plain = up.enter_context(nginx.proxy(scratch, cores.proxy, port, buffering=False))
        running = up.enter_context(
            ringfence.stack(scratch / "ringfence", cores, f"http://127.0.0.1:{port}", dict(upstream))
        )
        peers = [plain, ringfence.peer(running)]
        if compiled:
            peers += optional(run, up, second.compiled(running, cores.proxy))
        yield peers, ringfence.issue(running)


def _allow_files() -> int:
    """As many open files as the system lets this process have, for it and its children. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        with contextlib.suppress(ValueError, OSError):  # root alone may have more than it was given
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
            return FILES
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
