"""What a proxy process is started with: a JSON file (0600) whose path is on its command line.

Credentials stand in this file and nowhere else: not in arguments, not in the environment of the process. It is read
again at SIGHUP.
"""

from pathlib import Path

import msgspec

from events.messaging.credentials import NatsCredentials
from schemas.ids import is_slot
from schemas.settings import Settings
from schemas.tls import TlsServer


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node. Its slot is the one that its NATS credentials belong to."""

    settings: Settings
    nats: NatsCredentials
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one, told by the ready mark. Several workers may share a port."""
    own_host: str = "127.0.0.1"
    own_port: int | None = None
    """Where this node alone shows /healthz, /readyz and /metrics; on a shared port any of the workers answers. 0: any
    free one, told by the ready mark. None: on the shared port only."""
    tls: TlsServer | None = None
    """For clients; None: plain HTTP. With several workers on a port, all have it or none."""
    ready_mark: str = ""
    """A file to write, as JSON with pid and port, once requests are admitted; empty: none."""
    parent_pid: int = 0
    """The supervisor; when it has gone the process ends. 0: none."""

    def __repr__(self) -> str:
        """Without anything that could hold a credential."""
        return f"NodeSettings(slot={self.nats.slot!r}, host={self.host!r}, port={self.port})"


class SettingsError(ValueError):
    """The file cannot be used; the message quotes none of its values."""


def read_settings(path: Path, slot: str = "") -> NodeSettings:
    """Read the file. `slot`: what the command line says, "" for nothing. Raises SettingsError."""
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=NodeSettings)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path} is not a node's settings file: {error}") from None
    except msgspec.DecodeError:
        raise SettingsError(f"{path} is not JSON") from None
    if not is_slot(settings.nats.slot):
        raise SettingsError(f"{path}: the NATS credentials belong to no node's slot (n1, n2, ...)")
    if slot and slot != settings.nats.slot:
        raise SettingsError(f"--slot {slot} is not the slot of the NATS credentials in {path}")
    return settings
