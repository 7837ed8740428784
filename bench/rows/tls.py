"""TLS to the vendor, and from clients: what each costs on kept connections.

The vendor is reached by a name (`localhost`) over TLS with verification, as a real one is; its certificate comes from
an authority made for the run. Beside it the same vendor without TLS, and a second worker that serves its clients over
TLS, in turn. Had a connection or a name not been used again, handshakes and look-ups would show in the figures.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import trustme

from bench import wrk
from bench.children import free_port
from bench.peers import ringfence, second
from bench.peers.base import Peer
from bench.processes import cpu_ns
from bench.run import Run, ratio
from bench.stats import table
from bench.vendor import VendorSettings, vendor

ROW = "tls"
PLAIN, TO_VENDOR, FROM_CLIENTS = "plain", "TLS to the vendor", "TLS from clients"


def measure(run: Run) -> list[str]:
    """Markdown lines."""
    costs: dict[str, list[float]] = {PLAIN: [], TO_VENDOR: [], FROM_CLIENTS: []}
    connections: dict[str, int] = {}
    with _gateways(run) as gateways:
        for number in range(run.rounds + 1):
            for name, (peer, token, port) in gateways.items():
                cost = _round(run, peer, token)
                if number:  # the first warms up
                    costs[name].append(cost)
                connections[name] = _connections_to(port)
    for name, values in costs.items():
        run.add(ROW, name, "cpu_us", values)
    rows = [[name, *_cells(run, name), f"{connections[name]}"] for name in costs]
    return [
        "## TLS",
        "",
        (
            f"{run.connections} connections of clients, vendor by name with verification; {run.rounds} interleaved "
            f"rounds of {run.seconds:g} s. Connections are kept, so handshakes and look-ups do not show. (The first "
            "and the last are two workers of one gateway and share a vendor.)"
        ),
        "",
        *table(["", "CPU us/request", "x plain", "connections to the vendor at the end"], rows),
    ]


def _cells(run: Run, name: str) -> list[str]:
    cost, plain = run.find(ROW, name, "cpu_us"), run.find(ROW, PLAIN, "cpu_us")
    return [f"{cost.value:.1f}", f"{ratio(cost, plain):.2f}"] if cost and plain else ["-", "-"]


def _round(run: Run, peer: Peer, token: str) -> float:
    before = cpu_ns(peer.pids())
    done = wrk.saturate(
        peer,
        token,
        core=run.cores.load,
        connections=run.connections,
        duration_s=run.seconds,
        scratch=run.scratch,
    )
    return (cpu_ns(peer.pids()) - before) / 1000 / done.requests


@contextlib.contextmanager
def _gateways(run: Run) -> Iterator[dict[str, tuple[Peer, str, int]]]:
    """Proxy, token, and its vendor's port. Two gateways with a vendor each, and a worker beside the plain one's."""
    scratch, cores = run.scratch / ROW, run.cores
    scratch.mkdir()
    certificate, key, authority = _certificate(scratch)
    with contextlib.ExitStack() as up:
        gateways = {}
        for name, files in ((PLAIN, ("", "")), (TO_VENDOR, (certificate, key))):
            settings = VendorSettings(free_port(), certificate=files[0], key=files[1])
            port = up.enter_context(vendor(scratch, cores.load, settings))
            url = f"{'https' if files[0] else 'http'}://localhost:{port}"
            with _trusting(authority):
                running = up.enter_context(ringfence.stack(scratch / name, cores, url))
            token = ringfence.issue(running)
            gateways[name] = (ringfence.peer(running), token, port)
            if name == PLAIN:
                tls = {"cert_file": certificate, "key_file": key}
                beside = up.enter_context(second.worker(running, cores.proxy, FROM_CLIENTS, tls=tls))
                gateways[FROM_CLIENTS] = (beside, token, port)
        yield gateways


def _certificate(directory: Path) -> tuple[str, str, str]:
    """Paths of a chain, its key, and the authority that signed it."""
    authority = trustme.CA()
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    leaf = authority.issue_cert("localhost", not_after=tomorrow)
    paths = [directory / name for name in ("chain.pem", "key.pem", "authority.pem")]
    paths[0].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(paths[1]))
    authority.cert_pem.write_to_path(str(paths[2]))
    return str(paths[0]), str(paths[1]), str(paths[2])


@contextlib.contextmanager
def _trusting(authority: str) -> Iterator[None]:
    """Processes that are started inside trust this authority (OpenSSL's own variable)."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = authority
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


def _connections_to(port: int) -> int:
    """Established connections to a local port, in the kernel's own table."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01")
