"""Writes the settings and secrets that compose/docker-compose.yaml mounts, for this deployment alone.

    python -m controlplane.up.compose [--config ringfence.yaml] compose/private

    DIR/control-1/settings.json, control-2     the control planes
    DIR/audit/settings.json                    the audit, which writes to the ClickHouse server
    DIR/proxy-n1/settings.json, proxy-n2       the nodes, with the vendors' real credentials
    DIR/nats.env, clickhouse.env               the servers' passwords, for their environment
    DIR/compose.env                            who owns these files: `docker compose --env-file DIR/compose.env up`
    DIR/operator-token                         the first operator's

All are for their owner alone. What was generated before is kept, so that the command can be repeated after a change
of the configuration; `docker compose kill -s HUP proxy-n1` then makes a node read its credentials again. (So each has
a directory, which is what is mounted: a file that is replaced would stay the old one inside.)
"""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from controlplane.cli.check import read_settings
from controlplane.process_settings import AuditProcess, ClickHouseAccess, ControlProcess
from controlplane.up.datadir import PRIVATE_DIR, write_private
from controlplane.up.nats.blocks import ROUTE_USER, route_urls
from controlplane.up.nats.config import CONTROL_USER
from events import subjects
from events.messaging.credentials import CONTROL_INBOX, NatsCredentials
from schemas.config import settings_from_env
from schemas.ids import TOKEN_BYTES, operator_token, token_sha256
from schemas.settings import Settings

NATS_HOSTS = ("nats-1", "nats-2", "nats-3")
CONTROL_HOSTS = ("control-1", "control-2")
SLOTS = ("n1", "n2")
CLICKHOUSE_HOST = "clickhouse"

NATS_PORT = 4222
ROUTE_PORT = 6222
PROXY_PORT = 8080
CONTROL_PORT = 8081
AUDIT_PORT = 8082
CLICKHOUSE_PORT = 8123

RUN = "/run/ringfence"
DATA = "/var/lib/ringfence"

EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - a container's own network


class Vault:
    """Generated secrets, kept in one file of the directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "secrets.json"
        try:
            self._known: dict[str, str] = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            self._known = {}

    def take(self, name: str, make: Callable[[], str]) -> str:
        """The secret of that name; made the first time."""
        if name not in self._known:
            self._known[name] = make()
            write_private(self._path, msgspec.json.encode(self._known))
        return self._known[name]

    def password(self, name: str) -> str:
        # A letter first: nats-server reads a bare number as a number.
        return self.take(name, lambda: "p" + secrets.token_hex(24))


def write_files(directory: Path, settings: Settings) -> None:
    """Write or renew all files. Raises OSError."""
    directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    vault = Vault(directory)
    token = vault.take("operator", lambda: operator_token(secrets.token_bytes(TOKEN_BYTES)))
    files: dict[str, bytes] = {
        "operator-token": f"{token}\n".encode(),
        "nats.env": _env(_nats_variables(vault)),
        "clickhouse.env": _env(
            {"CLICKHOUSE_USER": "ringfence", "CLICKHOUSE_PASSWORD": vault.password("clickhouse")}
            | {"CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT": "1"}
        ),
        "compose.env": _env(
            {"RINGFENCE_PRIVATE": str(directory.resolve())}
            | {"RINGFENCE_UID": str(os.getuid()), "RINGFENCE_GID": str(os.getgid())}
        ),
        "audit/settings.json": msgspec.json.encode(_audit(vault)),
    }
    for host in CONTROL_HOSTS:
        files[f"{host}/settings.json"] = msgspec.json.encode(_control(host, vault, settings, token_sha256(token)))
    for slot in SLOTS:
        files[f"proxy-{slot}/settings.json"] = msgspec.json.encode(_proxy(slot, vault, settings))
    for name, content in files.items():
        (directory / name).parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        write_private(directory / name, content)


def _nats_variables(vault: Vault) -> dict[str, str]:
    """Of every server alike; its name is in docker-compose.yaml."""
    users = (CONTROL_USER, *(f"n{number}" for number in range(1, 9)))  # the slots of compose/nats-cluster.conf
    routes = [f"{host}:{ROUTE_PORT}" for host in NATS_HOSTS]
    word = vault.password(ROUTE_USER)
    passwords = {f"RF_NATS_{user}": vault.password(user) for user in users}
    return {**passwords, "RF_NATS_route": word, "RF_NATS_routes": route_urls(word, routes)}


def _env(variables: dict[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in variables.items()).encode()


def _nats(vault: Vault, user: str, inbox: str, slot: str = "") -> NatsCredentials:
    servers = tuple(f"nats://{host}:{NATS_PORT}" for host in NATS_HOSTS)
    return NatsCredentials(servers=servers, user=user, password=vault.password(user), inbox_prefix=inbox, slot=slot)


def _clickhouse(vault: Vault) -> ClickHouseAccess:
    return ClickHouseAccess(
        host=CLICKHOUSE_HOST, port=CLICKHOUSE_PORT, user="ringfence", password=vault.password("clickhouse")
    )


def _control(host: str, vault: Vault, settings: Settings, digest: str) -> ControlProcess:
    # The control plane knows which upstreams there are, and none of their credentials.
    bare = {name: msgspec.structs.replace(upstream, credential="") for name, upstream in settings.upstreams.items()}
    return ControlProcess(
        settings=msgspec.structs.replace(settings, upstreams=bare),
        nats=_nats(vault, CONTROL_USER, CONTROL_INBOX),
        clickhouse=_clickhouse(vault),
        host=EVERY_INTERFACE,
        port=CONTROL_PORT,
        advertise_url=f"http://{host}:{CONTROL_PORT}",
        data_dir=f"{DATA}/control",
        ready_mark=f"{RUN}/control.ready",
        bootstrap_token_sha256=digest,
        replicas=3,
    )


def _audit(vault: Vault) -> AuditProcess:
    return AuditProcess(
        nats=_nats(vault, CONTROL_USER, CONTROL_INBOX),
        clickhouse=_clickhouse(vault),
        embedded_path="",
        ready_mark=f"{RUN}/audit.ready",
        http_host=EVERY_INTERFACE,
        http_port=AUDIT_PORT,
        replicas=3,
    )


def _proxy(slot: str, vault: Vault, settings: Settings) -> dict[str, object]:
    """A node's settings: the planes do not import each other, so by their names alone."""
    return {
        "settings": settings,
        "nats": _nats(vault, slot, subjects.inbox_prefix(slot), slot),
        "host": EVERY_INTERFACE,
        "port": PROXY_PORT,
        "ready_mark": f"{RUN}/proxy.ready",
    }


@click.command()
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Else vendors' variables, such as OPENAI_API_KEY."
)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def main(directory: Path, config: Path | None) -> None:
    """Write settings and secrets for compose/docker-compose.yaml into DIRECTORY."""
    settings = read_settings(config) if config is not None else settings_from_env(os.environ)
    write_files(directory, settings)
    sys.stdout.write(f"docker compose -f compose/docker-compose.yaml --env-file {directory}/compose.env up --build\n")


if __name__ == "__main__":
    main()
