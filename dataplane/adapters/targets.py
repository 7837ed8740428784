"""Where an upstream is: the origin to connect to, and the path prefix that its base URL adds."""

from typing import NamedTuple
from urllib.parse import urlsplit


class Base(NamedTuple):
    """A base URL in two parts: `https://host[:port]`, and a prefix that is empty or begins with '/'."""

    origin: str
    prefix: str


class BaseUrlError(ValueError):
    """A configured base URL cannot be used; the message says why and what to write."""


def split_base(url: str) -> Base:
    """The parts of a base URL. Raises BaseUrlError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BaseUrlError(f"base_url is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BaseUrlError("base_url begins with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise BaseUrlError("base_url has no credential, query or fragment: the credential has its own setting")
    prefix = parts.path.rstrip("/")
    if not prefix.isascii() or "//" in prefix or "/../" in f"{prefix}/" or "/./" in f"{prefix}/":
        raise BaseUrlError("base_url's path has no empty or dot segments")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Base(f"{parts.scheme}://{host}" + (f":{port}" if port is not None else ""), prefix)


def target(prefix: str, path: str, query: bytes) -> bytes:
    """Request target: prefix, path as it came, and the query without credentials."""
    whole = (prefix + path).encode("latin-1")
    return whole + b"?" + query if query else whole
