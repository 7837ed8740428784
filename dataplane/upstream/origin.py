"""Where requests go: scheme, host and port, the key of everything that is kept per destination."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme (`http` or `https`), host in lower case (an IPv6 address without brackets) and port.

    A named tuple rather than a dataclass: it is hashed and compared for every request, and tuples do that in C.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> tuple[Origin, str]:
        """Split a base URL into its origin and its path prefix (`""` or `"/v2"`, never with a final slash).

        Raises ValueError for anything that is not plainly an origin with a prefix. The message never repeats the
        URL, which may hold a password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("a base URL starts with http:// or https://")
        if "@" in parts.netloc:
            raise ValueError("a base URL holds no user name or password; use `credential`")
        if parts.query or parts.fragment or "?" in url or "#" in url:
            raise ValueError("a base URL holds no query and no fragment")
        host = _ascii_host(parts.hostname or "")
        if not parts.path.isascii() or any(c <= " " or c in "\\\x7f" for c in parts.path):
            raise ValueError("the path of a base URL is plain ASCII without spaces")
        try:
            port = parts.port
        except ValueError:
            raise ValueError("the port of a base URL is a number from 1 to 65535") from None
        if port == 0:
            raise ValueError("the port of a base URL is a number from 1 to 65535")
        return cls(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]), parts.path.rstrip("/")

    @property
    def authority(self) -> bytes:
        """The value of the Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def _ascii_host(host: str) -> str:
    """The host as it goes on the wire; names beyond ASCII in their IDNA form."""
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host of a base URL is not a valid name") from None
    if not ascii_host or any(not (c.isalnum() or c in ".-_:%") for c in ascii_host):
        raise ValueError("a base URL needs a valid host")
    return ascii_host
