"""Ports: one that several processes will share, and free ones for children."""

import socket


class PortTaken(Exception):
    """The port cannot be had; the message names it."""


class PortReservation:
    """A socket bound to a port, which its processes listen on one after the other; they get a copy of it.

    The kernel spreads connections over listening sockets only, so holding it costs no connection before the first
    process listens. `shared`: others of ours have the port too.
    """

    def __init__(self, host: str, port: int, *, shared: bool = False) -> None:
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if port and not shared and _listening(family, host, port):
            raise PortTaken(f"port {port} of {host} is in use")
        self._socket = _bound(family, host, port)
        self.port = int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._socket.fileno()

    def renew(self) -> None:
        """Take another socket on the same port: what waits on the old one is reset, and may come again."""
        fresh = _bound(self._socket.family, self._host, self.port)
        self._socket.close()
        self._socket = fresh

    def close(self) -> None:
        self._socket.close()


def _bound(family: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise PortTaken(f"port {port} of {host} cannot be had ({error.strerror})") from None
    return made


def _listening(family: socket.AddressFamily, host: str, port: int) -> bool:
    """Whether somebody else has the port. With SO_REUSEPORT alone, a second gateway would share it silently."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_pair(host: str = "127.0.0.1") -> int:
    """A free port whose successor is free too."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind((host, 0))
            port = int(first.getsockname()[1])
            try:
                second.bind((host, port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise PortTaken("no two neighbouring ports are free")


def url_host(host: str) -> str:
    """A listening address as it stands in a URL that a person can paste."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
