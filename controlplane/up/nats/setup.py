"""The files of an embedded nats-server, and the credentials of those who may sign in.

    DIR/nats.conf        the configuration, without passwords
    DIR/passwords.conf   one generated password a user, included by it
    DIR/limits.json      how much disk the logs may take, chosen once
    DIR/jetstream/       the streams
    DIR/nats.log

A cluster's servers share passwords.conf and limits.json in DIR; each has the rest in DIR/s1, DIR/s2, DIR/s3.
A stand-alone server's streams cannot be put into a cluster by copying: a cluster deletes streams that its servers
have not agreed on. So a directory serves the number of servers that it was begun with, and refuses another.

All files are for their owner alone. Passwords and limits are kept over restarts; the rest is made anew.
"""

import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from controlplane.up.datadir import PRIVATE_DIR, write_private
from controlplane.up.nats.blocks import ROUTE_USER, ClusterPlan, TlsFiles, quote, route_urls
from controlplane.up.nats.config import CONTROL_USER, ServerPlan, render
from controlplane.up.nats.limits import StreamLimits, choose_limits
from events import subjects
from events.messaging.credentials import CONTROL_INBOX, NatsCredentials, encode_credentials

DEFAULT_SLOTS = tuple(f"n{number}" for number in range(1, 65))
"""As many nodes as one machine or a small cluster has; the server's cost of an unused slot is some 10 KB."""

CLUSTER_SIZE = 3
"""Two of three must agree; one may be lost. Five would wait for three disks at every append."""

_ROUTES = "RF_NATS_routes"
_PASSWORD_LINE = re.compile(r'RF_NATS_(\S+): "([^"]+)"')


@dataclass(frozen=True, slots=True)
class NatsSetup:
    """A configured server that can be started. The passwords show in no `repr`."""

    directory: Path
    config: Path
    log: Path
    slots: tuple[str, ...]
    limits: StreamLimits
    _passwords: dict[str, str] = field(repr=False)

    def control(self, *urls: str) -> NatsCredentials:
        """The control plane's and the audit's credential; `urls` are where the servers listen."""
        return NatsCredentials(
            servers=urls,
            user=CONTROL_USER,
            password=self._passwords[CONTROL_USER],
            inbox_prefix=CONTROL_INBOX,
        )

    def node(self, slot: str, *urls: str) -> NatsCredentials:
        """One slot's credential. Raises KeyError for a slot that was not asked for."""
        return NatsCredentials(
            servers=urls,
            user=slot,
            password=self._passwords[slot],
            inbox_prefix=subjects.inbox_prefix(slot),
            slot=slot,
        )


def write_config(
    directory: Path,
    *,
    slots: Sequence[str] = DEFAULT_SLOTS,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: StreamLimits | None = None,
    log: Path | None = None,
    tls: TlsFiles | None = None,
) -> NatsSetup:
    """Write what one server needs into `directory`, keeping passwords and limits of an earlier start.

    `limits` overrides the choice by free disk (tests). Raises OSError; ValueError for a slot's name or a
    path that cannot stand in a configuration, for kept files that cannot be read, and for a cluster's directory.
    """
    directory = _open_directory(directory, slots)
    if (directory / _member(1)).exists():
        raise ValueError(f"{directory} holds the logs of {CLUSTER_SIZE} NATS servers: start as many as before")
    passwords = _keep_passwords(directory / "passwords.conf", [CONTROL_USER, *slots])
    limits = _keep_limits(directory / "limits.json", directory, limits)
    plan = _plan(directory, log or directory / "nats.log", slots, host, port, limits, tls)
    return _write_server(directory, plan, limits, passwords)


def write_cluster(
    directory: Path,
    addresses: Sequence[tuple[int, int]],
    *,
    slots: Sequence[str] = DEFAULT_SLOTS,
    host: str = "127.0.0.1",
    limits: StreamLimits | None = None,
    log: Path | None = None,
    tls: TlsFiles | None = None,
    route_tls: TlsFiles | None = None,
) -> tuple[NatsSetup, ...]:
    """Write what three servers on one machine need. `addresses`: (client port, route port) of each.

    As `write_config` otherwise; `log` is the first server's, the others' lie beside it with their numbers.
    """
    directory = _open_directory(directory, slots)
    if (directory / "jetstream").exists():
        raise ValueError(f"{directory} holds the logs of one NATS server: start as many as before")
    routes = [f"{host}:{route}" for _, route in addresses]
    passwords = _keep_passwords(directory / "passwords.conf", [CONTROL_USER, ROUTE_USER, *slots], routes)
    limits = _keep_limits(directory / "limits.json", directory, limits, shares=len(addresses))
    log = log or directory / "nats.log"
    setups = []
    for number, (port, route) in enumerate(addresses, start=1):
        member = directory / _member(number)
        member.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        plan = _plan(member, log.with_stem(f"{log.stem}-{number}"), slots, host, port, limits, tls)
        cluster = ClusterPlan(host, route, f"${_ROUTES}", f"${_variable(ROUTE_USER)}", route_tls)
        plan = replace(plan, include="../passwords.conf", server_name=f"ringfence-{number}", cluster=cluster)
        setups.append(_write_server(member, plan, limits, passwords))
    return tuple(setups)


def _member(number: int) -> str:
    return f"s{number}"


def _open_directory(directory: Path, slots: Sequence[str]) -> Path:
    directory = directory.resolve()
    directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    for slot in slots:
        if subjects.check_token(slot) in {CONTROL_USER, ROUTE_USER, "routes"}:
            raise ValueError(f"a slot cannot be called {slot!r}: that name has a meaning of its own")
    return directory


def _plan(
    directory: Path,
    log: Path,
    slots: Sequence[str],
    host: str,
    port: int,
    limits: StreamLimits,
    tls: TlsFiles | None,
) -> ServerPlan:
    return ServerPlan(
        slots=slots,
        host=host,
        port=port,
        store_dir=str(directory / "jetstream"),
        max_file_store_bytes=limits.store_bytes,
        password=lambda user: f"${_variable(user)}",
        log_file=str(log),
        include="passwords.conf",
        tls=tls,
    )


def _write_server(directory: Path, plan: ServerPlan, limits: StreamLimits, passwords: dict[str, str]) -> NatsSetup:
    config = write_private(directory / "nats.conf", render(plan).encode())
    return NatsSetup(directory, config, Path(plan.log_file), tuple(plan.slots), limits, passwords)


def write_credentials(path: Path, credentials: NatsCredentials) -> Path:
    """Hand a credential to a process, by a file that its owner alone may read."""
    return write_private(path, encode_credentials(credentials))


def _variable(user: str) -> str:
    return f"RF_NATS_{user}"


def _keep_passwords(path: Path, users: Sequence[str], routes: Sequence[str] = ()) -> dict[str, str]:
    try:
        kept = dict(_PASSWORD_LINE.findall(path.read_text()))
    except FileNotFoundError:
        kept = {}
    # A letter first: the server reads a bare number or a date as something else than a string.
    passwords = {user: kept.get(user) or "p" + secrets.token_hex(24) for user in users}
    text = "".join(f"{_variable(user)}: {quote(word)}\n" for user, word in passwords.items())
    if routes:
        text += f"{_ROUTES}: {route_urls(passwords[ROUTE_USER], routes)}\n"
    write_private(path, text.encode())
    return passwords


def _keep_limits(path: Path, directory: Path, wanted: StreamLimits | None, *, shares: int = 1) -> StreamLimits:
    """`shares`: servers that keep a copy each on this disk."""
    try:
        kept = StreamLimits(**json.loads(path.read_text()))
    except FileNotFoundError:
        kept = None
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not what was written there; restore it or remove it") from None
    if wanted is None:
        held = shares * (kept.control_bytes + kept.nodes_bytes) if kept is not None else 0
        # What the streams hold already is theirs; counting it as free keeps the choice steady.
        available = shutil.disk_usage(directory).free + min(held, _size(directory))
        wanted = choose_limits(available // shares, kept)
    write_private(path, json.dumps(wanted._asdict()).encode())
    return wanted


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a server that is just ending tidies up
            total += path.stat().st_size if path.is_file() else 0
    return total
