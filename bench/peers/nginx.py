"""nginx twice: as the proxy to compare with, and as the upstream that costs next to nothing."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.children import free_port, running
from bench.payload import answer_body
from bench.peers.base import Missing, Peer
from bench.processes import family

HOW = "nginx is not installed; it is the yardstick of the report: apt-get install nginx-light"

_COMMON = """\
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
worker_rlimit_nofile 60000;
events {{ worker_connections 25000; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {http}
}}
"""

_PROXY = """\
upstream vendor {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://vendor;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering {buffering};
        }}
    }}"""

_UPSTREAM = """\
server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type application/json; return 200 '{answer}'; }}
    }}"""


@contextlib.contextmanager
def upstream(directory: Path, core: int) -> Iterator[int]:
    """Answers everything with the same 442 bytes. Yields its port. Raises Missing."""
    port = free_port()
    http = _UPSTREAM.format(port=port, answer=answer_body().decode())
    with _nginx(directory / "nginx-upstream", http, port, core):
        yield port


@contextlib.contextmanager
def proxy(directory: Path, core: int, upstream_port: int, *, buffering: bool = True) -> Iterator[Peer]:
    """A plain reverse proxy with kept connections on both sides. Raises Missing."""
    port = free_port()
    http = _PROXY.format(port=port, upstream=upstream_port, buffering="on" if buffering else "off")
    with _nginx(directory / f"nginx-proxy-{port}", http, port, core) as pid:
        # Its master only waits; the worker is what works.
        workers = family(pid)
        yield Peer("nginx", f"http://127.0.0.1:{port}", lambda: workers)


@contextlib.contextmanager
def _nginx(directory: Path, http: str, port: int, core: int) -> Iterator[int]:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise Missing(HOW)
    directory.mkdir(parents=True)
    config = directory / "nginx.conf"
    config.write_text(_COMMON.format(directory=directory, http=http))
    command = [binary, "-c", str(config), "-p", str(directory), "-g", "daemon off;"]
    with running(command, core=core, port=port, log=directory / "out.log", cwd=directory) as pid:
        yield pid
