"""Where certificates lie: for who connects, and for who listens. Paths in PEM format, read again at SIGHUP."""

import msgspec


class TlsClient(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client speaks TLS. Everything empty is right where a public authority signed the server's certificate."""

    ca_file: str = ""
    """Who must have signed the server's certificate; empty: the authorities that the system trusts."""
    cert_file: str = ""
    """The client's own certificate with its chain, and its key, for servers that ask for one."""
    key_file: str = ""
    server_name: str = ""
    """The name that the server's certificate must bear; empty: the one in its address."""


class TlsServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a listener speaks TLS (1.2 or later, and nothing else on that port)."""

    cert_file: str
    """The certificate, with its chain."""
    key_file: str
    client_ca_file: str = ""
    """Who must have signed the certificates of clients; empty: clients need none."""
