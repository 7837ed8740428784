"""Certificates of an authority that lives for one test, as files."""

from pathlib import Path

import trustme

from controlplane.up.nats.blocks import TlsFiles
from schemas.tls import TlsClient, TlsServer


class Authority:
    """Signs for 127.0.0.1 and localhost."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self.ca_file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)
        self.server_cert, self.server_key = self.issue("server")
        self.client_cert, self.client_key = self.issue("client")

    def issue(self, name: str, *hosts: str) -> tuple[str, str]:
        """A certificate and its key; again under the same name, the files are replaced."""
        made = self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")), common_name=name)
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        key.write_bytes(made.private_key_pem.bytes())
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return str(cert), str(key)

    def nats(self, *, verify: bool = True) -> TlsFiles:
        return TlsFiles(self.server_cert, self.server_key, self.ca_file, verify=verify)

    def server(self, *, verify: bool = False) -> TlsServer:
        client_ca = self.ca_file if verify else ""
        return TlsServer(cert_file=self.server_cert, key_file=self.server_key, client_ca_file=client_ca)

    def client(self, *, with_certificate: bool = True) -> TlsClient:
        if not with_certificate:
            return TlsClient(ca_file=self.ca_file)
        return TlsClient(ca_file=self.ca_file, cert_file=self.client_cert, key_file=self.client_key)
