"""TLS contexts from files, which can be read again while connections go on.

A context is made once and kept, since listeners and clients hold on to it; `renew` loads the files into the same
context, and handshakes from then on use them. Files that do not fit together are refused before anything changes:
they are tried in a context of their own first.

What cannot be taken back in a running process is an authority: one that is read again is trusted *in addition*. To
withdraw one, restart the process.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from schemas.tls import TlsClient, TlsServer


class TlsUnusable(ValueError):
    """The files cannot be used. The message names them, and quotes nothing of what they hold."""


class TlsContext:
    """A context and the files that it comes from."""

    def __init__(self, make: Callable[[], ssl.SSLContext], fill: Callable[[ssl.SSLContext], None]) -> None:
        self._make = make
        self._fill = fill
        self.ssl = make()
        fill(self.ssl)

    def renew(self) -> None:
        """Read the files again. Raises TlsUnusable, and changes nothing then."""
        self._fill(self._make())
        self._fill(self.ssl)


def server_tls(files: TlsServer) -> TlsContext:
    """For a listener. Raises TlsUnusable."""

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if files.client_ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def fill(context: ssl.SSLContext) -> None:
        _load_pair(context, files.cert_file, files.key_file)
        if files.client_ca_file:
            _load_authority(context, files.client_ca_file)

    return TlsContext(make, fill)


def client_tls(files: TlsClient, *, alpn: bool = False) -> TlsContext:
    """For a client: certificate and name of the server are always checked. `alpn`: offer HTTP/1.1, and nothing else.

    Raises TlsUnusable.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if alpn:
            context.set_alpn_protocols(["http/1.1"])
        return context

    def fill(context: ssl.SSLContext) -> None:
        if files.ca_file:
            _load_authority(context, files.ca_file)
        else:
            context.load_default_certs()
        if files.cert_file or files.key_file:
            _load_pair(context, files.cert_file, files.key_file)

    return TlsContext(make, fill)


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    if not cert_file or not key_file:
        raise TlsUnusable("TLS: a certificate needs its key, and a key its certificate (cert_file, key_file)")
    for path in (cert_file, key_file):
        _check_readable(path)
    try:
        # An encrypted key would make the library ask at the terminal; nobody sits there.
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"TLS: {cert_file} and {key_file} cannot be used: {_reason(error)}") from None


def _load_authority(context: ssl.SSLContext, ca_file: str) -> None:
    _check_readable(ca_file)
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"TLS: {ca_file} cannot be used: {_reason(error)}") from None


def _check_readable(path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise TlsUnusable(f"TLS: {path} cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not, in a file that only its owner may read")


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
