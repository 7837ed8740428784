"""Relays between processes and NATS, and between NATS servers: settings are rewritten to lead through them.

| wire | how it gets there |
|---|---|
| a process to each NATS server | `run/<process>.json` names the relays in place of the servers |
| a NATS server to each other one | its `nats.conf` includes a list of routes of its own, through relays |

Two servers keep one connection, whichever of them dialled; so all four wires of a server belong to it.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

from chaos.relay import Relay

INCLUDE = 'include "../passwords.conf"'
_ROUTES_LINE = re.compile(r"^RF_NATS_routes: (\[.*\])$", re.MULTILINE)
_CLUSTER_PORT = re.compile(r"^cluster \{.*?^    port: (\d+)$", re.MULTILINE | re.DOTALL)


async def wire_processes(data_dir: Path) -> dict[str, list[Relay]]:
    """Rewrites the settings of all processes that use NATS. They must be started again."""
    wired = {}
    for path in sorted((data_dir / "run").glob("*.json")):
        settings = json.loads(path.read_text())
        if "nats" in settings:
            relays = [await _relay(url) for url in settings["nats"]["servers"]]
            settings["nats"]["servers"] = [f"nats://127.0.0.1:{relay.port}" for relay in relays]
            path.write_text(json.dumps(settings))
            wired[path.stem] = relays
    return wired


async def wire_routes(data_dir: Path) -> dict[str, list[Relay]]:
    """Rewrites the routes of a cluster's servers; nothing for a single server. They must be started again."""
    configs = sorted((data_dir / "nats").glob("s*/nats.conf"))
    wired: dict[str, list[Relay]] = defaultdict(list)
    if not configs:
        return wired
    shared = data_dir / "nats" / "passwords.conf"
    (found,) = _ROUTES_LINE.findall(shared.read_text())
    by_port = {urlsplit(url).port: url for url in json.loads(found)}
    ports = {config.parent.name: int(_CLUSTER_PORT.findall(config.read_text())[0]) for config in configs}
    for config in configs:
        here = config.parent.name
        routes = []
        for there, port in ports.items():
            if there != here:
                relay = await _relay(by_port[port])
                wired[f"nats-{here}"].append(relay)
                wired[f"nats-{there}"].append(relay)
                routes.append(by_port[port].replace(f":{port}", f":{relay.port}"))
        # A copy of what all servers include, because a variable that is not used is an error.
        own = _ROUTES_LINE.sub(f"RF_NATS_routes: {json.dumps(routes)}", shared.read_text())
        (config.parent / "passwords.conf").write_text(own)
        text = config.read_text()
        assert INCLUDE in text
        config.write_text(text.replace(INCLUDE, 'include "passwords.conf"'))
    return wired


async def _relay(url: str) -> Relay:
    where = urlsplit(url)
    relay = Relay(where.hostname or "127.0.0.1", where.port or 4222)
    await relay.start()
    return relay
