"""How one process signs in to NATS: a small file, readable by its owner alone."""

import msgspec

from schemas.tls import TlsClient

CONTROL_INBOX = "_INBOX_control"
"""Inbox prefix of the control plane and the audit; they share an account, in which nothing is hidden."""

NODE_PAYLOAD_BYTES = 2 << 20
"""What a slot's account may send in one message: a batch of its log has 1 MiB (`events.log.group.WriterSettings`).

The server cuts off who sends more, so clients must know it: it announces only its own limit (8 MiB)."""


class NatsCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """One user of the NATS server. `slot` is empty for the control account's user."""

    servers: tuple[str, ...]
    """`nats://host:port`, without user or password."""
    user: str
    password: str
    inbox_prefix: str
    slot: str = ""
    tls: TlsClient | None = None
    """None: in the clear. With it, a server that does not speak TLS is refused."""

    def __repr__(self) -> str:
        return f"NatsCredentials(user={self.user!r}, servers={self.servers!r}, password=<hidden>)"


def encode_credentials(credentials: NatsCredentials) -> bytes:
    """Return the file's content. It holds a password: mode 0600."""
    return msgspec.json.encode(credentials)


def decode_credentials(data: bytes) -> NatsCredentials:
    """Read the file's content back.

    Raises ValueError, which never quotes the content.
    """
    try:
        return msgspec.json.decode(data, type=NatsCredentials)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a NATS credentials file: {type(error).__name__}") from None
