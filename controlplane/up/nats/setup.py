"""The files of an embedded nats-server, and the credentials of those who may sign in.

    DIR/nats.conf        the configuration, without passwords
    DIR/passwords.conf   one generated password a user, included by it
    DIR/limits.json      how much disk the logs may take, chosen once
    DIR/jetstream/       the streams
    DIR/nats.log

All files are for their owner alone. Passwords and limits are kept over restarts; the rest is made anew.
"""

import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.up.datadir import PRIVATE_DIR, write_private
from controlplane.up.nats.config import CONTROL_USER, ServerPlan, quote, render
from controlplane.up.nats.limits import StreamLimits, choose_limits
from events import subjects
from events.messaging.credentials import CONTROL_INBOX, NatsCredentials, encode_credentials

DEFAULT_SLOTS = tuple(f"n{number}" for number in range(1, 65))
"""As many nodes as one machine or a small cluster has; the server's cost of an unused slot is some 10 KB."""

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

    def control(self, url: str) -> NatsCredentials:
        """The control plane's and the audit's credential; `url` is where the server listens."""
        return NatsCredentials(
            servers=(url,),
            user=CONTROL_USER,
            password=self._passwords[CONTROL_USER],
            inbox_prefix=CONTROL_INBOX,
        )

    def node(self, slot: str, url: str) -> NatsCredentials:
        """One slot's credential. Raises KeyError for a slot that was not asked for."""
        return NatsCredentials(
            servers=(url,),
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
) -> NatsSetup:
    """Write what the server needs into `directory`, keeping passwords and limits of an earlier start.

    `limits` overrides the choice by free disk (tests). Raises OSError; ValueError for a slot's name or a
    path that cannot stand in a configuration, and for kept files that cannot be read.
    """
    directory = directory.resolve()
    directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    log = log or directory / "nats.log"
    for slot in slots:
        if subjects.check_token(slot) == CONTROL_USER:
            raise ValueError(f"a slot cannot be called {slot!r}: that is the control plane's user")
    passwords = _keep_passwords(directory / "passwords.conf", [CONTROL_USER, *slots])
    limits = _keep_limits(directory / "limits.json", directory, limits)
    plan = ServerPlan(
        slots=slots,
        host=host,
        port=port,
        store_dir=str(directory / "jetstream"),
        max_file_store_bytes=limits.store_bytes,
        password=lambda user: f"${_variable(user)}",
        log_file=str(log),
        include="passwords.conf",
    )
    config = write_private(directory / "nats.conf", render(plan).encode())
    return NatsSetup(directory, config, log, tuple(slots), limits, passwords)


def write_credentials(path: Path, credentials: NatsCredentials) -> Path:
    """Hand a credential to a process, by a file that its owner alone may read."""
    return write_private(path, encode_credentials(credentials))


def _variable(user: str) -> str:
    return f"RF_NATS_{user}"


def _keep_passwords(path: Path, users: Sequence[str]) -> dict[str, str]:
    try:
        kept = dict(_PASSWORD_LINE.findall(path.read_text()))
    except FileNotFoundError:
        kept = {}
    # A letter first: the server reads a bare number or a date as something else than a string.
    passwords = {user: kept.get(user) or "p" + secrets.token_hex(24) for user in users}
    text = "".join(f"{_variable(user)}: {quote(word)}\n" for user, word in passwords.items())
    write_private(path, text.encode())
    return passwords


def _keep_limits(path: Path, directory: Path, wanted: StreamLimits | None) -> StreamLimits:
    try:
        kept = StreamLimits(**json.loads(path.read_text()))
    except FileNotFoundError:
        kept = None
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not what was written there; restore it or remove it") from None
    if wanted is None:
        held = kept.control_bytes + kept.nodes_bytes if kept is not None else 0
        # What the streams hold already is theirs; counting it as free keeps the choice steady.
        wanted = choose_limits(shutil.disk_usage(directory).free + min(held, _size(directory)), kept)
    write_private(path, json.dumps(wanted._asdict()).encode())
    return wanted


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a server that is just ending tidies up
            total += path.stat().st_size if path.is_file() else 0
    return total
