"""What each process of the control side is started with: a JSON file (0600) whose path is on its command line.

Secrets stand in these files and nowhere else: not in arguments, not in the environment of child processes.
"""

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from events.messaging.credentials import NatsCredentials
from schemas.settings import Settings
from schemas.tls import TlsClient, TlsServer

T = TypeVar("T")


class ClickHouseAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process reaches ClickHouse's HTTP interface."""

    host: str
    port: int
    user: str
    password: str
    tls: TlsClient | None = None
    """None: plain HTTP. What `ca_file` names is trusted besides the system's authorities."""

    def __repr__(self) -> str:
        """Without the password."""
        return f"ClickHouseAccess({self.host}:{self.port}, user={self.user!r})"


class ControlProcess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control plane. `bootstrap_token_sha256`: an admin operator is recorded for it if there is none yet."""

    settings: Settings
    nats: NatsCredentials
    clickhouse: ClickHouseAccess
    host: str
    port: int
    data_dir: str
    ready_mark: str
    bootstrap_token_sha256: str = ""
    advertise_url: str = ""
    """Where other control planes reach this one's API; empty: by `host` and `port`, as on one machine."""
    control_stream_bytes: int = 0
    """Size of the control log's stream, made if missing. 0: the default."""
    nodes_stream_bytes: int = 0
    replicas: Literal[1, 3] = 1
    """Copies of each log stream, on as many NATS servers. Raised on a running stream, never lowered."""
    tls: TlsServer | None = None
    """For the HTTP API; None: plain HTTP."""
    peer_tls: TlsClient | None = None
    """How a standby speaks to the leader, where the API has TLS; None: by the authorities that the system trusts."""
    parent_pid: int = 0
    """The supervisor; when it has gone the process ends. 0: none."""


class AuditProcess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The audit writer and, embedded, its ClickHouse.

    `embedded_path`: directory of the chDB that this process serves at `clickhouse.port` (0: any free one, told by
    the ready mark); empty: `clickhouse` names a server elsewhere.
    """

    nats: NatsCredentials
    clickhouse: ClickHouseAccess
    embedded_path: str
    ready_mark: str
    http_host: str = "127.0.0.1"
    http_port: int = 0
    """Where this process shows its own /healthz, /readyz and /metrics. 0: any free port, told by the ready mark."""
    control_stream_bytes: int = 0
    nodes_stream_bytes: int = 0
    replicas: Literal[1, 3] = 1
    """Copies of each log stream, on as many NATS servers. Raised on a running stream, never lowered."""
    tls: TlsServer | None = None
    """For the embedded ClickHouse's endpoint; None: plain HTTP. This process's own client checks it by
    `clickhouse.tls`."""
    parent_pid: int = 0


def read_process_settings(path: Path, kind: type[T]) -> T:
    """Decode one of these files. Raises OSError or ValueError, whose text quotes no values."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is not a settings file of this version: {error}") from None
